"""Small untrained CLIPs with every kind of tower, built without files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import open_clip
import torch
from timm.models import register_model
from timm.models.eva import (
    eva02_base_patch16_clip_224,
    vit_pe_core_tiny_patch16_384,
    vit_small_patch16_dinov3,
    vit_small_patch16_rope_mixed_224,
)
from timm.models.fastvit import fastvit_mci0
from timm.models.swin_transformer import swin_tiny_patch4_window7_224
from timm.models.vision_transformer import _create_vision_transformer
from torch import Tensor, nn

from trainables.models.clip import Clip

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
PROMPTS = torch.randint(1, 63, (2, 5, 8), generator=torch.Generator().manual_seed(3))
IMAGES = torch.randint(0, 256, (6, 384, 384, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)


@register_model
def sweeper_tiny_siglip(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    arguments = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}
    arguments |= {"class_token": False, "global_pool": "map"}
    return _create_vision_transformer("test_vit", pretrained=pretrained, **{**arguments, **kwargs})


SMALL_EVA = {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 2}


@register_model
def sweeper_tiny_eva(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return eva02_base_patch16_clip_224(pretrained, **{**SMALL_EVA, **kwargs})


@register_model
def sweeper_tiny_pe(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return vit_pe_core_tiny_patch16_384(pretrained, **{**SMALL_EVA, "attn_pool_num_heads": 2, **kwargs})


@register_model
def sweeper_tiny_dinov3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """An Eva for images of any size, with rotary embeddings computed anew in each pass."""
    return vit_small_patch16_dinov3(pretrained, **{**SMALL_EVA, **kwargs})


@register_model
def sweeper_tiny_mixed(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """An Eva with other rotary embeddings in each block, which are trained."""
    return vit_small_patch16_rope_mixed_224(pretrained, **{**SMALL_EVA, **kwargs})


@register_model
def sweeper_tiny_fastvit(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return fastvit_mci0(pretrained, **{"layers": (1, 1, 2, 1), "embed_dims": (16, 16, 32, 32), **kwargs})


@register_model
def sweeper_tiny_swin(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    arguments = {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": (1, 2, 2), "num_heads": (2, 2, 2)}
    return swin_tiny_patch4_window7_224(pretrained, **{**arguments, **kwargs})


def timm_tower(name: str, pool: str = "", proj: str | None = "linear", side: int = 160) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": side}


VIT = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 3, "head_width": 16}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "quick": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True, "custom_text": True},
    "resnet": {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT},
    "siglip": {
        "embed_dim": 24,
        "vision_cfg": timm_tower("sweeper_tiny_siglip", "map", "none", 32),
        "text_cfg": SIGLIP_TEXT,
        "custom_text": True,
        "init_logit_bias": -10.0,
    },
    "siglip without text projection": {
        "embed_dim": 32,
        "vision_cfg": timm_tower("sweeper_tiny_siglip", "map", "linear", 32),
        "text_cfg": {**TEXT, "proj_type": "none"},
        "custom_text": True,
    },
    "timm classifier": {
        "embed_dim": 24,
        "vision_cfg": timm_tower("test_vit", "token", None),
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "eva": {"embed_dim": 24, "vision_cfg": timm_tower("sweeper_tiny_eva", "token", None, 32), "text_cfg": TEXT},
    "pe": {"embed_dim": 24, "vision_cfg": timm_tower("sweeper_tiny_pe", "map", None, 32), "text_cfg": TEXT},
    "dinov3": {"embed_dim": 24, "vision_cfg": timm_tower("sweeper_tiny_dinov3", "token", None, 32), "text_cfg": TEXT},
    "mixed": {"embed_dim": 24, "vision_cfg": timm_tower("sweeper_tiny_mixed", "token", None, 32), "text_cfg": TEXT},
    "fastvit": {"embed_dim": 24, "vision_cfg": timm_tower("sweeper_tiny_fastvit", "avg", None, 64), "text_cfg": TEXT},
    "swin": {"embed_dim": 24, "vision_cfg": timm_tower("sweeper_tiny_swin", side=32), "text_cfg": TEXT},
    "convnext": {"embed_dim": 24, "vision_cfg": timm_tower("test_convnext"), "text_cfg": TEXT},
    "attention pool": {"embed_dim": 24, "vision_cfg": timm_tower("test_convnext", "abs_attn", ""), "text_cfg": TEXT},
    "timm resnet": {"embed_dim": 24, "vision_cfg": timm_tower("test_resnet"), "text_cfg": TEXT},
}


def build(name: str, changes: dict[str, Any] | None = None) -> Clip:
    """An untrained model of ``MODELS``, or of open_clip with its own image tower and a small text tower.

    Its normalisation layers are moved off their neutral start, and queries are so large that attention sees positions.
    """
    config = copy.deepcopy(MODELS[name]) if name in MODELS else open_clip.get_model_config(name)
    if name not in MODELS:
        config["text_cfg"] |= TEXT
    config["vision_cfg"] |= changes or {}
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for key, parameter in model.visual.named_parameters():
            if ".attn.q" in key:
                parameter.mul_(8)
    size = config["vision_cfg"]["image_size"]
    nothing: Callable[..., Any] = lambda *_: None  # noqa: E731
    looks = {"size": size, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    config = {"model_cfg": config, "preprocess_cfg": looks}
    mean = (0.5, 0.5, 0.5)
    return Clip(model, nothing, nothing, size, mean, mean, config["model_cfg"]["embed_dim"], config, None, "")


def images_for(clip: Clip, count: int = 6) -> Tensor:
    return IMAGES[:count, : clip.image_size, : clip.image_size]

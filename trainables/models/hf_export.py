"""A CLIP written as a folder of transformers' ``CLIPModel``, without transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from trainables.models.clip import Clip
from trainables.models.hf_clip import (
    ACTIVATIONS,
    CONFIG_FILE,
    END_OF_TEXT,
    INTERPOLATIONS,
    LAYER_NORM_EPS,
    PROCESSOR_FILE,
    SPECIAL_TOKENS,
    VOCABULARY_FILE,
    VOCABULARY_SIZE,
    WEIGHTS_FILE,
    clip_model_state,
    vocabulary,
)

_STATED = {
    "": {
        "embed_dim",
        "quick_gelu",
        "vision_cfg",
        "text_cfg",
        "custom_text",  # how open_clip names its own text tower's weights
        "init_logit_scale",  # replaced by the weights
        "nonscalar_logit_scale",
    },
    "vision_cfg": {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "patch_dropout"},
    "text_cfg": {"context_length", "vocab_size", "width", "layers", "heads", "mlp_ratio"},
}
"""Keys of open_clip's ``model_cfg`` that ``config.json`` can state, or that do not matter to a trained model."""


def why_no_clip_model(clip: Clip) -> str | None:
    """Return why a ``CLIPModel`` cannot compute what a model computes; None if it can."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    cfg = clip.config["model_cfg"]
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    if vision.get("timm_model_name"):
        return f"its image tower is timm's {vision['timm_model_name']}, and CLIPModel has only CLIP's ViT"
    if not isinstance(vision.get("layers", 12), int):
        return "its image tower is a ResNet, and CLIPModel has only CLIP's ViT"
    if text.get("hf_model_name"):
        return f"its text tower is {text['hf_model_name']}, and CLIPModel has only CLIP's transformer"
    if cfg.get("init_logit_bias") is not None:
        return "its logits have a bias, and those of CLIPModel have none"
    sections: tuple[tuple[str, Mapping[str, Any], dict[str, Any]], ...] = (
        ("", cfg, {}),
        ("vision_cfg", vision, asdict(CLIPVisionCfg())),
        ("text_cfg", text, asdict(CLIPTextCfg())),
    )
    for section, values, defaults in sections:
        for key, value in values.items():
            if key not in _STATED[section] and value != defaults.get(key):
                return f"its {section}{'.' if section else ''}{key} is {value!r}, which CLIPModel cannot state"
    if clip.merges is not None or text.get("vocab_size", VOCABULARY_SIZE) != VOCABULARY_SIZE:
        return "its tokenizer is not CLIP's"
    if not isinstance(vision.get("patch_size", 16), int):
        return f"its patches are not square: vision_cfg.patch_size is {vision['patch_size']}"
    if clip.config["preprocess_cfg"]["resize_mode"] == "longest":
        return "its images are padded to a square (resize_mode longest), which CLIPImageProcessor cannot do"
    return None


def write_clip_model(clip: Clip, state: Mapping[str, Tensor], model_cfg: Mapping[str, Any], folder: Path) -> None:
    """Write configuration, weights, preprocessing and tokenizer.

    Args:
        clip: the model, for its tokenizer and preprocessing; ``why_no_clip_model`` says None of it.
        state: open_clip's names -> weights.
        model_cfg: what builds a model of these weights in open_clip.
        folder: an existing folder.
    """
    from safetensors.torch import save_file

    own_names = {name.removeprefix("text."): value for name, value in state.items()}  # of a ``CustomTextCLIP``
    weights = clip_model_state(own_names, model_cfg)
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})  # transformers refuses files without it
    _write_json(folder / CONFIG_FILE, _config(model_cfg, clip.image_size))
    shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)  # safetensors' are for their owner only
    _write_json(folder / PROCESSOR_FILE, _processor(clip))
    _write_tokenizer(clip.tokenizer, model_cfg["text_cfg"].get("context_length", 77), folder)


def _config(model_cfg: Mapping[str, Any], side: int) -> dict[str, Any]:
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    vision, text = CLIPVisionCfg(**model_cfg["vision_cfg"]), CLIPTextCfg(**model_cfg["text_cfg"])
    quick = bool(model_cfg.get("quick_gelu"))
    common = {
        "hidden_act": next(name for name, is_quick in ACTIVATIONS.items() if is_quick == quick),
        "layer_norm_eps": LAYER_NORM_EPS,
        "projection_dim": model_cfg["embed_dim"],
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model_cfg["embed_dim"],
        "torch_dtype": "float32",
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": int(vision.width * vision.mlp_ratio),
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.width // vision.head_width,
            "num_channels": 3,
            "image_size": side,
            "patch_size": vision.patch_size,
            **common,
        },
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": text.width,
            "intermediate_size": int(text.width * text.mlp_ratio),
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "vocab_size": VOCABULARY_SIZE,
            "bos_token_id": END_OF_TEXT - 1,
            "eos_token_id": END_OF_TEXT,
            "pad_token_id": END_OF_TEXT,
            **common,
        },
    }


def _processor(clip: Clip) -> dict[str, Any]:
    cfg, side = clip.config["preprocess_cfg"], clip.image_size
    square = {"height": side, "width": side}
    squashed = cfg["resize_mode"] == "squash"
    # open_clip evaluates with bicubic unless the name is bilinear ("random" is for training).
    interpolation = "bilinear" if cfg["interpolation"] == "bilinear" else "bicubic"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": square if squashed else {"shortest_edge": side},
        "resample": next(number for number, name in INTERPOLATIONS.items() if name == interpolation),
        "do_center_crop": not squashed,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [float(value) for value in clip.mean],
        "image_std": [float(value) for value in clip.std],
    }


def _write_tokenizer(tokenizer: Any, context_length: int, folder: Path) -> None:
    """Write the files that ``CLIPTokenizer`` reads, from open_clip's ``SimpleTokenizer``."""
    _write_json(folder / VOCABULARY_FILE, vocabulary(tokenizer), indent=None)
    merges = "".join(f"{first} {second}\n" for first, second in tokenizer.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    start, end = SPECIAL_TOKENS.values()
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    _write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, **special}
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(file: Path, content: Any, indent: int | None = 2) -> None:
    file.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")

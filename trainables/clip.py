"""The CLIP that is tuned: loading through open_clip, what its images must look like, its image tower in two parts."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.settings import ModelSettings

OpenClip = Any
"""``open_clip.CLIP`` or ``CustomTextCLIP``: untyped, and without a common class."""
ImageTower = Any
"""Its ``visual``."""

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
MERGES_FILE = "bpe_simple_vocab.txt.gz"


@dataclass(frozen=True)
class Clip:
    """A loaded CLIP in evaluation mode, float32: batch-norm statistics stay frozen, so policy = reference at step 0."""

    model: OpenClip
    tokenizer: Callable[[list[str]], Tensor]
    crop: Callable[[Any], Any]
    """PIL image -> PIL image of the model's size: its own resizing and cropping, without normalisation."""
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    embed_dim: int
    config: dict[str, Any]
    """``open_clip_config.json`` as a folder of this model holds it."""
    merges: Path | None
    """The tokenizer's own merge file, where the model has one."""
    digest: str
    """Of the weights."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.logit_scale.device
        return device

    def pixels(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 on the model's device, normalised."""
        images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        mean = torch.tensor(self.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(3, 1, 1)
        images = images.sub_(mean).div_(std)
        return images.contiguous(
            memory_format=torch.channels_last if self.is_convolutional else torch.contiguous_format
        )

    def tokens(self, prompts: list[str]) -> Tensor:
        """C prompts -> (C, L) token ids on the model's device."""
        return self.tokenizer(prompts).to(self.device)

    @property
    def is_convolutional(self) -> bool:
        return hasattr(self.model.visual, "layer4")

    def to(self, device: torch.device) -> Clip:
        self.model.to(device)
        return self


def load_clip(settings: ModelSettings) -> Clip:
    """Loads model, tokenizer and preprocessing through open_clip, weights always included.

    Raises:
        ValueError: the model or its weights cannot be had, with open_clip's reason.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg

    name = settings.architecture
    if name == "world":
        from trainables.world import WORLD_MODEL_FOLDER

        name = f"local-dir:{WORLD_MODEL_FOLDER}"
    folder = Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None
    merges = folder / MERGES_FILE if folder is not None and (folder / MERGES_FILE).is_file() else None
    logging.getLogger().setLevel(
        max(logging.getLogger().level, logging.WARNING)
    )  # open_clip narrates on the root logger
    try:
        model = open_clip.create_model(
            name,
            pretrained=settings.pretrained,
            force_quick_gelu=bool(settings.quick_gelu),
            require_pretrained=True,
        )
        tokenizer = open_clip.get_tokenizer(name, **({"bpe_path": str(merges)} if merges else {}))
        model_config = open_clip.get_model_config(name)
    except Exception as error:  # open_clip raises RuntimeError, OSError, ValueError, KeyError and hub errors alike
        raise ValueError(f"model {settings.architecture!r} cannot be loaded: {error}") from error
    model = model.float().eval()
    if hasattr(model.visual, "layer4"):
        model.visual.to(memory_format=torch.channels_last)
    preprocess_config = dict(model.visual.preprocess_cfg)
    preprocess = PreprocessCfg(**preprocess_config)
    size = preprocess.size if isinstance(preprocess.size, int) else preprocess.size[0]
    if not isinstance(preprocess.size, int) and len(set(preprocess.size)) != 1:
        raise ValueError(f"model {settings.architecture!r} takes {preprocess.size} images; only square ones are served")
    if settings.quick_gelu:
        model_config["quick_gelu"] = True
    return Clip(
        model=model,
        tokenizer=tokenizer,
        crop=_cropping(preprocess),
        image_size=size,
        mean=tuple(preprocess.mean),
        std=tuple(preprocess.std),
        embed_dim=int(model_config["embed_dim"]),
        config={"model_cfg": model_config, "preprocess_cfg": preprocess_config},
        merges=merges,
        digest=weights_digest(model.state_dict()),
    )


def weights_digest(state: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and values of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def _cropping(preprocess: Any) -> Callable[[Any], Any]:
    from open_clip.transform import image_transform_v2
    from torchvision.transforms import Compose, ToTensor

    steps = image_transform_v2(preprocess, is_train=False).transforms
    geometric = list(steps[: next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))])
    return Compose(geometric)


def split_blocks(visual: ImageTower) -> list[nn.Module] | None:
    """The parts of an image tower that ``last_blocks`` counts, in order; None where the tower is not known.

    ViT: its residual blocks. ResNet: its four stages (attention pooling goes with the last). timm: its ``blocks``.
    """
    if hasattr(visual, "transformer") and hasattr(visual.transformer, "resblocks"):
        return list(visual.transformer.resblocks)
    if hasattr(visual, "layer4"):
        return _stages(visual)
    if hasattr(visual, "trunk") and hasattr(visual.trunk, "blocks"):
        return list(visual.trunk.blocks)
    return None


def _stages(resnet: ImageTower) -> list[nn.Module]:
    return [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]


def last_parameters(visual: ImageTower, blocks: int) -> list[str]:
    """Names of the parameters that ``tune: last_blocks`` trains: the last ``blocks`` blocks and all that follows them.

    Raises:
        ValueError: the tower has fewer blocks, or its blocks are not known.
    """
    parts = split_blocks(visual)
    if parts is None:
        raise ValueError(f"tune last_blocks: the blocks of a {type(visual).__name__} tower are not known; use visual")
    if blocks > len(parts):
        raise ValueError(f"blocks: {blocks} of an image tower that has {len(parts)}")
    tuned = {id(parameter) for part in parts[-blocks:] for parameter in part.parameters()}
    after = [getattr(visual, name, None) for name in ("ln_post", "attn_pool", "attnpool", "head")]
    if hasattr(visual, "trunk"):
        after += [getattr(visual.trunk, name, None) for name in ("norm", "attn_pool", "fc_norm", "head")]
    for module in after:
        if isinstance(module, nn.Module):
            tuned |= {id(parameter) for parameter in module.parameters()}
    if isinstance(getattr(visual, "proj", None), nn.Parameter):
        tuned.add(id(visual.proj))
    return [name for name, parameter in visual.named_parameters() if id(parameter) in tuned]


def can_split(visual: ImageTower) -> bool:
    """Whether ``trunk`` and ``head`` below know this tower (open_clip's own ViT and ResNet)."""
    if hasattr(visual, "layer4"):
        return True
    transformer: Any = getattr(visual, "transformer", None)
    return hasattr(visual, "_embeds") and hasattr(transformer, "resblocks") and bool(transformer.batch_first)


def trunk(visual: ImageTower, pixels: Tensor, blocks: int) -> Any:
    """Activations in front of the last ``blocks`` blocks: (B, tokens, width) of a ViT, (B, C, H, W) of a ResNet."""
    if hasattr(visual, "layer4"):
        x = visual.stem(pixels)
        for stage in _stages(visual)[: len(_stages(visual)) - blocks]:
            x = stage(x)
        return x
    x = visual._embeds(pixels)
    for block in visual.transformer.resblocks[: len(visual.transformer.resblocks) - blocks]:
        x = block(x)
    return x


def head(visual: ImageTower, activations: Tensor, blocks: int) -> Any:
    """The rest of the tower: activations of ``trunk`` -> (B, d) image features."""
    x = activations
    if hasattr(visual, "layer4"):
        for stage in _stages(visual)[len(_stages(visual)) - blocks :]:
            x = stage(x)
        return visual.attnpool(x)
    for block in visual.transformer.resblocks[len(visual.transformer.resblocks) - blocks :]:
        x = block(x)
    pooled, _ = visual._pool(x)
    return pooled if visual.proj is None else pooled @ visual.proj


def read_config(folder: Path) -> dict[str, Any]:
    """``open_clip_config.json`` of a model folder."""
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    return config

"""Small untrained CLIPs as open_clip folders, and small tasks over the generated world, for tests of mechanics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from trainables.context.trial_context import TrialContext
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.settings.typographic import TypographicSettings

TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 3, "head_width": 16},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def write_clip(folder: Path, tower: str, *, embed_dim: int = 24, seed: int = 0) -> Path:
    """Write an untrained CLIP that ``local-dir:`` loads."""
    import open_clip
    from safetensors.torch import save_file

    config = {"embed_dim": embed_dim, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return folder


def write_images(folder: Path, classes: list[str], count: int, *, side: int = 40, seed: int = 0) -> Path:
    """Write noise as ``folder/<class>/<n>.png``."""
    generator = torch.Generator().manual_seed(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / name / f"{i}.png")
    return folder


def world_task(model: Path, **training: Any) -> TaskSettings:
    """64 pairs of the generated world for a model folder; two epochs of four steps unless changed."""
    return TypographicSettings.model_validate(
        {
            "model": {"architecture": f"local-dir:{model}"},
            "sets": {"world": {"kind": "world", "train": 128, "validation": 60, "test": 40}},
            "train": {"set": "world", "classes": 0.5},
            "attack": {"recipe": "sign"},
            "evaluate": {
                "search": {"sets": ["world"]},
                "front": {"strengths": [0.5, 1.0]},
                "test": {"sets": ["world"]},
            },
            "training": {"epochs": 2, "global_batch_size": 16, **training},
        }
    )


def parameters(**changes: Any) -> Parameters:
    """A DPO trial of a full-rank transform, with changes."""
    defaults = {"objective": "dpo", "beta": 1.0, "lambda_reg": 0.5, "tune": "transform", "learning_rate": 0.01}
    merged = {**defaults, **changes}
    if merged["objective"] == "cross_entropy" and "beta" not in changes:
        merged.pop("beta")
    return Parameters.model_validate(merged)


@contextmanager
def memory_for(context: TrialContext, images: int) -> Iterator[list[int]]:
    """Have a ViT's image tower run out of memory above so many images; yields the batch sizes that it ran."""
    sizes: list[int] = []

    def check(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if len(arguments[0]) > images:
            raise torch.OutOfMemoryError("no room")
        sizes.append(len(arguments[0]))

    hook = context.clip.model.visual.ln_post.register_forward_pre_hook(check)
    try:
        yield sizes
    finally:
        hook.remove()

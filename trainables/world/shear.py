"""The generated world's CLIP with a colour whose directions in images and in prompts differ: a construction.

In the shipped model the two directions are nearly parallel (cosine .98), as pretraining makes them, and no W for both
towers can then reverse the colour. Here each tower gets a component of its own along the colour, in a direction that
neither images nor prompts use: images x + c (a . x) u, prompts t + c (a . t) v, with a the colour's direction and
u, v orthogonal to it and to each other. The cosine becomes 1 / (1 + c^2), and logits change by norms only. This
imitates components that live in one modality, which arXiv 2602.06218 reports of real models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.numerics import thread_count
from trainables.world.captions import OBJECT_TEMPLATES
from trainables.world.icons import CLASSES
from trainables.world.pretrain import pixels_of
from trainables.world.scenes import COLOURS, colours, labels, scenes

IMAGES = 400
"""Number of scenes: ten of each class and colour."""
SEED = 20_260_601
"""Seed of the scenes on which directions are measured; no set uses it by default."""


@torch.no_grad()
def shear(model: Any, tokenizer: Any, strength: float) -> None:
    """Fold the two maps into the projections of the world's CLIP, in place.

    Args:
        strength: c.
    """
    with thread_count(1):  # the same weights in every process of a machine
        image_map, text_map = _maps(model, tokenizer, strength)
        projection = model.visual.attnpool.c_proj
        projection.weight.copy_((image_map @ projection.weight.double()).float())
        projection.bias.copy_((image_map @ projection.bias.double()).float())
        model.text_projection.copy_((model.text_projection.double() @ text_map.T).float())


def _maps(model: Any, tokenizer: Any, strength: float) -> tuple[Tensor, Tensor]:
    """Return the maps (d, d) of image and of text embeddings, float64."""
    pixels, _ = scenes("train", SEED, IMAGES)
    batches = [model.encode_image(pixels_of(pixels[i : i + 100]), normalize=True) for i in range(0, IMAGES, 100)]
    images = torch.cat(batches).double()
    template = OBJECT_TEMPLATES[0]
    coloured = [template.format(f"{colour} {name}") for colour in COLOURS for name in CLASSES]
    neutral = [template.format(name) for name in CLASSES]
    prompts = model.encode_text(tokenizer(coloured + neutral), normalize=True).double()
    of_colour, rest = prompts[: len(coloured)].reshape(len(COLOURS), len(CLASSES), -1), prompts[len(coloured) :]
    image_direction = _image_direction(images, labels(IMAGES), colours(IMAGES))
    text_direction = (of_colour[0] - of_colour[1]).mean(0)
    axis = F.normalize(F.normalize(image_direction, dim=0) + F.normalize(text_direction, dim=0), dim=0)
    scaled = [3 * images / len(images) ** 0.5, prompts[: len(coloured)] / len(coloured) ** 0.5, rest / len(rest) ** 0.5]
    used = torch.cat(scaled)
    _, vectors = torch.linalg.eigh(used.T @ used)
    # The two directions of least energy, orthogonal to the colour's and to each other.
    basis, _ = torch.linalg.qr(torch.stack([axis, vectors[:, 0], vectors[:, 1]], dim=1))
    identity = torch.eye(len(axis), dtype=torch.float64)
    return (
        identity + strength * torch.outer(basis[:, 1], axis),
        identity + strength * torch.outer(basis[:, 2], axis),
    )


def _image_direction(images: Tensor, of_class: np.ndarray, of_colour: np.ndarray) -> Tensor:
    """Return (d,): mean over classes of the difference between the mean embeddings of the two colours."""
    differences = []
    for label in range(len(CLASSES)):
        first, second = (images[torch.from_numpy((of_class == label) & (of_colour == colour))] for colour in (0, 1))
        differences.append(first.mean(0) - second.mean(0))
    return torch.stack(differences).mean(0)

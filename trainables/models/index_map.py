"""The matrices of an exported transform for stored embeddings: an index is converted, no image is read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.models.clip import Clip
from trainables.models.towers import OpenClip
from trainables.models.transform import apply_transform
from trainables.models.validity import INDEX_MAP_FILE

INDEX_MAP_TOLERANCE = 1e-5
"""Largest difference, in a component of a normalised embedding, between a converted and a newly encoded embedding."""


@dataclass(frozen=True)
class IndexMap:
    """The W that were folded into an exported model, on the CPU."""

    image: Tensor
    """(width of new embeddings, width of stored embeddings) float32."""
    text: Tensor
    """The same matrix, or another one of this shape with ``towers: separate``."""

    def write(self, folder: Path) -> None:
        """Write ``index_map.npz`` with the arrays ``image`` and ``text``.

        Raises:
            OSError: the file cannot be written.
        """
        np.savez(folder / INDEX_MAP_FILE, image=self.image.numpy(), text=self.text.numpy())


@torch.no_grad()
def largest_map_difference(clip: Clip, index_map: IndexMap, exported: OpenClip, images: Tensor, text: Tensor) -> float:
    """Return the largest difference of a component between converted embeddings and those of the exported model.

    Args:
        clip: the untouched model, whose embeddings are converted.
        exported: the exported model, which encodes again; all embeddings are normalised.
        images: (N, H, W, 3) uint8.
        text: token ids (C, L).
    """
    pixels = clip.pixels(images)
    sides = [
        (index_map.image, clip.model.encode_image(pixels), exported.encode_image(pixels)),
        (index_map.text, clip.model.encode_text(text), exported.encode_text(text)),
    ]
    differences = [
        (apply_transform(w.to(clip.device), F.normalize(old, dim=-1)) - F.normalize(new, dim=-1)).abs().max()
        for w, old, new in sides
    ]
    return float(max(differences))

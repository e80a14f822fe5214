"""The content of a split of an image set, before any image is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Listing:
    """Images of one split in a stable order."""

    keys: tuple[str, ...]
    """Names of the images, which decide their attacks: independent of order, other images and the set's folder."""
    labels: np.ndarray
    """(N,) int64, indices into ``class_names``."""
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    inputs: Any
    """JSON data. Of files: changes when files, their sizes or their times change. Of generated images: a mapping."""
    open: Callable[[int], Image.Image]
    """Decodes or draws image i; raises OSError, ValueError or SyntaxError if it is broken."""
    max_broken_share: float
    """Largest share of the images that may be broken."""
    written: np.ndarray | None = None
    """(N,) int64: for real typographic sets, class of the word in the picture."""
    values: np.ndarray | None = None
    """(N,) int64, indices into ``value_names``: the attribute's value of each image; None for a set without an
    attribute.
    """
    value_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Images of the set's files whose labels cannot be used, each with its reason."""
    generated: bool = False
    """Whether the pixels are a function of ``inputs`` alone, so that no image can be broken; else read from files."""

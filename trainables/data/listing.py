"""What a split of an image set holds, before anything is decoded."""

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
    """Name each image for its attack: independent of order, of the other images and of where the set lies."""
    labels: np.ndarray
    """(N,) int64, indices into ``class_names``."""
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    inputs: Any
    """JSON-able. Of files: changes when files, their sizes or their times change. Of generated images: a mapping."""
    open: Callable[[int], Image.Image]
    """Decodes or draws image i; raises OSError, ValueError or SyntaxError where it is broken."""
    max_broken_share: float
    """Share of the images that may be broken."""
    written: np.ndarray | None = None
    """(N,) int64: of real typographic sets, the class of the word in the picture."""
    values: np.ndarray | None = None
    """(N,) int64, indices into ``value_names``: an attribute of each image; None where the set tells none."""
    value_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Images of the set's files whose labels cannot be used, each with its reason."""
    generated: bool = False
    """Whether the pixels are a function of ``inputs`` alone, so that none can be broken; otherwise read from files."""

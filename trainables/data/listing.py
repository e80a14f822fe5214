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
    """Names an image for its attack: independent of order, of the other images and of where the set lies."""
    labels: np.ndarray
    """(N,) int64, indices into ``class_names``."""
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    inputs: Any
    """JSON-able; changes when files, their sizes or their times change."""
    open: Callable[[int], Image.Image]
    """Decodes image i; raises OSError, ValueError or SyntaxError where it is broken."""
    written: np.ndarray | None = None
    """(N,) int64: of real typographic sets, the class of the word in the picture."""

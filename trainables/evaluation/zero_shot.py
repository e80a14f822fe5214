"""Accuracy of an untouched model on a few validation images, compared with guessing. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass

IMAGES = 200
"""Number of validation images, over all sets."""
Z = 1.959964
"""Normal quantile of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Answers of the untouched model on unchanged validation images, over all classes of their sets."""

    right: int
    images: int
    chance: float
    """Expected share of correct answers of guessing."""
    classes: int
    """Number of classes of the set that has the most."""

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the accuracy (Wilson, JASA 22, 1927)."""
        n, share = self.images, self.right / self.images
        centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)

    def at_chance(self) -> bool:
        """Return whether the interval does not lie above chance."""
        return self.interval()[0] <= self.chance

    def text(self) -> str:
        low, high = self.interval()
        return (
            f"right on {self.right} of {self.images} validation images, {self.right / self.images:.3f} "
            f"(95 % interval {low:.3f} to {high:.3f}); guessing gives {self.chance:.3f}"
        )

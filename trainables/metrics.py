"""What is measured on predictions, as counts that workers can add up: shares and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000


@dataclass(frozen=True)
class Count:
    """``hits`` of ``images``: an accuracy or another share, of one image set."""

    hits: int
    images: int

    @property
    def share(self) -> float:
        return self.hits / self.images


def mean_share(counts: Sequence[Count]) -> float:
    """Mean over image sets: every set counts the same, whatever its size."""
    return float(np.mean([count.share for count in counts]))


def bootstrap_interval(counts: Sequence[Count], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of ``mean_share``, images resampled within each set.

    Resampling N zeros and ones gives Binomial(N, share) / N exactly, which is drawn directly.
    """
    generator = np.random.default_rng(seed)
    draws = [generator.binomial(count.images, count.share, size=RESAMPLES) / count.images for count in counts]
    tail = 50 * (1 - level)
    low, high = np.percentile(np.mean(draws, axis=0), [tail, 100 - tail])
    return float(low), float(high)

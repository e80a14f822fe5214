"""Means over image sets of scores per image, and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 4000
_FEW_VALUES = 8


def mean_score(sets: Sequence[np.ndarray]) -> float:
    """Return the mean over image sets of the mean over images (N,): sets of any size have the same weight."""
    return float(np.mean([scores.mean() for scores in sets]))


def bootstrap_interval(sets: Sequence[np.ndarray], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of ``mean_score``; images are resampled within each set.

    If all N images of a single set are right, or all are wrong (bool scores), resampling would find no spread. The
    exact interval of Clopper and Pearson is returned then: [0, 1 - q] or [q, 1] with q = ((1 - level) / 2) ^ (1 / N).
    """
    scores = sets[0]
    if len(sets) == 1 and scores.dtype == bool and scores.all() == scores.any():
        q = ((1 - level) / 2) ** (1 / len(scores))
        return (float(q), 1.0) if scores.all() else (0.0, float(1 - q))
    tail = 50 * (1 - level)
    low, high = np.percentile(resampled_means(sets, seed=seed), [tail, 100 - tail])
    return float(low), float(high)


def resampled_means(sets: Sequence[np.ndarray], *, seed: int = 0) -> np.ndarray:
    """Return ``mean_score`` of bootstrap resamples (RESAMPLES,).

    Resampling N images with few different scores (right or wrong) gives multinomial counts of the scores exactly; these
    are drawn directly. Other scores are drawn image by image.
    """
    generator = np.random.default_rng(seed)
    means = [_resampled(np.asarray(scores, np.float64), generator) for scores in sets]
    return np.asarray(np.mean(means, axis=0))


def _resampled(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    values, counts = np.unique(scores, return_counts=True)
    if len(values) <= _FEW_VALUES:
        return generator.multinomial(len(scores), counts / len(scores), size=RESAMPLES) @ values / len(scores)
    return np.array([scores[generator.integers(len(scores), size=len(scores))].mean() for _ in range(RESAMPLES)])

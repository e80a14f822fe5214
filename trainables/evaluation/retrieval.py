"""Skew of retrievals: the values of an attribute among the images that fit a query best.

All logarithms are natural. Sources: Geyik et al. 2019 (MaxSkew, NDKL), as in the debias-clip code of Berg et al. 2022
and in SEM (arXiv 2603.19028). The variants differ in the number that replaces a share of zero and in the target.
"""

from __future__ import annotations

import numpy as np

SEM_ZERO = 1e-10
"""Number that replaces a share of zero in the code of SEM and BendVLM."""


def equal_target(values: int) -> np.ndarray:
    """Return equal shares (V,), debias-clip's ``eq_opp``."""
    return np.full(values, 1 / values)


def set_target(of_images: np.ndarray, values: int) -> np.ndarray:
    """Return the shares (V,) of the values in the set itself, debias-clip's ``dem_par``.

    Args:
        of_images: (N,) value of each image.
        values: V, the number of values.
    """
    return np.bincount(of_images, minlength=values) / len(of_images)


def rankings(similarities: np.ndarray, most: int) -> np.ndarray:
    """Return the best images of each query, best first: (N, Q) similarities -> (min(most, N), Q) rows.

    Equal similarities keep the order of the images.
    """
    return np.argsort(-similarities, axis=0, kind="stable")[:most]


def top_shares(ranked_values: np.ndarray, top: int, values: int) -> np.ndarray:
    """Return the share of each value among the first ``top`` images of each query: (M, Q) values -> (Q, V)."""
    head = ranked_values[:top]
    return np.stack([(head == value).mean(0) for value in range(values)], axis=1)


def max_skew(shares: np.ndarray, target: np.ndarray, *, zero: float) -> np.ndarray:
    """Return max over values of ln(share / target), at least 0, for each query: (Q, V), (V,) -> (Q,).

    Args:
        zero: number that replaces a share of zero: 1 / K in debias-clip, ``SEM_ZERO`` in SEM.
    """
    ratios = np.log(np.where(shares > 0, shares, zero) / target)
    return np.maximum(0.0, ratios.max(1))


def kl(shares: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return KL(shares || target) of each query in nats: (..., V), (V,) -> (...)."""
    terms = np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1.0) / target), 0.0)
    return np.asarray(terms.sum(-1))


def ndkl(ranked_values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the normalised discounted KL of each query over all its M ranks: (M, Q) values, (V,) -> (Q,).

    It is the mean of KL over the first i ranks, weighted with 1 / log2(i + 1).
    """
    ranks = np.arange(1, len(ranked_values) + 1)
    one_hot = ranked_values[..., None] == np.arange(len(target))
    shares = one_hot.cumsum(0) / ranks[:, None, None]
    weights = 1 / np.log2(ranks + 1)
    return np.asarray((weights[:, None] * kl(shares, target)).sum(0) / weights.sum())


def resampled_max_skew(
    similarities: np.ndarray, of_images: np.ndarray, top: int, target: np.ndarray, *, resamples: int, seed: int = 0
) -> np.ndarray:
    """Return the mean MaxSkew over queries of bootstrap resamples of the images (resamples,).

    Args:
        similarities: (N, Q).
        of_images: (N,) value of each image.
        top: number of retrieved images per query.
        target: (V,) shares.
    """
    generator = np.random.default_rng(seed)
    count, values = len(of_images), len(target)
    order = rankings(similarities, count)
    ranked = of_images[order]
    top = min(top, count)
    means = []
    for _ in range(resamples):
        drawn = generator.multinomial(count, np.full(count, 1 / count))[order]  # (N, Q): number of copies of each image
        before = np.cumsum(drawn, axis=0) - drawn
        taken = np.clip(top - before, 0, drawn)
        shares = np.stack([np.where(ranked == value, taken, 0).sum(0) for value in range(values)], axis=1) / top
        means.append(max_skew(shares, target, zero=1 / top).mean())
    return np.array(means)


def folded_max_skew(
    similarities: np.ndarray, of_images: np.ndarray, top: int, values: int, *, folds: int, seed: int = 0
) -> tuple[float, float]:
    """Return MaxSkew and KL as SEM and BendVLM report them: means over queries and over random halves of the images.

    The target is the share of each value in the half; a share of zero counts as 1e-10. If a half has fewer images than
    ``top``, all of them are used.
    """
    generator = np.random.default_rng(seed)
    skews, divergences = [], []
    for _ in range(folds):
        half = np.sort(generator.permutation(len(of_images))[: len(of_images) // 2])
        target = set_target(of_images[half], values)
        ranked = of_images[half][rankings(similarities[half], top)]
        shares = top_shares(ranked, top, values)
        present = target > 0
        skews.append(max_skew(shares[:, present], target[present], zero=SEM_ZERO).mean())
        divergences.append(kl(shares[:, present], target[present]).mean())
    return float(np.mean(skews)), float(np.mean(divergences))


def shifted_interval(samples: np.ndarray, value: float, *, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap samples, shifted so that their mean is the measured value.

    A maximum over shares grows with noise, and a resample is noisier than the images themselves: the unshifted interval
    would lie above the measured value.
    """
    tail = 50 * (1 - level)
    low, high = np.percentile(samples - samples.mean() + value, [tail, 100 - tail])
    return max(0.0, float(low)), float(high)

"""Confidence intervals of a recipe (a trial's parameters trained again with fresh seeds) on fresh images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


LEVEL = 0.95


def interval(sets: Sequence[np.ndarray], *, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of the expected accuracy of a recipe, trained with a fresh seed, on fresh images.

    Seeds and images vary independently (every seed answers the same images), so the variance of the mean is that of the
    seeds' means plus that of the images' own difficulty, from the two-way analysis of variance. Each part enters with
    its own t quantile (Cochran's solution of the Behrens-Fisher problem, Biometrics 20, 1964): with few seeds the
    interval is wide if seeds matter, and it covers ``level`` or more whichever part is larger, as long as the seeds'
    means are about normal. The form is Wilson's (1927) with the effective number of images: within [0, 1], and valid if
    nearly all answers are correct.

    Args:
        sets: for each image set whether each of k >= 2 seeds is right on each of N images, (k, N); sets have equal
            weight.
    """
    import numpy as np
    from scipy.special import stdtrit

    scores = [np.asarray(hits, np.float64) for hits in sets]
    if any(of_set.shape[1] < 2 for of_set in scores):
        return 0.0, 1.0
    seeds, images = len(scores[0]), sum(of_set.shape[1] for of_set in scores)
    by_seed = np.mean([of_set.mean(1) for of_set in scores], axis=0)
    mean = float(by_seed.mean())
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    of_images = sum(_image_variance(of_set) for of_set in scores) / len(scores) ** 2
    variance = of_seeds + of_images
    t_seeds, t_images = stdtrit(seeds - 1, (1 + level) / 2), stdtrit(images - len(scores), (1 + level) / 2)
    effective, quantile_2 = float(images), float(t_images) ** 2
    if variance > 0:
        effective = mean * (1 - mean) / variance
        quantile_2 = (t_seeds**2 * of_seeds + t_images**2 * of_images) / variance
    centre = (mean + quantile_2 / (2 * effective)) / (1 + quantile_2 / effective)
    spread = mean * (1 - mean) / effective + quantile_2 / (4 * effective**2)
    reach = math.sqrt(quantile_2 * spread) / (1 + quantile_2 / effective)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def interval_of_values(
    values: Sequence[float], image_intervals: Sequence[tuple[float, float]], *, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of a recipe's expected metric, as ``interval``, for a metric that is not a mean over images.

    The images' part is taken from their bootstrap intervals (95 %), as for a normal distribution. Every seed is
    measured on the same images, so this part does not shrink with the number of seeds. The interval does not reach
    below 0, unless a value does.

    Args:
        values: value of each of k >= 2 seeds.
        image_intervals: interval over images of each seed.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit

    seeds, mean = len(values), float(np.mean(values))
    of_seeds = float(np.var(values, ddof=1)) / seeds
    of_images = float(np.mean([((high - low) / (2 * ndtri(0.975))) ** 2 for low, high in image_intervals]))
    t_seeds, z_images = float(stdtrit(seeds - 1, (1 + level) / 2)), float(ndtri((1 + level) / 2))
    reach = math.sqrt(t_seeds**2 * of_seeds + z_images**2 * of_images)
    low = mean - reach
    return low if min(values) < 0 else max(0.0, low), mean + reach


def _image_variance(scores: np.ndarray) -> float:
    """Return the variance of the mean that is due to the images' difficulty: (k, N) -> variance component over N."""
    seeds, images = scores.shape
    by_image = scores.mean(0)
    rest = scores - by_image - scores.mean(1, keepdims=True) + scores.mean()
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
    return max(0.0, float(by_image.var(ddof=1)) - of_rest / seeds) / images

"""Shares, their mean over sets, and bootstrap intervals against the normal approximation and a resampling of images."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.metrics import Count, bootstrap_interval, mean_share


def test_every_set_counts_the_same() -> None:
    assert mean_share([Count(1, 10), Count(900, 1000)]) == pytest.approx(0.5)


def test_interval_is_that_of_resampled_images() -> None:
    hits = np.zeros(400, bool)
    hits[:300] = True
    generator = np.random.default_rng(1)
    means = [generator.choice(hits, 400).mean() for _ in range(4000)]
    expected = np.percentile(means, [2.5, 97.5])
    assert bootstrap_interval([Count(300, 400)]) == pytest.approx(expected, abs=0.006)


def test_interval_of_two_sets_narrows_as_the_normal_approximation_says() -> None:
    low, high = bootstrap_interval([Count(500, 1000), Count(500, 1000)])
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 1000 / 2), rel=0.08)
    assert low < 0.5 < high


def test_interval_is_repeatable() -> None:
    assert bootstrap_interval([Count(30, 40)]) == bootstrap_interval([Count(30, 40)])

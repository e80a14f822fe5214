from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from trainables.evaluation.metrics import bootstrap_interval, mean_score, resampled_means


def shares(hits: int, images: int) -> np.ndarray:
    return np.arange(images) < hits


def test_every_set_counts_the_same() -> None:
    assert mean_score([shares(1, 10), shares(900, 1000)]) == pytest.approx(0.5)


def test_interval_is_that_of_the_normal_approximation() -> None:
    half_width = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    expected = (0.75 - half_width, 0.75 + half_width)
    assert bootstrap_interval([shares(300, 400)]) == pytest.approx(expected, abs=0.006)


def test_interval_of_several_sets_shrinks() -> None:
    low, high = bootstrap_interval([shares(500, 1000), shares(500, 1000)])
    one_low, one_high = bootstrap_interval([shares(500, 1000)])
    assert (high - low) == pytest.approx((one_high - one_low) / 2**0.5, rel=0.1)


def test_interval_where_all_images_are_wrong_or_all_are_right_is_exact() -> None:
    for hits, expected in ((0, binomtest(0, 110)), (110, binomtest(110, 110))):
        exact = expected.proportion_ci(0.95, method="exact")
        assert bootstrap_interval([shares(hits, 110)]) == pytest.approx((exact.low, exact.high))
    assert bootstrap_interval([np.zeros(110)]) == (0.0, 0.0), "a KL of exactly zero is zero"


def test_interval_is_repeatable() -> None:
    assert bootstrap_interval([shares(30, 40)]) == bootstrap_interval([shares(30, 40)])


def test_many_valued_scores_have_the_standard_error_of_their_mean() -> None:
    scores = np.random.default_rng(3).exponential(size=500)
    assert resampled_means([scores]).std() == pytest.approx(scores.std() / 500**0.5, rel=0.05)
    assert resampled_means([scores]).mean() == pytest.approx(scores.mean(), rel=0.01)


def test_a_paired_difference_of_equal_answers_is_exactly_zero() -> None:
    assert bootstrap_interval([np.zeros(50)]) == (0.0, 0.0)

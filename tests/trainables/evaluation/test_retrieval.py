"""Skew of retrievals: values worked out by hand, and plain loops beside the arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.evaluation import retrieval

RANKING = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1])  # M M F M M F M F F F
EQUAL = retrieval.equal_target(2)


def shares(ranking: np.ndarray, top: int) -> np.ndarray:
    return retrieval.top_shares(ranking[:, None], top, 2)


def test_values_worked_out_by_hand() -> None:
    assert retrieval.max_skew(shares(RANKING, 4), EQUAL, zero=1 / 4)[0] == pytest.approx(0.4055, abs=5e-5)
    divergences = [retrieval.kl(shares(RANKING, top), EQUAL)[0] for top in (1, 2, 3, 4)]
    assert divergences == pytest.approx([0.6931, 0.6931, 0.0566, 0.1308], abs=5e-5)
    assert retrieval.ndkl(RANKING[:4, None], EQUAL)[0] == pytest.approx(0.4744, abs=5e-5)
    assert retrieval.ndkl(RANKING[:, None], EQUAL)[0] == pytest.approx(0.2979, abs=5e-5)
    only_one = np.zeros(4, np.int64)
    assert retrieval.max_skew(shares(only_one, 4), EQUAL, zero=1 / 4)[0] == pytest.approx(0.6931, abs=5e-5)


def test_targets_of_debias_clip() -> None:
    gallery = np.array([0, 0, 1, 0, 0, 0, 1, 0, 1, 1])  # six of one, four of the other; three of the first in the top 4
    head = shares(gallery, 4)
    of_set = retrieval.set_target(gallery, 2)
    assert retrieval.max_skew(head, of_set, zero=1 / 4)[0] == pytest.approx(0.2231, abs=5e-5)
    assert retrieval.max_skew(head, EQUAL, zero=1 / 4)[0] == pytest.approx(0.4055, abs=5e-5)


def test_a_share_of_zero_is_the_difference_between_the_codes() -> None:
    """A missing value has the lowest ratio of all, so it never makes the maximum, whatever zero counts as."""
    nobody = np.array([[1.0, 0.0, 0.0]])
    target = retrieval.equal_target(3)
    published = [retrieval.max_skew(nobody, target, zero=zero)[0] for zero in (1 / 4, retrieval.SEM_ZERO)]
    assert published == pytest.approx([math.log(3)] * 2)


@given(
    st.integers(2, 4).flatmap(
        lambda values: st.tuples(st.just(values), st.lists(st.integers(0, values - 1), min_size=4, max_size=40))
    ),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_all_measures_against_plain_loops(drawn: tuple[int, list[int]], top: int, seed: int) -> None:
    values, of_images = drawn[0], np.array(drawn[1])
    top = min(top, len(of_images))
    similarities = np.random.default_rng(seed).normal(size=(len(of_images), 3))
    ranked = of_images[retrieval.rankings(similarities, top)]
    target = retrieval.equal_target(values)
    skews = retrieval.max_skew(retrieval.top_shares(ranked, top, values), target, zero=1 / top)
    discounted = retrieval.ndkl(ranked, target)
    for query in range(3):
        best = sorted(range(len(of_images)), key=lambda i: -similarities[i, query])[:top]
        counts = [sum(of_images[i] == value for i in best) for value in range(values)]
        ratios = [math.log((count / top if count else 1 / top) * values) for count in counts]
        assert skews[query] == pytest.approx(max(0.0, *ratios))
        total = weights = 0.0
        for rank in range(1, top + 1):
            head = [of_images[i] for i in best[:rank]]
            parts = [head.count(value) / rank for value in range(values)]
            total += sum(p * math.log(p * values) for p in parts if p > 0) / math.log2(rank + 1)
            weights += 1 / math.log2(rank + 1)
        assert discounted[query] == pytest.approx(total / weights)


def test_intervals_hold_the_skew_of_the_gallery_and_narrow_with_it() -> None:
    generator = np.random.default_rng(1)

    def interval(images: int) -> tuple[float, float, float]:
        of_images = np.arange(images) % 2
        similarities = generator.normal(size=(images, 8)) + 0.8 * of_images[:, None]
        top = images // 10
        resampled = retrieval.resampled_max_skew(similarities, of_images, top, EQUAL, resamples=200)
        ranked = of_images[retrieval.rankings(similarities, top)]
        value = retrieval.max_skew(retrieval.top_shares(ranked, top, 2), EQUAL, zero=1 / top).mean()
        return (value, *retrieval.shifted_interval(resampled, value))

    small, large = interval(200), interval(3200)
    assert small[1] <= small[0] <= small[2] and large[1] <= large[0] <= large[2]
    assert (large[2] - large[1]) < (small[2] - small[1])


def test_resampling_is_what_drawing_images_and_ranking_them_again_gives() -> None:
    generator = np.random.default_rng(3)
    of_images, similarities = np.arange(30) % 2, generator.normal(size=(30, 2)) + np.arange(30)[:, None] % 2
    fast = retrieval.resampled_max_skew(similarities, of_images, 8, EQUAL, resamples=3000, seed=0)
    slow = []
    for _ in range(3000):
        rows = generator.integers(30, size=30)
        ranked = of_images[rows][retrieval.rankings(similarities[rows], 8)]
        slow.append(retrieval.max_skew(retrieval.top_shares(ranked, 8, 2), EQUAL, zero=1 / 8).mean())
    assert np.mean(fast) == pytest.approx(np.mean(slow), abs=0.01)
    assert np.percentile(fast, [5, 95]) == pytest.approx(np.percentile(slow, [5, 95]), abs=0.04)


def test_folds_of_a_gallery_without_bias_are_near_chance() -> None:
    generator = np.random.default_rng(0)
    of_images, similarities = np.arange(4000) % 2, generator.normal(size=(4000, 25))
    skew, divergence = retrieval.folded_max_skew(similarities, of_images, 500, 2, folds=10)
    assert 0 < skew < 0.06 and 0 < divergence < 0.005
    biased, _ = retrieval.folded_max_skew(similarities + 3 * of_images[:, None], of_images, 500, 2, folds=10)
    assert biased == pytest.approx(math.log(2), abs=0.05)

"""When more trials buy less than what the validation images leave uncertain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.search.noise_floor import LEAST_COMPLETE, Floor, NoiseFloor, Points, noise_floor
from sweeper.search.pareto import hypervolume, non_dominated

GUESSING = Floor(offset=0.05, relative=False)


def points_of(
    truths: np.ndarray,
    generator: np.random.Generator,
    *,
    images: Sequence[int] = (1000,),
    untouched: tuple[float, float] = (0.9, 0.3),
    floor: Floor | None = None,
) -> Points:
    """One point per trial; every image is answered right with the probabilities ``truths`` (T, 2), independently."""
    return Points(
        untouched=[generator.random((2, count)) < np.array(untouched)[:, None] for count in images],
        hits=[generator.random((len(truths), 2, count)) < truths[:, :, None] for count in images],
        place=np.arange(len(truths)),
        reference=floor or GUESSING,
        floors=(floor, None),
    )


def floor_of(points: Points, trials: int | None = None, **options: int) -> NoiseFloor:
    ended = len(points.place) if trials is None else trials
    floor = noise_floor(points, trials=ended, complete=len(points.place), **options)
    assert floor is not None
    return floor


@pytest.mark.parametrize("seed", range(5))
def test_trials_that_are_all_equal_in_truth_are_at_the_floor(seed: int) -> None:
    truths = np.tile([0.85, 0.6], (64, 1))
    floor = floor_of(points_of(truths, np.random.default_rng(seed)))
    assert floor.reached and floor.further == 16 and abs(floor.gain) < floor.standard_error


@pytest.mark.parametrize("seed", range(5))
def test_later_trials_that_are_clearly_better_are_not(seed: int) -> None:
    truths = np.linspace([0.8, 0.4], [0.9, 0.8], 64)
    assert not floor_of(points_of(truths, np.random.default_rng(seed))).reached


def test_one_good_trial_among_the_last_is_worth_what_it_adds_in_truth() -> None:
    """Both fronts are one point in every resample, whose areas in truth are known."""
    truths = np.tile([0.50, 0.20], (40, 1))
    truths[7] = 0.80, 0.40
    truths[35] = 0.88, 0.70
    gains = [floor_of(points_of(truths, np.random.default_rng(seed), images=(4000,))).gain for seed in range(20)]
    added = (0.88 - 0.05) * (0.70 - 0.3) - (0.80 - 0.05) * (0.40 - 0.3)
    assert np.mean(gains) == pytest.approx(added, abs=4 * np.std(gains) / np.sqrt(len(gains)))


def test_the_luck_of_the_last_trials_counts_for_less_than_on_the_images_that_they_were_picked_on() -> None:
    """There the front of all trials is never smaller than that of three quarters, though all are equal in truth."""
    truths, naive, honest = np.tile([0.85, 0.6], (64, 1)), [], []
    for seed in range(100):
        points = points_of(truths, np.random.default_rng(seed), images=(300,))
        values = [tuple(value) for value in points.hits[0].mean(2)]
        reference = (0.05, float(points.untouched[0][1].mean()))
        naive.append(hypervolume(values, reference) - hypervolume(values[:48], reference))
        honest.append(floor_of(points).gain)
    assert min(naive) >= 0.0 and min(honest) < 0.0
    assert np.mean(honest) < np.mean(naive) / 1.5


def test_the_standard_error_is_that_of_one_points_area() -> None:
    """One member above fixed references: area (c - 0.05) (r - u), whose variance the delta method gives."""
    truths, images = np.tile([0.85, 0.6], (16, 1)), 2000
    truths[3] = 0.95, 0.9
    points = points_of(truths, np.random.default_rng(1), images=(images,))
    clean, robust = points.hits[0][3].astype(float)
    low = points.untouched[0][1].astype(float)
    per_image = (robust.mean() - low.mean()) * clean + (clean.mean() - 0.05) * (robust - low)
    expected = per_image.std() / np.sqrt(images)
    assert floor_of(points, resamples=2000).standard_error == pytest.approx(expected, rel=0.08)


def test_few_trials_are_never_at_the_floor() -> None:
    generator = np.random.default_rng(0)
    few, enough = (
        floor_of(points_of(np.tile([0.85, 0.6], (count, 1)), generator)) for count in (LEAST_COMPLETE - 1, 40)
    )
    assert not few.reached and enough.reached
    one = Points(
        untouched=[np.ones((2, 1), bool)],
        hits=[np.ones((1, 2, 1), bool)],
        place=np.zeros(1, int),
        reference=GUESSING,
        floors=(None, None),
    )
    assert noise_floor(one, trials=1, complete=1) is None, "a resample of one image leaves none out"


def test_a_last_quarter_of_stopped_trials_has_added_nothing() -> None:
    points = points_of(np.tile([0.85, 0.6], (30, 1)), np.random.default_rng(0))
    floor = floor_of(points, trials=40)
    assert floor.gain == 0.0 and floor.reached and (floor.trials, floor.complete, floor.further) == (40, 30, 10)


def test_nothing_above_the_floor_is_no_reason_to_end() -> None:
    floor = Floor(offset=-0.05, relative=True)
    truths = np.tile([0.7, 0.6], (40, 1))
    computed = floor_of(points_of(truths, np.random.default_rng(0), floor=floor))
    assert (computed.gain, computed.standard_error, computed.reached) == (0.0, 0.0, False)


def slow_noise_floor(points: Points, trials: int, resamples: int) -> tuple[float, float]:
    """Gain and standard error by the definition, point by point, for the same draws."""
    generator = np.random.default_rng(0)
    counts = [
        [np.bincount(generator.integers(size, size=size), minlength=size) for _ in range(resamples)]
        for size in (hits.shape[2] for hits in points.hits)
    ]
    ids, places = range(len(points.place)), points.place

    def goals(answers: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> tuple[float, float]:
        means = [(of_set * weight).sum(1) / weight.sum() for of_set, weight in zip(answers, weights, strict=True)]
        first, second = np.mean(means, axis=0)
        return float(first), float(second)

    def front(among: Sequence[int], weights: Sequence[np.ndarray]) -> list[int]:
        low = goals(points.untouched, weights)
        values = {i: goals([hits[i] for hits in points.hits], weights) for i in among}
        for goal, floor in enumerate(points.floors):
            if floor is not None:
                least = floor.offset + (low[goal] if floor.relative else 0.0)
                values = {i: value for i, value in values.items() if value[goal] >= least}
        flags = non_dominated([low, *values.values()])[1:]
        return [i for i, flag in zip(values, flags, strict=True) if flag]

    def area(members: Sequence[int], weights: Sequence[np.ndarray]) -> float:
        low = goals(points.untouched, weights)
        first = points.reference.offset + (low[0] if points.reference.relative else 0.0)
        values = [goals([hits[i] for hits in points.hits], weights) for i in members]
        return hypervolume(values, (first, low[1]))

    members = front(ids, [np.ones(hits.shape[2]) for hits in points.hits])
    early = [i for i in ids if places[i] < trials - trials // 4]
    gains, areas = [], []
    for draw in zip(*counts, strict=True):
        areas.append(area(members, draw))
        absent = [count == 0 for count in draw]
        if all(left.any() for left in absent):
            gains.append(area(front(ids, draw), absent) - area(front(early, draw), absent))
    return float(np.mean(gains)), float(np.std(areas, ddof=1))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 24),
    images=st.lists(st.integers(12, 60), min_size=1, max_size=2),
    floor=st.sampled_from([None, Floor(offset=-0.1, relative=True), Floor(offset=0.7, relative=False)]),
)
def test_it_is_what_the_definition_says(seed: int, count: int, images: list[int], floor: Floor | None) -> None:
    generator = np.random.default_rng(seed)
    truths = generator.uniform([0.6, 0.2], [1.0, 0.9], (count, 2))
    points = points_of(truths, generator, images=images, floor=floor)
    expected = slow_noise_floor(points, count, resamples=20)
    computed = floor_of(points, resamples=20)
    assert computed.gain == pytest.approx(expected[0], abs=0.01), "points far behind may be left out"
    assert computed.standard_error == pytest.approx(expected[1], abs=1e-9)


def test_points_far_behind_change_nothing() -> None:
    truths = np.linspace([0.95, 0.3], [0.75, 0.8], 40)
    near = points_of(truths, np.random.default_rng(3))
    generator = np.random.default_rng(4)
    far = points_of(np.tile([0.5, 0.1], (40, 1)), generator)
    both = Points(
        untouched=near.untouched,
        hits=[np.concatenate([near.hits[0], far.hits[0]])],
        place=np.concatenate([near.place, near.place]),
        reference=near.reference,
        floors=near.floors,
    )
    assert floor_of(both, trials=40).gain == floor_of(near).gain

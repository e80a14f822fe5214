"""The merit of a search: recorded trainings that stand for its trials, and what is chosen from their points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.search.merit import merit, merit_until
from benchmarks.search.methods import clean, robust, run_nsga2, run_sweep
from benchmarks.search.problems import MeasuredPoint
from benchmarks.search.scattered_file import Conditions, Recording, Sizes, Training, Untouched
from benchmarks.search.scattered_problem import ScatteredProblem, kind, scattered_problem
from benchmarks.search.scattered_space import setting
from trainables.records import Point, Report, TrialResult

IMAGES = 16
SEEN = 8
UNTOUCHED = MeasuredPoint((0.9, 0.3), (0.9, 0.3), (0.8, 0.2))


def report(progress: float, *, rung: bool) -> Report:
    return Report(
        step=round(24 * progress),
        steps=24,
        epoch=3 * progress,
        epochs=3,
        progress=progress,
        values={},
        train_s=6.0 * progress,
        evaluation_s=4.0 * progress,
        time_s=0.0,
        rung=rung,
    )


def training(number: int, *, fails: bool = False) -> Training:
    """Two points, on ``IMAGES`` validation images."""
    rng = np.random.default_rng(number)
    answers = np.packbits(rng.random((4, 2, IMAGES)) < 0.7, axis=-1)
    reports = (report(1 / 9, rung=True), report(1 / 3, rung=True), report(1.0, rung=False))
    values = {"clean_accuracy": 0.7, "robust_accuracy": 0.7}
    points = tuple(Point(weights="last", strength=strength, values=values) for strength in (1.0, 0.5))
    result = TrialResult(values=values, points=points, epochs=3, train_s=6.0, evaluation_s=8.0)
    test = (((0.8, 0.5),), ((0.85, 0.4),))
    return Training(
        number=number,
        seed=3 * number,
        parameters=setting("transform", number),
        reports=reports[:1] if fails else reports,
        result=None if fails else result,
        failure="loss is nan" if fails else None,
        answers=answers[:1] if fails else answers,
        test=() if fails else test,
    )


def recording(*, failing: int = 0) -> Recording:
    conditions = Conditions("transform", Sizes(train=64, validation=IMAGES, test=(20,), batch=16, epochs=3))
    untouched = Untouched(np.packbits(np.tile(np.arange(IMAGES) % 4 > 0, (2, 1)), axis=-1), ((0.8, 0.2),))
    return Recording(conditions, untouched, tuple(training(number, fails=number < failing) for number in range(200)))


def problem(seed: int = 0, *, failing: int = 0) -> ScatteredProblem:
    return scattered_problem([recording(failing=failing)], seed, seen_images=SEEN)


def test_a_training_stands_for_one_trial_only() -> None:
    searched = problem()
    wanted = kind(setting("transform", 0))
    own = searched.entries[wanted]
    assert len(own) > 2
    asked = dict(own[0].parameters)
    assert searched.learned_at(asked) == asked, "a recorded setting stands for itself"
    assert searched.learned_at(asked) == asked, "the same trial is asked again"
    stood_for = [asked]
    for _ in own[1:]:
        asked = {**asked, "lambda_reg": asked["lambda_reg"] * 1.0001}
        stood_for.append(dict(searched.learned_at(asked)))
        assert kind(stood_for[-1]) == wanted
    numbers = {tuple(sorted(point.items())) for point in stood_for}
    assert len(numbers) == len(own)
    assert replace(searched).learned_at(own[1].parameters) == own[1].parameters, "as new for another search"


@pytest.mark.parametrize("search", [run_sweep, run_nsga2])
def test_a_search_finds_each_training_once(search) -> None:  # type: ignore[no-untyped-def]
    searched = problem()
    finished = search(searched, 0, 2, 1e9, trials=12)
    found = {tuple(sorted(searched.learned_at(trial.parameters).items())) for trial in finished}
    assert len(found) == len(finished) > 0
    recorded = [one.parameters for one in recording().trainings]
    assert all(dict(point) in recorded for point in found)


def test_the_ranges_and_the_images_differ_by_seed() -> None:
    first, second = problem(0), problem(1)
    assert first.space != second.space
    assert first.untouched.validation != second.untouched.validation or first.about != second.about
    assert first.untouched.looked == second.untouched.looked == (0.75, 0.75)


def test_goals_are_those_of_the_images_that_count() -> None:
    searched, originals = problem(), {tuple(one.parameters.items()): one for one in recording().trainings}
    for own in searched.entries.values():
        for entry in own:
            bits = np.unpackbits(originals[tuple(entry.training.parameters.items())].answers, axis=-1)
            for row, point in zip(bits[2:], entry.points, strict=True):
                assert point.looked == pytest.approx(tuple(row.mean(-1)))
                assert abs(point.validation[0] * SEEN - round(point.validation[0] * SEEN)) < 1e-9
                assert point.validation[0] * SEEN <= row[0].sum()
            assert searched.at(entry.parameters, 1.0, 0) == entry.points[0].validation
            assert [point.test for point in searched.measured(entry.parameters)] == [(0.8, 0.5), (0.85, 0.4)]
    # Two seconds per evaluation of 16 images would be one epoch; the search evaluates half of the images.
    assert searched.evaluation_epochs({"tune": "transform"}) == pytest.approx(8.0 / 4 * SEEN / IMAGES / 2.0)


def test_a_training_that_failed_reports_zeros() -> None:
    searched = problem(failing=100)
    failed = [e for own in searched.entries.values() for e in own if e.training.failure is not None]
    for entry in failed:
        assert searched.at(entry.parameters, 1 / 9, 0) == searched.at(entry.parameters, 1.0, 0) == (0.0, 0.0)
        assert searched.front_points(entry.parameters, 0) == [(0.0, 0.0)]
    assert failed


def point(validation: tuple[float, float], looked: tuple[float, float], test: tuple[float, float]) -> MeasuredPoint:
    return MeasuredPoint(validation, looked, test)


FRONT = [
    point((0.90, 0.5), (0.90, 0.5), (0.80, 0.5)),
    point((0.85, 0.7), (0.85, 0.6), (0.75, 0.6)),
    # Just below the point before it on validation, above it on the further images.
    point((0.845, 0.695), (0.86, 0.7), (0.76, 0.7)),
    point((0.79, 0.9), (0.79, 0.9), (0.69, 0.9)),  # below the floor
    point((0.88, 0.35), (0.88, 0.35), (0.79, 0.45)),  # dominated
]


def test_the_merit_of_a_known_front() -> None:
    found = merit(FRONT, UNTOUCHED)
    assert found.validation_volume == pytest.approx(0.1 * 0.2 + 0.05 * 0.2)
    assert found.test_volume == pytest.approx(0.1 * 0.3 + 0.05 * 0.1)
    assert (found.robust, found.clean_cost) == (0.5, pytest.approx(0.0))
    assert found.knee == pytest.approx((0.80 + 0.5) / 2), "of equal compromises the first goal counts"


def test_a_second_look_chooses_on_both() -> None:
    found = merit(FRONT, UNTOUCHED, looked=True)
    assert found.validation_volume == pytest.approx(0.1 * 0.2 + 0.06 * 0.2)
    assert found.test_volume == pytest.approx(0.1 * 0.3 + 0.06 * 0.2)


def test_without_points_the_untouched_model_is_picked() -> None:
    found = merit([], UNTOUCHED)
    assert (found.test_volume, found.robust, found.clean_cost) == (0.0, 0.2, 0.0)
    assert found.knee == pytest.approx((clean(UNTOUCHED.test) + robust(UNTOUCHED.test)) / 2)


def test_the_epochs_of_a_second_look_are_spent_at_the_end() -> None:
    search = [(1.0, FRONT[:1]), (2.0, FRONT[1:2])]
    assert merit_until(search, UNTOUCHED, 2.0).test_volume == merit(FRONT[:2], UNTOUCHED).test_volume
    alone = merit(FRONT[:1], UNTOUCHED, looked=True)
    both = merit(FRONT[:2], UNTOUCHED, looked=True)
    assert merit_until(search, UNTOUCHED, 2.1, looked=True, look_epochs=0.1) == alone, "two points cost 0.2 epochs"
    assert merit_until(search, UNTOUCHED, 2.2, looked=True, look_epochs=0.1) == both
    assert merit_until(search, UNTOUCHED, 0.5) == merit([], UNTOUCHED)

"""The merit of a search: recorded trainings that stand for its trials, and what is chosen from their points."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search.merit import full_epochs, merit, merit_until, sign_of
from benchmarks.search.methods import (
    clean,
    first_points_of,
    mean,
    robust,
    run_asha,
    run_nsga2,
    run_primo,
    run_sweep,
    run_syne_tune,
)
from benchmarks.search.problems import MeasuredPoint
from benchmarks.search.scattered_file import Conditions, Recording, Sizes, Training, Untouched, save
from benchmarks.search.scattered_problem import ScatteredProblem, kind, load_recordings, scattered_problem
from benchmarks.search.scattered_space import SCOPES, Scope, setting
from trainables.records import Point, Report, TrialResult

IMAGES = 16
SEEN = 8
UNTOUCHED = MeasuredPoint((0.9, 0.3), (0.9, 0.3), (0.8, 0.2))


SPEED = {"transform": 1.0, "last_blocks": 2.0, "visual": 4.0}
"""Scope -> seconds of training, over those of a transform."""


def report(progress: float, *, rung: bool, scope: Scope = "transform") -> Report:
    return Report(
        step=round(24 * progress),
        steps=24,
        epoch=3 * progress,
        epochs=3,
        progress=progress,
        values={},
        train_s=6.0 * progress * SPEED[scope],
        evaluation_s=4.0 * progress,
        time_s=0.0,
        rung=rung,
    )


def training(number: int, *, fails: bool = False, scope: Scope = "transform", sizes: int = 1) -> Training:
    """Two points, on ``IMAGES`` validation images. The goals on each further size of the test set are 0.01 higher."""
    rng = np.random.default_rng(number)
    answers = np.packbits(rng.random((4, 2, IMAGES)) < 0.7, axis=-1)
    reports = tuple(report(at, rung=at < 1, scope=scope) for at in (1 / 9, 1 / 3, 1.0))
    values = {"clean_accuracy": 0.7, "robust_accuracy": 0.7}
    points = tuple(Point(weights="last", strength=strength, values=values) for strength in (1.0, 0.5))
    result = TrialResult(values=values, points=points, epochs=3, train_s=6.0 * SPEED[scope], evaluation_s=8.0)
    test = tuple(
        tuple((clean + 0.01 * size, robust + 0.01 * size) for size in range(sizes))
        for clean, robust in ((0.8, 0.5), (0.85, 0.4))
    )
    return Training(
        number=number,
        seed=3 * number,
        parameters=setting(scope, number),
        reports=reports[:1] if fails else reports,
        result=None if fails else result,
        failure="loss is nan" if fails else None,
        answers=answers[:1] if fails else answers,
        test=() if fails else test,
    )


def recording(
    *, failing: int = 0, scope: Scope = "transform", test: tuple[int, ...] = (20,), settings: int = 200
) -> Recording:
    conditions = Conditions(scope, Sizes(train=64, validation=IMAGES, test=test, batch=16, epochs=3))
    answers = np.packbits(np.tile(np.arange(IMAGES) % 4 > 0, (2, 1)), axis=-1)
    untouched = Untouched(answers, tuple((0.8 + 0.01 * size, 0.2 + 0.01 * size) for size in range(len(test))))
    trainings = (training(number, fails=number < failing, scope=scope, sizes=len(test)) for number in range(settings))
    return Recording(conditions, untouched, tuple(trainings))


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


def several_scopes(seed: int = 0) -> ScatteredProblem:
    recordings = [
        recording(test=(20, 60)),
        recording(scope="last_blocks", settings=100),
        recording(scope="visual", settings=100),
    ]
    return scattered_problem(recordings, seed, seen_images=SEEN)


def test_a_training_stands_for_trials_of_its_own_scope() -> None:
    searched = several_scopes()
    assert {scope for scope, _, _ in searched.entries} == set(SCOPES)
    for (scope, objective, _), own in searched.entries.items():
        for entry in own:
            asked = {**entry.parameters, "learning_rate": entry.parameters["learning_rate"] * 1.0001}
            found = searched.learned_at(asked)
            assert (found["tune"], found["objective"]) == (scope, objective)


def test_an_evaluation_costs_its_share_of_an_epoch_of_its_scope() -> None:
    searched = several_scopes()
    costs = [searched.evaluation_epochs({"tune": scope}) for scope in SCOPES]
    assert costs == pytest.approx([costs[0], costs[0] / 2, costs[0] / 4])
    # 3 epochs, an evaluation after each and of the second point.
    assert full_epochs(searched) == pytest.approx(64 * (3 + 4 * sum(costs) / 3))


def test_goals_on_test_are_over_images_that_all_scopes_have() -> None:
    searched = several_scopes()
    assert searched.untouched.test == (0.8, 0.2)
    assert {point.test for point in searched.everything()} == {(0.8, 0.5), (0.85, 0.4)}


@pytest.mark.parametrize("search", [run_sweep, run_nsga2, partial(run_asha, merit=mean)])
def test_every_search_begins_with_the_first_points_of_all_scopes(search) -> None:  # type: ignore[no-untyped-def]
    searched = several_scopes()
    finished = search(searched, 0, 1, math.inf, trials=30, first_points_for=30)
    recorded = [setting(scope, number) for scope in SCOPES for number in range(200)]
    assert all(dict(searched.learned_at(trial.parameters)) in recorded for trial in finished)
    middles = [trial.parameters for trial in finished[:10] if trial.parameters["objective"] == "cross_entropy"]
    assert middles[0] == first_points_of(searched, 30).next([]).parameters
    assert middles[0]["tune"] == "visual", "the strongest scope comes first"
    assert {trial["tune"] for trial in middles} == set(SCOPES)


def test_peers_get_the_first_points_of_ours() -> None:
    """One slot, so that both know as much when they ask for the next point."""
    ours = run_sweep(several_scopes(), 0, 1, math.inf, trials=8, first_points_for=30)
    peers = run_nsga2(several_scopes(), 0, 1, math.inf, trials=8, first_points_for=30)
    assert [trial.parameters for trial in peers] == [trial.parameters for trial in ours]
    assert [trial.spent_epochs for trial in peers] == pytest.approx([trial.spent_epochs for trial in ours])


@pytest.mark.parametrize(("package", "search"), [("syne_tune", run_syne_tune), ("neps", run_primo)])
def test_packages_get_the_first_points_of_ours(package, search) -> None:  # type: ignore[no-untyped-def]
    """Skipped in sweeper's own environment: these packages have one of their own (``benchmarks/peers.txt``)."""
    pytest.importorskip(package)
    searched = several_scopes()
    ours = run_sweep(several_scopes(), 0, 1, math.inf, trials=8, first_points_for=30)
    finished = search(searched, 0, 1, math.inf, trials=12, first_points_for=30)
    assert [trial.parameters for trial in finished[:8]] == [trial.parameters for trial in ours]
    assert [trial.spent_epochs for trial in finished[:8]] == pytest.approx([trial.spent_epochs for trial in ours])
    assert all(searched.space.place(trial.parameters).parameters == trial.parameters for trial in finished[8:])


def test_peers_begin_with_the_points_of_the_problem() -> None:
    searched = problem()
    known = next(iter(searched.entries["transform", "ipo", "direct"])).parameters
    (first,) = run_nsga2(replace(searched, points=[known]), 0, 1, math.inf, trials=1)
    assert first.parameters == known, "beta too, which has several ranges"


def test_recordings_are_loaded_strongest_scope_last(tmp_path: Path) -> None:
    for scope in ("visual", "transform"):
        save(tmp_path / f"scattered_{scope}.npz", recording(scope=scope, settings=3))
    assert [one.conditions.scope for one in load_recordings(tmp_path)] == ["transform", "visual"]


def test_a_difference_counts_from_two_standard_errors_on() -> None:
    assert sign_of([1.0, 2.0, 3.0]) == 1
    assert sign_of([-1.0, -2.0, -3.0]) == -1
    assert sign_of([-1.0, 2.0, 3.0]) == 0, "1.3 +- 1.2"
    assert sign_of([0.0, 0.0]) == sign_of([5.0]) == 0


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

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.jobs import Outcome
from sweeper.records import TrialRecord, UntouchedModel
from sweeper.search.first_points import FirstPoints, first_points, rate_found, rated_baselines
from sweeper.search.learning_rate import ModelSize, usual_rate
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.simulator import MemoryFiles, SimulatedTrial, Simulation
from sweeper.search.study import Study
from sweeper.spec.spec import Spec, load_spec
from tests.helpers.goals import DIRECTIONS
from tests.helpers.reports import make_untouched
from trainables.records import Point, Report, TrialResult

SPEC = """\
sets: {world: {kind: world, train: 1024}}
train: {set: world}
evaluate: {search: {sets: [world]}, test: {sets: [world]}}
goals: {clean_accuracy: {floor: untouched - 0.1}}
paint: null
parameters:
  objective: {choices: [dpo, kto, cross_entropy]}
  beta: {when: {objective: [dpo, kto]}, low: 0.1, high: 10.0, log: true}
  lambda_reg: {low: 0.01, high: 1.0, log: true}
  tune: {choices: [transform, visual]}
  learning_rate: auto
training: {epochs: 1, global_batch_size: 128}
search: {trials: 30, startup_trials: 4}
"""
UNTOUCHED = make_untouched(pairs=1280, embed_dim=64, image_parameters=1_330_000)
USUAL = 8e-4
"""Of the image tower after ten steps."""


class Unheard:
    """Implements ``TrialListener``."""

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...


def spec_of(folder: Path, *overrides: str, text: str = SPEC) -> Spec:
    (folder / "spec.yaml").write_text(text)
    return load_spec(folder / "spec.yaml", overrides)


class Truth:
    """Trials whose robust accuracy falls with the distance of the learning rate from the best one, in decades."""

    def __init__(self, best: float, collapses_at: float = math.inf) -> None:
        self._best, self._collapses_at = best, collapses_at

    def __call__(self, trial: TrialRecord, rungs: Sequence[float]) -> SimulatedTrial:
        rate = trial.parameters["learning_rate"] * (1 if trial.parameters["tune"] == "visual" else USUAL / 0.03)
        gain = max(0.0, 0.3 - 0.2 * abs(math.log10(rate / self._best)))
        clean = 0.5 if rate >= self._collapses_at else 0.88
        values = {"clean_accuracy": clean, "robust_accuracy": 0.3 + gain}
        point = Point(weights="last", strength=1.0, values=values)
        reports: list[Report] = []
        return SimulatedTrial(
            reports=reports, result=TrialResult(values=values, points=(point,), epochs=1, train_s=1.0, evaluation_s=0.0)
        )


def searched(spec: Spec, truth: Truth, slots: int = 1, untouched: UntouchedModel = UNTOUCHED) -> list[TrialRecord]:
    study = Study.in_memory(spec.parameters, seed=1, startup_trials=4, goals=DIRECTIONS)
    points = first_points(spec, untouched)
    Simulation(spec, study, truth, untouched_goals=untouched.goals, slots=slots, first_points=points).run()
    return study.trials()


def tried(trials: Sequence[TrialRecord]) -> list[str]:
    return [trial.first_point for trial in trials if trial.first_point is not None]


def points_of(spec: Spec) -> FirstPoints:
    points = first_points(spec, UNTOUCHED)
    assert points is not None
    return points


def test_few_trials_find_the_learning_rate_of_cross_entropy_on_the_strongest_scope(tmp_path: Path) -> None:
    trials = searched(spec_of(tmp_path, "search.trials=3"), Truth(USUAL))
    assert tried(trials) == ["middle of the ranges", "learning rate 0.00016", "learning rate 0.004"]
    assert {(trial.parameters["objective"], trial.parameters["tune"]) for trial in trials} == {
        ("cross_entropy", "visual")
    }
    assert [trial.parameters["lambda_reg"] for trial in trials] == [pytest.approx(0.1)] * 3


def test_more_trials_try_scopes_lambda_and_objectives_around_the_best(tmp_path: Path) -> None:
    order = ["middle of transform", "most lambda_reg", "least lambda_reg", "kto", "dpo"]
    spec = spec_of(tmp_path)
    trials = searched(spec, Truth(5 * USUAL))
    assert tried(trials)[:4] == [
        "middle of the ranges", "learning rate 0.00016", "learning rate 0.004", "learning rate 0.02",
    ]  # fmt: skip
    assert tried(trials)[4:] == order
    assert [trial.first_point for trial in trials[9:]] == [None] * 21
    by_name = {trial.first_point: trial.parameters for trial in trials}
    assert by_name["middle of transform"]["learning_rate"] == pytest.approx(5 * 0.03), "corrected by what was found"
    assert by_name["most lambda_reg"] == by_name["least lambda_reg"] | {"lambda_reg": 1.0}
    assert {by_name[name]["learning_rate"] for name in order[1:]} <= {0.004, 0.15}
    assert rate_found(trials, points_of(spec)) == (
        "learning rate: 0.004 is better than 0.00016, 0.0008, 0.02 (cross-entropy, visual)"
    )
    assert tried(searched(spec_of(tmp_path, "search.trials=12"), Truth(USUAL)))[3:] == order[:3]


@settings(max_examples=30)
@given(decades=st.floats(-2.5, 2.5))
def test_a_bracket_is_extended_until_the_best_is_inside(
    tmp_path_factory: pytest.TempPathFactory, decades: float
) -> None:
    spec = spec_of(tmp_path_factory.mktemp("spec"))
    best = USUAL * 10**decades
    trials = searched(spec, Truth(best, collapses_at=30 * best))
    bracket = points_of(spec).bracket(trials)
    assert bracket.best is not None and min(bracket.tried) < bracket.best < max(bracket.tried)
    assert abs(math.log10(bracket.best / best)) < 0.5 * math.log10(5) + 0.01
    later = [t.parameters["learning_rate"] for t in trials[-15:] if t.parameters["tune"] == "visual"]
    assert all(bracket.best / 10.1 <= rate <= bracket.best * 10.1 for rate in later)


def test_where_everything_collapses_the_rate_falls_and_where_nothing_moves_it_rises(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    low = points_of(spec).bracket(searched(spec, Truth(USUAL / 300, collapses_at=USUAL / 100)))
    high = points_of(spec).bracket(searched(spec, Truth(USUAL * 300)))
    assert low.best is not None and low.best < USUAL / 50
    assert high.best is not None and high.best > USUAL * 50


def test_a_range_that_the_spec_gives_is_never_left(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "parameters.learning_rate={low: 1e-4, high: 1e-3, log: true}")
    trials = searched(spec, Truth(1.0))
    assert [trial.parameters["learning_rate"] for trial in trials[:3]] == [pytest.approx(10**-3.5), 1e-4, 1e-3]
    assert all(1e-4 <= trial.parameters["learning_rate"] <= 1e-3 for trial in trials)
    choices = spec_of(tmp_path, "parameters.learning_rate={choices: [1e-4, 3e-4, 1e-3, 3e-3]}")
    rates = [trial.parameters["learning_rate"] for trial in searched(choices, Truth(1.0))[:3]]
    assert rates == [1e-3, 3e-4, 3e-3]
    fixed = spec_of(tmp_path, "parameters.learning_rate=1e-3")
    assert tried(searched(fixed, Truth(1.0)))[:2] == ["middle of the ranges", "middle of transform"]


def test_a_slot_never_waits_for_a_result(tmp_path: Path) -> None:
    trials = searched(spec_of(tmp_path), Truth(5 * USUAL), slots=8)
    assert [trial.first_point is None for trial in trials[:8]] == [False] * 4 + [True] * 4
    assert set(tried(trials)) >= {"learning rate 0.02", "most lambda_reg", "least lambda_reg", "kto", "dpo"}


@settings(max_examples=4)
@given(records=st.integers(1, 29))
def test_a_killed_search_goes_on_with_the_same_points(tmp_path_factory: pytest.TempPathFactory, records: int) -> None:
    spec, truth = spec_of(tmp_path_factory.mktemp("spec")), Truth(5 * USUAL)
    whole = searched(spec, truth)
    path, files = tmp_path_factory.mktemp("study") / "study.db", MemoryFiles()
    Study.create(path, spec.parameters, seed=1, startup_trials=4, goals=DIRECTIONS).close()
    for most in (records, None):
        study = Study.open(path, spec.parameters)
        points = first_points(spec, UNTOUCHED)
        Simulation(spec, study, truth, untouched_goals=UNTOUCHED.goals, files=files, first_points=points).run(most)
        resumed = study.trials()
        study.close()
    assert [(t.first_point, t.parameters) for t in resumed] == [(t.first_point, t.parameters) for t in whole]


def test_rates_that_fail_are_no_reason_to_end_the_search(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "search.trials=10", "limits.max_failed_share=0.0")
    study = Study.in_memory(spec.parameters, seed=1, startup_trials=4, goals=DIRECTIONS)
    points, truth = first_points(spec, UNTOUCHED), Truth(USUAL / 10)
    scheduler = TrialScheduler(spec, study, MemoryFiles(), UNTOUCHED.goals, Unheard(), first_points=points)
    while (job := scheduler.next_job()) is not None:
        trial = study.trial(job.key)
        if trial.first_point is not None and trial.parameters["learning_rate"] > USUAL / 3:
            scheduler.on_end(job.key, Outcome(kind="failed", reason="loss is not finite"))
        else:
            scheduler.on_end(job.key, Outcome(kind="complete", result=truth(trial, ()).result, slot=0))
    assert [trial.state for trial in study.trials()[:3]] == ["failed", "complete", "failed"]
    assert not scheduler.too_many_failed and len(study) == 10
    assert points_of(spec).bracket(study.trials()).best in (0.00016, 3.2e-05)


def test_a_search_without_a_complete_trial_has_failed(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "search.trials=3", "limits.max_failed_share=0.5")
    study = Study.in_memory(spec.parameters, seed=1, startup_trials=4, goals=DIRECTIONS)
    scheduler = TrialScheduler(
        spec, study, MemoryFiles(), UNTOUCHED.goals, Unheard(), first_points=first_points(spec, UNTOUCHED)
    )
    while (job := scheduler.next_job()) is not None:
        assert not scheduler.too_many_failed
        scheduler.on_end(job.key, Outcome(kind="failed", reason="loss is not finite"))
    assert scheduler.too_many_failed and len(study) == 3


def test_first_points_are_never_stopped_and_others_are(tmp_path: Path) -> None:
    def hopeless(trial: TrialRecord, rungs: Sequence[float]) -> SimulatedTrial:
        done = Truth(USUAL)(trial, rungs)
        values = {"clean_accuracy": 0.8 - 0.01 * trial.number, "robust_accuracy": 0.3 - 0.001 * trial.number}
        reports = [
            Report(
                step=1, steps=9, epoch=share, epochs=1, progress=share, rung=True, values=values,
                train_s=share, evaluation_s=0.0, time_s=0.0,
            )
            for share in rungs
        ]  # fmt: skip
        return SimulatedTrial(reports=reports, result=done.result)

    spec = spec_of(tmp_path, "stopping.kind=moasha")
    study = Study.in_memory(spec.parameters, seed=1, startup_trials=4, goals=DIRECTIONS)
    Simulation(spec, study, hopeless, untouched_goals=UNTOUCHED.goals, first_points=first_points(spec, UNTOUCHED)).run()
    assert {trial.state for trial in study.trials() if trial.first_point is not None} == {"complete"}
    assert "stopped" in {trial.state for trial in study.trials()}


def test_a_spec_may_name_points_or_none_and_rates_are_searched_where_they_may_be_good(tmp_path: Path) -> None:
    point = "{objective: dpo, beta: 1.0, lambda_reg: 0.1, tune: visual, learning_rate: 0.5}"
    for written in (f"[{point}]", "[]"):
        trials = searched(spec_of(tmp_path, f"points={written}"), Truth(USUAL))
        assert tried(trials) == [] and (trials[0].parameters["learning_rate"] == 0.5) == ("dpo" in written)
        for trial in trials[1:]:
            usual = USUAL if trial.parameters["tune"] == "visual" else 0.03
            assert usual / 10.1 <= trial.parameters["learning_rate"] <= usual * 10.1
    assert first_points(spec_of(tmp_path, *PLANNED), UNTOUCHED) is None


PLANNED = (
    "search={sampler: grid}",
    "parameters={objective: cross_entropy, tune: visual, learning_rate: {choices: [1e-4, 1e-3]}}",
)


def test_a_scope_with_a_range_of_its_own_does_not_mislead_the_others(tmp_path: Path) -> None:
    rates = "[{when: {tune: visual}, low: 1e-5, high: 1e-3, log: true}, {when: {tune: transform}, value: auto}]"
    spec = spec_of(tmp_path, f"parameters.learning_rate={rates}")
    by_name = {trial.first_point: trial.parameters for trial in searched(spec, Truth(USUAL))}
    assert by_name["middle of the ranges"]["learning_rate"] == pytest.approx(1e-4)
    assert by_name["middle of transform"]["learning_rate"] == pytest.approx(0.03 * 1e-3 / USUAL, rel=0.1)


def test_large_models_begin_objectives_with_the_papers_settings(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    large = make_untouched(pairs=1280, embed_dim=512, image_parameters=87_000_000)
    by_name = {trial.first_point: trial.parameters for trial in searched(spec, Truth(1e-4), untouched=large)}
    assert (by_name["kto"]["beta"], by_name["dpo"]["beta"]) == (1.5, 1.0)
    small = {trial.first_point: trial.parameters for trial in searched(spec, Truth(USUAL))}
    assert small["kto"]["beta"] == small["dpo"]["beta"] == pytest.approx(1.0)


ATTRIBUTE = """\
task: attribute
sets: {world: {kind: world, train: 1024}}
train: {set: world}
attribute: {bias: BIAS}
evaluate: {search: {sets: [world]}, test: {sets: [world]}}
parameters:
  target: {choices: [flipped, neutral, equal]}
  objective:
    - {when: {target: flipped}, choices: [dpo, kto, cross_entropy]}
    - {when: {target: neutral}, choices: [ipo, cross_entropy]}
  beta_m0: {when: {target: flipped, objective: [dpo, kto]}, low: 0.2, high: 5.0, log: true}
  lambda_reg: {low: 0.1, high: 3.0, log: true}
  tune: transform
  learning_rate: auto
"""


@pytest.mark.parametrize(
    ("bias", "targets"),
    [("max_skew", ["equal", "flipped", "neutral"]), ("attribute_gap", ["flipped", "neutral", "equal"])],
)
def test_attributes_try_their_targets_in_place_of_scopes(tmp_path: Path, bias: str, targets: list[str]) -> None:
    spec = spec_of(tmp_path, text=ATTRIBUTE.replace("BIAS", bias))
    goals = spec.task_goals()
    untouched = make_untouched(
        goals={goals[0].metric: 0.9, goals[1].metric: 0.5}, pairs=1280, embed_dim=64, image_parameters=1_330_000
    )

    def course(trial: TrialRecord, rungs: Sequence[float]) -> SimulatedTrial:
        gain = 0.2 - 0.05 * abs(math.log10(trial.parameters.get("learning_rate", 1.0) / 0.03))
        values: dict[str, Any] = {goals[0].metric: 0.9, goals[1].metric: 0.5 - gain}
        point = Point(weights="last", strength=1.0, values=values)
        return SimulatedTrial(
            reports=[], result=TrialResult(values=values, points=(point,), epochs=1, train_s=1.0, evaluation_s=0.0)
        )

    directions = {goal.metric: goal.direction for goal in goals}
    study = Study.in_memory(spec.parameters, seed=1, startup_trials=4, goals=directions)
    points = first_points(spec, untouched)
    Simulation(spec, study, course, untouched_goals=untouched.goals, first_points=points).run()
    first = [trial for trial in study.trials() if trial.baseline is None]
    assert {trial.parameters["target"] for trial in first[:3]} == {targets[0]}
    assert [trial.parameters["target"] for trial in first[3:5]] == targets[1:]
    assert {trial.first_point for trial in first} >= {"most lambda_reg", "least lambda_reg", "kto", "dpo", "ipo"}


def test_the_usual_rate_falls_with_steps_and_size() -> None:
    world = ModelSize(embed_dim=64, image_parameters=1_330_000)
    vit = ModelSize(embed_dim=512, image_parameters=87_000_000)
    assert usual_rate("visual", 10, world) == 8e-4 and usual_rate("transform", 10, world) == 0.03
    assert usual_rate("visual", 160, world) == 2e-4
    assert usual_rate("transform", 10, vit) == pytest.approx(0.03 / 8, rel=0.02)
    assert 5e-6 < usual_rate("visual", 750, vit) < 5e-5


def test_baseline_without_a_rate_begins_at_the_usual_one(tmp_path: Path) -> None:
    def rates(paint: str) -> list[float]:
        spec = spec_of(tmp_path, text=SPEC.replace("paint: null", paint))
        return [baseline.parameters["learning_rate"] for baseline in rated_baselines(spec, UNTOUCHED)]

    assert rates("paint: {tune: visual}") == [USUAL]
    assert rates("paint: {tune: transform}") == [0.03]
    assert rates("paint: {learning_rate: 2e-5}") == [2e-5]
    assert rates("paint: null") == []

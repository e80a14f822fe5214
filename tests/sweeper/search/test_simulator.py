"""Whole sweeps under a virtual clock: stopping, kills and resumes, without training anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.records import TrialRecord
from sweeper.search.pareto import hypervolume
from sweeper.search.simulator import MemoryFiles, SimulatedTrial, Simulation
from sweeper.search.study import Study
from sweeper.spec.spec import Spec
from tests.helpers.goals import DIRECTIONS
from tests.helpers.reports import make_report, make_result
from tests.helpers.specs import make_spec as demo_spec
from tests.helpers.specs import searched_parameters

UNTOUCHED = {"clean_accuracy": 0.9, "robust_accuracy": 0.3}
EPOCH_S, EVALUATION_S = 1.0, 0.1


def make_spec(**changes: Any) -> Spec:
    return demo_spec(
        **{
            "parameters": searched_parameters() | {"lambda_reg": {"low": 0.01, "high": 10.0, "log": True}},
            "paint": None,
            "search": {"trials": 24, "seed": 1, "startup_trials": 6},
            "stopping": {"kind": "moasha"},
            **changes,
        }
    )


def course(trial: TrialRecord, rungs: Sequence[float]) -> SimulatedTrial:
    """Lambda trades clean against robust accuracy; a beta far from 0.5 costs both, and shows early."""
    place = (math.log10(trial.parameters["lambda_reg"]) + 2) / 3
    loss = 0.4 * abs(math.log(trial.parameters["beta"] / 0.5))

    def goals(progress: float) -> dict[str, float]:
        return {
            "clean_accuracy": 0.5 + (0.4 * place - loss) * progress,
            "robust_accuracy": 0.3 + (0.5 * (1 - place**2) - loss) * progress,
        }

    reports = [
        make_report(
            goals(rung),
            step=round(90 * rung),
            progress=rung,
            train_s=9 * EPOCH_S * rung,
            evaluation_s=EVALUATION_S * (number + 1),
        )
        for number, rung in enumerate(rungs)
    ]
    result = make_result(goals(1.0), train_s=9 * EPOCH_S, evaluation_s=EVALUATION_S * (len(rungs) + 1))
    return SimulatedTrial(reports=reports, result=result)


def make_study(spec: Spec, path: Path | None = None) -> Study:
    settings: dict[str, Any] = {"seed": spec.search.seed, "startup_trials": spec.search.startup(), "goals": DIRECTIONS}
    if path is None:
        return Study.in_memory(spec.parameters, **settings)
    return Study.create(path, spec.parameters, **settings)


def run(spec: Spec, **options: Any) -> Simulation:
    simulation = Simulation(spec, make_study(spec), course, untouched_goals=UNTOUCHED, **options)
    simulation.run()
    return simulation


def volume(simulation: Simulation) -> float:
    values = [end.trial.values for end in simulation.ended_trials if end.trial.values is not None]
    return hypervolume([(v["clean_accuracy"], v["robust_accuracy"]) for v in values], (0.5, 0.3))


@pytest.mark.parametrize("slots", [1, 4])
def test_a_sweep_with_stopping_costs_less_and_ends_its_trials(slots: int) -> None:
    stopping = {"kind": "moasha", "reduction_factor": 3}
    stopped, whole = (
        run(make_spec(stopping=stopping), slots=slots),
        run(make_spec(stopping={"kind": "none"}), slots=slots),
    )
    assert len(stopped.ended_trials) == len(whole.ended_trials) == 24
    assert {end.trial.state for end in whole.ended_trials} == {"complete"}
    assert whole.ended_trials[-1].spent_s == pytest.approx(24 * (9 * EPOCH_S + EVALUATION_S))
    states = [end.trial.state for end in stopped.ended_trials]
    assert states.count("stopped") > 8 and states.count("complete") > 2
    for end in stopped.ended_trials:
        if end.trial.state == "stopped":
            assert end.trial.stopped_at in (1 / 9, 1 / 3) and end.trial.values is None
            evaluations = 1 if end.trial.stopped_at == 1 / 9 else 2
            assert end.trial.cost_s == pytest.approx(
                9 * EPOCH_S * end.trial.stopped_at + evaluations * EVALUATION_S, abs=2e-3
            )
    assert stopped.ended_trials[-1].spent_s < 0.6 * whole.ended_trials[-1].spent_s
    wall_s = stopped.ended_trials[-1].now_s
    assert stopped.ended_trials[-1].spent_s <= slots * wall_s * (1 + 1e-9)


def test_trials_of_different_length_are_compared_at_shares_of_their_own_steps() -> None:
    parameters = {**make_spec().parameters.raw, "epochs": {"choices": [1, 9]}}
    spec = make_spec(parameters=parameters, search={"trials": 48, "seed": 1, "sampler": "random"})

    def course_of_length(trial: TrialRecord, rungs: Sequence[float]) -> SimulatedTrial:
        length, simulated = trial.parameters["epochs"] / 9, course(trial, rungs)
        reports = [replace(report, train_s=report.train_s * length) for report in simulated.reports]
        return SimulatedTrial(
            reports=reports, result=replace(simulated.result, train_s=simulated.result.train_s * length)
        )

    simulation = Simulation(spec, make_study(spec), course_of_length, untouched_goals=UNTOUCHED)
    simulation.run()
    alike = Simulation(spec, make_study(spec), course, untouched_goals=UNTOUCHED)
    alike.run()
    assert [told(end.trial) for end in simulation.ended_trials] == [told(end.trial) for end in alike.ended_trials]
    for epochs in (1, 9):
        trials = [end.trial for end in simulation.ended_trials if end.trial.parameters["epochs"] == epochs]
        assert {trial.state for trial in trials} == {"stopped", "complete"}
        for trial in trials:
            share = trial.stopped_at or 1.0
            evaluations = {1 / 9: 1, 1 / 3: 2, 1.0: 3}[share]
            assert trial.cost_s == pytest.approx(epochs * EPOCH_S * share + evaluations * EVALUATION_S, abs=2e-3)


def test_virtual_slots_work_side_by_side() -> None:
    single, four = (run(make_spec(stopping={"kind": "none"}), slots=slots) for slots in (1, 4))
    assert four.ended_trials[-1].now_s == pytest.approx(single.ended_trials[-1].now_s / 4)


@settings(max_examples=12)
@given(kills=st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=4))
def test_killed_and_resumed_with_one_slot_it_ends_as_if_left_alone(kills: list[int]) -> None:
    """A kill falls after a metric line, before its decision, or after the study was told."""
    spec = make_spec(search={"trials": 14, "seed": 2, "startup_trials": 4})
    alone = make_study(spec)
    Simulation(spec, alone, course, untouched_goals=UNTOUCHED).run()
    killed, files = make_study(spec), MemoryFiles()
    for records in kills:
        Simulation(spec, killed, course, untouched_goals=UNTOUCHED, files=files).run(records)
    Simulation(spec, killed, course, untouched_goals=UNTOUCHED, files=files).run()
    assert [told(trial) for trial in killed.trials()] == [told(trial) for trial in alone.trials()]


def told(trial: TrialRecord) -> tuple[Any, ...]:
    return trial.number, trial.state, trial.parameters, trial.values, trial.stopped_at


def test_a_resumed_sweep_stops_the_trials_that_the_unkilled_one_would_have(tmp_path: Path) -> None:
    """Whatever the moment: the rungs of the killed driver are those rebuilt from the lines."""
    spec = make_spec(search={"trials": 14, "seed": 2, "startup_trials": 4})
    for records, slots in ((2, 1), (9, 3), (16, 3)):
        files, path = MemoryFiles(), tmp_path / f"{records}.db"
        study = make_study(spec, path)
        Simulation(spec, study, course, untouched_goals=UNTOUCHED, slots=slots, files=files).run(records)
        ended = {trial.number: told(trial) for trial in study.trials() if trial.state != "running"}
        study.close()
        study = Study.open(path, spec.parameters)
        Simulation(spec, study, course, untouched_goals=UNTOUCHED, slots=slots, files=files).run()
        after = {trial.number: told(trial) for trial in study.trials()}
        assert len(after) == 14 and not any(state == "running" for _, state, *_ in after.values())
        assert {number: after[number] for number in ended} == ended, "what has ended stays as it is"
        stopped = [trial for trial in study.trials() if trial.state == "stopped"]
        assert all(files.lines[trial.number][-1].progress == trial.stopped_at for trial in stopped)
        study.close()


def test_the_baseline_and_the_points_of_a_spec_are_never_stopped() -> None:
    paint = {"learning_rate": 1e-3, "tune": "visual"}
    points = [{"beta": 1.9, "lambda_reg": 0.1}, {"beta": 0.11, "lambda_reg": 0.1}]
    spec = make_spec(paint=paint, points=points, stopping={"kind": "moasha", "reduction_factor": 50})

    def hopeless_at_first(trial: TrialRecord, rungs: Sequence[float]) -> SimulatedTrial:
        if trial.number > 2:
            return course(trial, rungs)
        assert not rungs
        values = {"clean_accuracy": 0.0, "robust_accuracy": 0.0}
        return SimulatedTrial(reports=[], result=make_result(values, train_s=9.0, evaluation_s=0.1))

    simulation = Simulation(spec, make_study(spec), hopeless_at_first, untouched_goals=UNTOUCHED, slots=2)
    simulation.run()
    states = {end.trial.number: end.trial.state for end in simulation.ended_trials}
    assert [states[number] for number in range(3)] == ["complete"] * 3
    assert [end.trial.state for end in simulation.ended_trials].count("stopped") > 12

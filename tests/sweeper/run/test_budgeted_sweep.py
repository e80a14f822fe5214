"""Whole sweeps within a budget under a virtual clock: what is begun, what is interrupted, how a sweep goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.jobs import Outcome
from sweeper.records import Retraining, TrialRecord
from sweeper.run.budget import Session
from sweeper.run.expected_cost import cost_model
from sweeper.run.usage import UsageMeter
from sweeper.run.usage_file import read_usage
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.simulator import MemoryFiles
from sweeper.search.study import Study
from sweeper.spec.quantities import Budget
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.goals import DIRECTIONS
from tests.helpers.reports import make_result
from tests.sweeper.search.test_simulator import UNTOUCHED, make_spec
from trainables.records import Report

TICK_S = 1.0
TRIALS = 12
RESULT = make_result(UNTOUCHED)


class _Session:
    """Listens to and controls budgeted session's scheduler, as the sweep's observer and control do."""

    def __init__(self, usage: UsageMeter, interrupt: Callable[[], None]) -> None:
        self._usage, self._interrupt = usage, interrupt
        self.begun: list[int] = []

    def started(self, trial: TrialRecord) -> None:
        self.begun.append(trial.number)
        self._usage.started(trial)

    def reported(self, trial: TrialRecord, report: Report) -> None:
        self._usage.reported(trial, report)

    def ended(self, trial: TrialRecord) -> None:
        self._usage.ended(trial)

    def tick(self) -> None:
        self._usage.tick()

    def stop_requested(self) -> bool:
        return self._usage.used_up()

    def stop_running(self) -> None:
        self._interrupt()

    def may_start(self, confirming: bool) -> bool:
        return self._usage.may_start()

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining]:
        return ()


class _Sweep:
    """A sweep whose trial number n takes ``lengths_s[n]`` seconds of a slot; what was trained stays in ``done_s``."""

    def __init__(self, folder: SweepFolder, lengths_s: list[float], slots: int) -> None:
        self.spec = make_spec(search={"trials": TRIALS, "sampler": "random"}, stopping={"kind": "none"})
        self.study = Study.in_memory(self.spec.parameters, goals=DIRECTIONS, seed=0, startup_trials=4, sampler="random")
        self.folder, self._lengths_s, self._slots = folder, lengths_s, slots
        self._done_s = [0.0] * TRIALS
        self._now_s = 0.0

    def run(self, budget: Budget | None, time_s: float | None = None) -> list[int]:
        """One session, from asking for slots to giving them back. Returns the trials that were begun in it."""
        session = Session(started_s=0.0, device="gpu", slots=self._slots, devices_per_slot=1.0, wall_s=0.0)
        usage = UsageMeter(
            self.folder,
            session,
            self.study.trials(),
            planned=TRIALS,
            epochs=self.spec.training.epochs,
            costs=cost_model(self.spec),
            budget=budget,
            time_s=time_s,
            clock=lambda: self._now_s,
        )
        running: dict[int, float] = {}

        def interrupt() -> None:
            for key in list(running):
                del running[key]
                trials.on_end(key, Outcome(kind="interrupted"))

        control = _Session(usage, interrupt)
        trials = TrialScheduler(self.spec, self.study, MemoryFiles(), UNTOUCHED, control, control)
        while running or not trials.exhausted():
            while len(running) < self._slots and (job := trials.next_job()) is not None:
                running[job.key] = self._now_s
            if not running and trials.exhausted():
                break
            self._now_s += TICK_S
            for key in list(running):
                self._done_s[key] += TICK_S
                if self._done_s[key] >= self._lengths_s[key]:
                    busy_s = self._now_s - running.pop(key)
                    trials.on_end(key, Outcome(kind="complete", result=RESULT, slot=0, busy_s=busy_s))
            trials.on_tick()
        usage.save()
        return control.begun

    def states(self) -> list[str]:
        return [trial.state for trial in self.study.trials()]


def sweep(tmp_path: Path, lengths_s: list[float], slots: int) -> _Sweep:
    folder = SweepFolder(tmp_path, "demo")
    folder.path.mkdir(exist_ok=True)
    return _Sweep(folder, lengths_s, slots)


def hours(device_s: float) -> Budget:
    return Budget(device_s / 3600, "gpu")


def test_no_trial_is_begun_that_would_not_end_within_the_budget(tmp_path: Path) -> None:
    budgeted = sweep(tmp_path, [10.0] * TRIALS, slots=2)
    assert budgeted.run(hours(75.0)) == [0, 1, 2, 3, 4, 5], (
        "75 device seconds hold three rounds of two trials, not four"
    )
    assert budgeted.states() == ["complete"] * 6
    assert read_usage(budgeted.folder).device_s == 2 * 30.0, "slots are not held for nothing"
    assert budgeted.run(hours(75.0)) == []
    assert budgeted.run(hours(1000.0)) == [6, 7, 8, 9, 10, 11]
    assert budgeted.states() == ["complete"] * TRIALS


def test_trials_that_take_longer_than_thought_are_interrupted_and_go_on_in_the_next_session(tmp_path: Path) -> None:
    budgeted = sweep(tmp_path, [10.0, 10.0, 100.0, 10.0] + [10.0] * 8, slots=2)
    budgeted.run(hours(100.0))
    assert read_usage(budgeted.folder).device_s == pytest.approx(100.0, abs=2 * TICK_S)
    assert budgeted.states().count("running") == 1 and budgeted.study.trial(2).state == "running"
    begun = budgeted.run(hours(1000.0))
    assert begun[0] == 2, "what was interrupted comes first"
    assert budgeted.states() == ["complete"] * TRIALS


def test_a_session_ends_with_its_time_and_the_next_has_a_time_of_its_own(tmp_path: Path) -> None:
    budgeted = sweep(tmp_path, [10.0] * TRIALS, slots=3)
    assert len(budgeted.run(None, time_s=25.0)) == 6
    assert len(budgeted.run(None, time_s=25.0)) == 6
    assert budgeted.states() == ["complete"] * TRIALS


@settings(max_examples=40)
@given(
    lengths_s=st.lists(st.integers(1, 60), min_size=TRIALS, max_size=TRIALS),
    slots=st.integers(1, 5),
    budgets=st.lists(st.integers(1, 200), min_size=1, max_size=4),
)
def test_however_a_budget_is_raised_it_is_kept_and_nothing_is_done_twice(
    tmp_path_factory: Any, lengths_s: list[int], slots: int, budgets: list[int]
) -> None:
    budgeted = sweep(tmp_path_factory.mktemp("storage"), [float(length) for length in lengths_s], slots)
    budget_s = 0.0
    for more in budgets:
        budget_s += more
        budgeted.run(hours(budget_s))
        assert read_usage(budgeted.folder).device_s <= budget_s + slots * TICK_S * len(budgets)
    budgeted.run(None)
    assert budgeted.states() == ["complete"] * TRIALS
    assert sum(trial.cost_s or 0.0 for trial in budgeted.study.trials()) <= sum(lengths_s)

"""Whole sweeps within a budget under a virtual clock: what is begun, what is interrupted, how one goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.records import Outcome, Report, TrialRecord
from sweeper.run.budget import Session
from sweeper.run.usage import UsageMeter, read_usage
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.simulator import MemoryFiles
from sweeper.search.study import Study
from sweeper.spec.quantities import Budget
from sweeper.storage.sweep_folder import SweepFolder
from tests.sweeper.search.test_simulator import UNTOUCHED, make_spec

TICK_S = 1.0
TRIALS = 12
RESULT = {"values": UNTOUCHED, "points": [], "train_s": 1.0, "evaluation_s": 0.0}


class _Listener:
    """Passes on to the meter, as the sweep's observer does."""

    def __init__(self, meter: UsageMeter) -> None:
        self._meter = meter
        self.begun: list[int] = []

    def started(self, trial: TrialRecord) -> None:
        self.begun.append(trial.number)
        self._meter.started(trial)

    def reported(self, trial: TrialRecord, report: Report) -> None:
        self._meter.reported(trial, report)

    def ended(self, trial: TrialRecord) -> None:
        self._meter.ended(trial)

    def tick(self) -> None:
        self._meter.tick()


class _Sweep:
    """A sweep whose trial number n takes ``lengths_s[n]`` seconds of a slot; what was trained stays in ``done_s``."""

    def __init__(self, folder: SweepFolder, lengths_s: list[float], slots: int) -> None:
        self.spec = make_spec(search={"trials": TRIALS, "sampler": "random"}, stopping={"kind": "none"})
        self.study = Study.in_memory(self.spec.parameters, seed=0, startup_trials=4, sampler="random")
        self.folder, self._lengths_s, self._slots = folder, lengths_s, slots
        self._done_s = [0.0] * TRIALS
        self._now_s = 0.0

    def go(self, budget: Budget | None, time_s: float | None = None) -> list[int]:
        """One go, from asking for slots to giving them back. Returns the trials that were begun in it."""
        go = Session(started_s=0.0, device="gpu", slots=self._slots, devices_per_slot=1.0, wall_s=0.0)
        trials_before = self.study.trials()
        meter = UsageMeter(
            self.folder, go, trials_before, planned=TRIALS, budget=budget, time_s=time_s, clock=lambda: self._now_s
        )
        listener = _Listener(meter)
        running: dict[int, float] = {}

        def interrupt() -> None:
            for key in list(running):
                del running[key]
                trials.on_end(key, Outcome(kind="interrupted"))

        trials = TrialScheduler(
            self.spec,
            self.study,
            MemoryFiles(),
            UNTOUCHED,
            listener,
            interrupted=meter.used_up,
            interrupt=interrupt,
            may_start=lambda confirming: meter.may_start(),
        )
        while running or not trials.exhausted():
            while len(running) < self._slots and (task := trials.next_task()) is not None:
                running[task.key] = self._now_s
            self._now_s += TICK_S
            for key in list(running):
                self._done_s[key] += TICK_S
                if self._done_s[key] >= self._lengths_s[key]:
                    busy_s = self._now_s - running.pop(key)
                    trials.on_end(key, Outcome(kind="complete", result=dict(RESULT), slot=0, busy_s=busy_s))
            trials.on_tick()
        meter.save()
        return listener.begun

    def states(self) -> list[str]:
        return [trial.state for trial in self.study.trials()]


def sweep(tmp_path: Path, lengths_s: list[float], slots: int) -> _Sweep:
    return _Sweep(SweepFolder(tmp_path, "demo"), lengths_s, slots)


def hours(device_s: float) -> Budget:
    return Budget(device_s / 3600, "gpu")


def test_no_trial_is_begun_that_would_not_end_within_the_budget(tmp_path: Path) -> None:
    one = sweep(tmp_path, [10.0] * TRIALS, slots=2)
    assert one.go(hours(75.0)) == [0, 1, 2, 3, 4, 5], "75 device seconds hold three rounds of two trials, not four"
    assert one.states() == ["complete"] * 6
    assert read_usage(one.folder).device_s == 2 * 30.0, "slots are not held for nothing"
    assert one.go(hours(75.0)) == []
    assert one.go(hours(1000.0)) == [6, 7, 8, 9, 10, 11]
    assert one.states() == ["complete"] * TRIALS


def test_trials_that_take_longer_than_thought_are_interrupted_and_go_on_in_the_next_go(tmp_path: Path) -> None:
    one = sweep(tmp_path, [10.0, 10.0, 100.0, 10.0] + [10.0] * 8, slots=2)
    one.go(hours(100.0))
    assert read_usage(one.folder).device_s == pytest.approx(100.0, abs=2 * TICK_S)
    assert one.states().count("running") == 1 and one.study.trial(2).state == "running"
    begun = one.go(hours(1000.0))
    assert begun[0] == 2, "what was interrupted comes first"
    assert one.states() == ["complete"] * TRIALS


def test_a_go_ends_with_its_time_and_the_next_has_a_time_of_its_own(tmp_path: Path) -> None:
    one = sweep(tmp_path, [10.0] * TRIALS, slots=3)
    assert len(one.go(None, time_s=25.0)) == 6
    assert len(one.go(None, time_s=25.0)) == 6
    assert one.states() == ["complete"] * TRIALS


@settings(max_examples=40)
@given(
    lengths_s=st.lists(st.integers(1, 60), min_size=TRIALS, max_size=TRIALS),
    slots=st.integers(1, 5),
    budgets=st.lists(st.integers(1, 200), min_size=1, max_size=4),
)
def test_however_a_budget_is_raised_it_is_kept_and_nothing_is_done_twice(
    tmp_path_factory: Any, lengths_s: list[int], slots: int, budgets: list[int]
) -> None:
    one = sweep(tmp_path_factory.mktemp("storage"), [float(length) for length in lengths_s], slots)
    budget_s = 0.0
    for more in budgets:
        budget_s += more
        one.go(hours(budget_s))
        assert read_usage(one.folder).device_s <= budget_s + slots * TICK_S * len(budgets)
    one.go(None)
    assert one.states() == ["complete"] * TRIALS
    assert sum(trial.cost_s or 0.0 for trial in one.study.trials()) <= sum(lengths_s)

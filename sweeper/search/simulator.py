"""A sweep of pretended trials under a virtual clock: the real study, search, stopping rule and order of records.

Without Ray, training or waiting: for tests, and to compare searches over recorded or analytic problems.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeper.records import Outcome, Report, Task, TrialRecord
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study
from sweeper.spec.spec import Spec


@dataclass(frozen=True, kw_only=True)
class SimulatedTrial:
    """What a trial would say, were it trained."""

    reports: Sequence[Report]
    """Where the stopping rule is asked: ``step``, ``progress``, both goals, and ``train_s`` and ``evaluation_s`` since
    the trial began."""
    result: Mapping[str, Any]
    """At its end: ``values``, ``points``, ``train_s``, ``evaluation_s``."""


SimulateTrial = Callable[[TrialRecord, Sequence[float]], SimulatedTrial]
"""From a trial and the rungs at which it is to report."""


@dataclass(frozen=True)
class SimulatedEnd:
    """A trial's end, by the virtual clock."""

    trial: TrialRecord
    now_s: float
    spent_s: float
    """By all slots together until now, on what has ended."""


@dataclass
class MemoryFiles:
    """What trials leave behind; a second simulation given the same goes on from it."""

    lines: dict[int, list[Report]] = field(default_factory=dict)
    now_s: float = 0.0
    """When the last line was written."""

    def task(self, trial: TrialRecord, rungs: Sequence[float]) -> Task:
        payload = {"trial": trial, "rungs": rungs}
        return Task(kind="train", key=trial.number, attempt=1, payload=payload)

    def reports(self, number: int) -> list[Report]:
        return self.lines.get(number, [])

    def stopped(self, number: int) -> None: ...


@dataclass
class _Live:
    """A trial that holds a slot."""

    course: SimulatedTrial
    next_report: int
    before_s: float
    """On its clock, when this attempt began."""


class Simulation:
    """``slots`` trials at once. ``run`` may be cut short, as by a kill: another simulation on the same study and files
    then goes on."""

    def __init__(
        self,
        spec: Spec,
        study: Study,
        course: SimulateTrial,
        *,
        untouched: dict[str, float],
        slots: int = 1,
        files: MemoryFiles | None = None,
    ) -> None:
        self._course, self._free = course, slots
        self._files = MemoryFiles() if files is None else files
        self._study = study
        self._trials = TrialScheduler(spec, study, self._files, untouched, self)
        self._live: dict[int, _Live] = {}
        self._due: list[tuple[float, int]] = []
        self._now_s, self._spent_s = self._files.now_s, 0.0
        self.ended_trials: list[SimulatedEnd] = []

    def run(self, most_records: int | None = None, until_s: float = float("inf")) -> list[SimulatedEnd]:
        """Until the sweep is through, by the virtual clock until ``until_s``, or until so many things (lines and what
        the study is told) were recorded."""
        left = float("inf") if most_records is None else most_records
        while left > 0:
            while self._free and (task := self._trials.next_task()) is not None:
                self._begin(task)
            if not self._due or self._due[0][0] > until_s:
                break
            self._now_s, key = heapq.heappop(self._due)
            live = self._live[key]
            if live.next_report < len(live.course.reports):
                report = live.course.reports[live.next_report] | {"rung": True, "time_s": self._now_s}
                self._files.lines.setdefault(key, []).append(report)
                self._files.now_s = self._now_s
                left -= 1
                if left > 0:
                    self._judge(key, live, report)
            else:
                self._end(
                    key, live, Outcome(kind="complete", result=dict(live.course.result)), _spent(live.course.result)
                )
                left -= 1
        return self.ended_trials

    # What ``TrialScheduler`` tells

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def tick(self) -> None: ...

    def ended(self, trial: TrialRecord) -> None:
        self._spent_s += trial.cost_s or 0.0
        self.ended_trials.append(SimulatedEnd(trial, self._now_s, self._spent_s))

    # Inside

    def _begin(self, task: Task) -> None:
        self._free -= 1
        course = self._course(task.payload["trial"], task.payload["rungs"])
        lines = self._files.reports(task.key)
        live = _Live(course, len(lines), _spent(lines[-1]) if lines else 0.0)
        self._live[task.key] = live
        self._schedule(task.key, live, live.before_s)

    def _schedule(self, key: int, live: _Live, since_s: float) -> None:
        ahead = live.next_report < len(live.course.reports)
        until = live.course.reports[live.next_report] if ahead else live.course.result
        heapq.heappush(self._due, (self._now_s + _spent(until) - since_s, key))

    def _judge(self, key: int, live: _Live, report: Report) -> None:
        live.next_report += 1
        if self._trials.on_report(key, report):
            self._end(key, live, Outcome(kind="stopped"), _spent(report))
        else:
            self._schedule(key, live, _spent(report))

    def _end(self, key: int, live: _Live, outcome: Outcome, spent_s: float) -> None:
        del self._live[key]
        self._free += 1
        busy_s = spent_s - live.before_s
        self._trials.on_end(key, Outcome(kind=outcome.kind, result=outcome.result, slot=0, busy_s=busy_s))


def _spent(line: Mapping[str, Any]) -> float:
    return float(line["train_s"] + line["evaluation_s"])

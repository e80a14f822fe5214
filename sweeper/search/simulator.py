"""A sweep of simulated trials under a virtual clock, with the real study, search, stopping rule and order of records.

It needs no Ray, no training and no waiting: for tests, and to compare searches over recorded or analytic problems.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweeper.jobs import Job, Outcome, TrainJob
from sweeper.records import TrialRecord
from sweeper.search.first_points import FirstPoints
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study
from sweeper.spec.spec import Spec
from trainables.records import Report, TrialResult


@dataclass(frozen=True, kw_only=True)
class SimulatedTrial:
    """The reports of a trial if it were trained."""

    reports: Sequence[Report]
    """The reports at rungs."""
    result: TrialResult


SimulateTrial = Callable[[TrialRecord, Sequence[float]], SimulatedTrial]
"""Function of a trial and the rungs at which it reports."""


@dataclass(frozen=True)
class SimulatedEnd:
    """The end of a trial, by the virtual clock."""

    trial: TrialRecord
    now_s: float
    spent_s: float
    """Slot seconds of all trials that have ended until now."""


@dataclass
class MemoryFiles:
    """Implements ``scheduler.TrialFiles`` in memory; a second simulation with the same files goes on from them."""

    lines: dict[int, list[Report]] = field(default_factory=dict)
    now_s: float = 0.0
    """Virtual time at which the last line was written, in seconds."""

    def job(self, trial: TrialRecord, rungs: Sequence[float]) -> Job:
        return TrainJob(
            key=trial.number,
            folder=Path(),
            parameters=trial.parameters,
            seed=trial.seed,
            rungs=tuple(rungs),
        )

    def ended(self, number: int) -> None:
        """Do nothing: no worker writes files."""

    def reports(self, number: int) -> list[Report]:
        return self.lines.get(number, [])

    def stopped(self, number: int) -> None: ...


@dataclass
class _LiveTrial:
    """A trial that holds a slot."""

    simulated: SimulatedTrial
    next_report: int
    before_s: float
    """Slot seconds of earlier attempts."""


class Simulation:
    """A sweep with ``slots`` trials at once.

    ``run`` may end early, as after a kill: another simulation on the same study and files then goes on.
    """

    def __init__(
        self,
        spec: Spec,
        study: Study,
        simulate: SimulateTrial,
        *,
        untouched_goals: Mapping[str, float],
        slots: int = 1,
        files: MemoryFiles | None = None,
        first_points: FirstPoints | None = None,
    ) -> None:
        self._simulate, self._free_slots = simulate, slots
        self._files = MemoryFiles() if files is None else files
        self._study = study
        self._scheduler = TrialScheduler(spec, study, self._files, untouched_goals, self, first_points=first_points)
        self._live: dict[int, _LiveTrial] = {}
        self._due: list[tuple[float, int]] = []
        """Heap of (virtual time in seconds, trial) of the next report or end of each live trial."""
        self._now_s, self._spent_s = self._files.now_s, 0.0
        self.ended_trials: list[SimulatedEnd] = []

    def run(self, most_records: int | None = None, until_s: float = float("inf")) -> list[SimulatedEnd]:
        """Run until the sweep is complete, or until a limit is reached.

        Args:
            most_records: limit of the number of records: metric lines, and ends in the study.
            until_s: limit of the virtual clock, in seconds.

        Returns:
            The trials that ended in this run.
        """
        left = float("inf") if most_records is None else most_records
        while left > 0:
            while self._free_slots and (job := self._scheduler.next_job()) is not None:
                assert isinstance(job, TrainJob)
                self._begin(job)
            if not self._due or self._due[0][0] > until_s:
                break
            self._now_s, key = heapq.heappop(self._due)
            live = self._live[key]
            left -= 1
            if live.next_report < len(live.simulated.reports):
                report = replace(live.simulated.reports[live.next_report], rung=True, time_s=self._now_s)
                self._files.lines.setdefault(key, []).append(report)
                self._files.now_s = self._now_s
                if left > 0:
                    self._decide(key, live, report)
            else:
                result = live.simulated.result
                self._end(key, live, Outcome(kind="complete", result=result), result.spent_s)
        return self.ended_trials

    # Called by the scheduler

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None:
        self._spent_s += trial.cost_s or 0.0
        self.ended_trials.append(SimulatedEnd(trial, self._now_s, self._spent_s))

    # Private

    def _begin(self, job: TrainJob) -> None:
        self._free_slots -= 1
        simulated = self._simulate(self._study.trial(job.key), job.rungs)
        reports = self._files.reports(job.key)
        live = _LiveTrial(simulated, len(reports), reports[-1].spent_s if reports else 0.0)
        self._live[job.key] = live
        self._schedule(job.key, live, live.before_s)

    def _schedule(self, key: int, live: _LiveTrial, since_s: float) -> None:
        reports_left = live.next_report < len(live.simulated.reports)
        due = live.simulated.reports[live.next_report] if reports_left else live.simulated.result
        heapq.heappush(self._due, (self._now_s + due.spent_s - since_s, key))

    def _decide(self, key: int, live: _LiveTrial, report: Report) -> None:
        live.next_report += 1
        if self._scheduler.on_report(key, report):
            self._end(key, live, Outcome(kind="stopped"), report.spent_s)
        else:
            self._schedule(key, live, report.spent_s)

    def _end(self, key: int, live: _LiveTrial, outcome: Outcome, spent_s: float) -> None:
        del self._live[key]
        self._free_slots += 1
        self._scheduler.on_end(key, replace(outcome, slot=0, busy_s=spent_s - live.before_s))

"""The stopping rule applied to the trials of one sweep: trials that it may stop, and decisions repeated on resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sweeper.records import TrialRecord
from sweeper.search.stopping import stopping_rule
from sweeper.spec.spec import Spec
from trainables.records import Report, goal_values


class TrialStopper:
    """Decides at rungs whether a trial goes on, and keeps the report of the decision."""

    def __init__(self, spec: Spec, untouched_goals: Mapping[str, float]) -> None:
        self._rule = stopping_rule(spec, untouched_goals)
        self._goals, self._prescribed = spec.task_goals(), spec.prescribed()
        self._last: dict[int, Report] = {}
        """Trial number -> its last report at a rung."""

    def rungs(self, trial: TrialRecord) -> tuple[float, ...]:
        """Return the shares of its own steps after which a trial waits for a decision."""
        return self._rule.rungs if self._rule is not None and self._may_be_stopped(trial) else ()

    def decide(self, trial: TrialRecord, report: Report) -> bool:
        """Return whether to stop a trial on its report."""
        if self._rule is None or not report.rung or not self._may_be_stopped(trial):
            return False
        self._last[trial.number] = report
        return self._rule.report(trial.number, report.progress, goal_values(report.values, self._goals))

    def last_report(self, number: int) -> Report | None:
        """Return the trial's last report at a rung, and forget it."""
        return self._last.pop(number, None)

    def replay(self, trials: Sequence[TrialRecord], reports: Callable[[int], Sequence[Report]]) -> dict[int, Report]:
        """Give the rule all reports of the trials of an earlier session, in order of time.

        Args:
            reports: returns the reports of a trial, by its number.

        Returns:
            The last report of each running trial that is to be stopped: the decision was made, or would have been made,
            when the earlier session ended.
        """
        if self._rule is None:
            return {}
        at_rungs = [
            (report, trial)
            for trial in trials
            if self._may_be_stopped(trial)
            for report in reports(trial.number)
            if report.rung
        ]
        to_stop = {}
        for report, trial in sorted(at_rungs, key=lambda pair: (pair[0].time_s, pair[1].number, pair[0].step)):
            stop = self._rule.report(trial.number, report.progress, goal_values(report.values, self._goals))
            if stop and trial.state == "running":
                to_stop[trial.number] = report
        return to_stop

    def _may_be_stopped(self, trial: TrialRecord) -> bool:
        """Return whether the rule may stop a trial: not baselines, points of the spec, first points or retrainings.

        Baselines and points are shown in any case, first points are compared at their end, and retrainings are measured
        at full length. Known good points would also stop each other, because they are compared first.
        """
        prescribed = trial.number < self._prescribed or trial.first_point is not None
        return not prescribed and trial.confirms is None

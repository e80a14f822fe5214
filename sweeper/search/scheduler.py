"""The choice of the next trial and the record of its end: the sweep's side of ``execution.tune.run_trials``. No Ray.

Order of records, so that a kill at any moment loses nothing: the workers write checkpoint and metric line, then the
study is updated, then MLflow's outbox. On resume the earlier record wins and the later ones are repaired.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sweeper.errors import UnavailableError
from sweeper.jobs import Job, Outcome
from sweeper.records import Retraining, TrialRecord, goals_among
from sweeper.search.first_points import FirstPoints
from sweeper.search.study import Study
from sweeper.search.trial_stopper import TrialStopper
from sweeper.spec.bounds import violation
from sweeper.spec.spec import Spec
from trainables.records import Report, TrialResult
from trainables.tasks.kind import Baseline


class TrialListener(Protocol):
    """Receives the events of trials, after the study was updated."""

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...


class TrialFiles(Protocol):
    """The files of trials on disk."""

    def job(self, trial: TrialRecord, rungs: Sequence[float]) -> Job:
        """Return the next attempt at a trial, which waits for a decision at ``rungs``."""

    def reports(self, number: int) -> list[Report]:
        """Return the reports of a trial, by step."""

    def ended(self, number: int) -> None:
        """Have the files here that a worker has written, before the end of an attempt is recorded."""

    def stopped(self, number: int) -> None:
        """Delete the files that only a trial that goes on needs."""


class SweepControl(Protocol):
    """Limits that the sweep sets for its scheduler."""

    def tick(self) -> None:
        """Called several times a second."""

    def stop_requested(self) -> bool:
        """Return whether running trials shall end and no further trial may begin."""

    def stop_running(self) -> None:
        """Let running trials write a checkpoint and end. Called once, after ``stop_requested``."""

    def may_start(self, confirming: bool) -> bool:
        """Return whether budget and time allow a further trial.

        Args:
            confirming: whether it is a trial of the confirm phase.
        """

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining] | None:
        """Return the retrainings of the confirm phase; None if they are not decided yet, then this is called again.

        Called when the search has ended, with all its trials.
        """


class NoLimits:
    """The control of a sweep that runs to its end without a confirm phase."""

    def tick(self) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def stop_running(self) -> None: ...

    def may_start(self, confirming: bool) -> bool:
        return True

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining]:
        return ()


class TrialScheduler:
    """Hands out trials one at a time, when a slot is free, and records how each ends.

    The search comes first: baselines, the spec's points, then suggestions. When every trial of the search has ended,
    the confirm phase begins.
    """

    def __init__(
        self,
        spec: Spec,
        study: Study,
        files: TrialFiles,
        untouched_goals: Mapping[str, float],
        listener: TrialListener,
        control: SweepControl | None = None,
        search_is_over: Callable[[], bool | None] = lambda: False,
        first_points: FirstPoints | None = None,
        baselines: Sequence[Baseline] | None = None,
    ) -> None:
        """Take over the trials of the study.

        Args:
            untouched_goals: goals of the untouched model on validation.
            control: ``NoLimits`` by default.
            search_is_over: whether the search ends before its last trial; None: not known yet, called again. Once True,
                always True.
            first_points: tried before any suggestion; they also limit the learning rates to search in.
            baselines: the first trials, with learning rates; by default those of the spec.
        """
        self._spec, self._study, self._files, self._untouched_goals = spec, study, files, untouched_goals
        self._listener, self._control = listener, control or NoLimits()
        self._search_is_over, self._first_points = search_is_over, first_points
        self._baselines = spec.baseline_trials() if baselines is None else baselines
        self._points = spec.chosen()
        trials = study.trials()
        self._to_resume = deque(trial for trial in trials if trial.state == "running")
        self._suggested = sum(trial.confirms is None for trial in trials)
        """Number of trials of the search in the study."""
        self._failed = sum(trial.state == "failed" and trial.first_point is None for trial in trials)
        """Number of failed trials, without first points, which may fail on purpose."""
        self._completed = sum(trial.state == "complete" for trial in trials)
        self._running: dict[int, TrialRecord] = {}
        self._spent_s: dict[int, float] = {}
        """Slot seconds that each running trial used in earlier sessions, from its last report."""
        self._retrainings: deque[Retraining] | None = None
        """Retrainings that the confirm phase has not begun yet; None while the search goes on."""
        self._stopping = False
        self._stopper = TrialStopper(spec, untouched_goals)
        self._to_stop = self._stopper.replay(trials, files.reports)

    @property
    def too_many_failed(self) -> bool:
        """Return whether more trials failed than allowed, or the search is over and no trial is complete.

        ``limits.max_failed_share`` is the largest allowed share of the sweep; first points do not count.
        """
        if self._failed > self._spec.limits.max_failed_share * self._spec.search.trials:
            return True
        over = self._suggested >= self._spec.search.trials and not self._running and not self._to_resume
        return over and not self._completed and any(trial.state == "failed" for trial in self._study.trials())

    def next_job(self) -> Job | None:
        """Return the next trial for a free slot; None if there is none now."""
        trial = self._next_trial()
        if trial is None:
            return None
        self._running[trial.number] = trial
        job = self._files.job(trial, self._stopper.rungs(trial))
        self._listener.started(trial)
        return job

    def exhausted(self) -> bool:
        """Return whether no further trial will begin."""
        if self._stopping or self.too_many_failed:
            return True
        if self._retrainings is None:
            return False
        return not self._running and not (self._retrainings and self._control.may_start(True))

    def on_report(self, key: int, report: Report) -> bool:
        """Take a trial's report; return whether to stop the trial."""
        trial = self._running[key]
        self._listener.reported(trial, report)
        return self._stopper.decide(trial, report)

    def on_end(self, key: int, outcome: Outcome) -> None:
        """Record how an attempt at a trial ended. An interrupted trial stays running in the study.

        Raises:
            UnavailableError: the storage failed; the trial stays running too, and the sweep cannot go on.
        """
        trial = self._running.pop(key)
        last_report = self._stopper.last_report(key)
        if outcome.kind == "storage":
            raise UnavailableError(f"trial {key}: {outcome.reason}")
        if outcome.kind == "interrupted":
            return
        self._files.ended(key)
        cost_s = round(self._spent_s.pop(key, 0.0) + outcome.busy_s, 3)
        if outcome.kind == "complete":
            self._record_complete(trial, outcome, cost_s)
            self._completed += 1
        elif outcome.kind == "stopped":
            assert last_report is not None, "only a decision on a report stops a trial"
            self._record_stopped(trial, last_report, outcome.slot, cost_s)
        else:
            self._study.fail(key, outcome.reason or "no reason given", slot=outcome.slot, cost_s=cost_s)
            self._files.stopped(key)  # after the record: a trial that goes on needs its checkpoint
            self._failed += trial.first_point is None
        self._listener.ended(self._study.trial(key))

    def on_tick(self) -> None:
        self._control.tick()
        if not self._stopping and self._control.stop_requested():
            self._stopping = True
            self._control.stop_running()

    def _next_trial(self) -> TrialRecord | None:
        if self._stopping or self.too_many_failed:
            return None
        resumed = self._next_resumed()
        if resumed is not None:
            return resumed
        if self._search_goes_on():
            over = self._search_is_over()
            if over is None:
                return None
            if not over:
                self._suggested += 1
                return self._suggest(self._suggested - 1)
        if any(trial.confirms is None for trial in self._running.values()):
            return None  # the front may still change
        if self._retrainings is None:
            self._start_confirm_phase()
        if not self._retrainings or not self._control.may_start(True):
            return None
        retraining = self._retrainings.popleft()
        return self._study.retrain(retraining.confirms, retraining.seed)

    def _next_resumed(self) -> TrialRecord | None:
        """Return a trial of an earlier session that goes on; trials that are to be stopped are recorded as stopped
        here.
        """
        while self._to_resume:
            trial = self._to_resume.popleft()
            reports = self._files.reports(trial.number)
            spent_s = reports[-1].spent_s if reports else 0.0
            if trial.number not in self._to_stop:
                self._spent_s[trial.number] = spent_s
                return trial
            self._record_stopped(trial, self._to_stop[trial.number], None, round(spent_s, 3))
            self._listener.ended(self._study.trial(trial.number))
        return None

    def _search_goes_on(self) -> bool:
        wanted = self._spec.search.trials
        return self._retrainings is None and self._suggested < wanted and self._control.may_start(False)

    def _start_confirm_phase(self) -> None:
        trials = self._study.trials()
        begun = {(trial.confirms, trial.seed) for trial in trials}
        planned = self._control.plan_retrainings(trials)
        if planned is None:
            return
        self._retrainings = deque(
            retraining for retraining in planned if (retraining.confirms, retraining.seed) not in begun
        )

    def _suggest(self, index: int) -> TrialRecord:
        """Enter trial ``index`` of the search: a baseline, a point of the spec or a first point, or a suggestion.

        A sweep that learns from earlier sweeps has no first points.
        """
        if index < len(self._baselines):
            baseline = self._baselines[index]
            return self._study.add(baseline.parameters, baseline=baseline.name)
        index -= len(self._baselines)
        if index < len(self._points):
            return self._study.add(self._points[index])
        assert not self._spec.search.planned, "a spec never plans more trials than its grid or soup has"
        if self._first_points is None:
            return self._study.ask()
        trials = self._study.trials()
        point = None if self._study.is_warm else self._first_points.next(trials)
        if point is not None:
            return self._study.add(point.parameters, first_point=point.name)
        return self._study.ask(self._first_points.parts(trials))

    def _record_stopped(self, trial: TrialRecord, last: Report, slot: int | None, cost_s: float) -> None:
        self._files.stopped(trial.number)
        self._study.stop(
            trial.number,
            f"not worth going on after {last.progress:.0%} of its steps",
            stopped_at=last.progress,
            values=goals_among(last.values, self._spec.task_goals()),
            duration_s=round(last.spent_s, 3),
            slot=slot,
            cost_s=cost_s,
        )

    def _record_complete(self, trial: TrialRecord, outcome: Outcome, cost_s: float) -> None:
        result = outcome.result
        assert isinstance(result, TrialResult), "a training that completes returns its result"
        self._study.tell(
            trial.number,
            result.values,
            result.points,
            duration_s=round(result.spent_s, 3),
            slot=outcome.slot,
            violation=violation(self._spec.bounds(self._untouched_goals), result.values),
            cost_s=cost_s,
        )

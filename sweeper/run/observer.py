"""Tells progress, tracking, the meter and the front's files what happens to trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from sweeper.front.build import LiveFront
from sweeper.front.report.writer import FrontFiles
from sweeper.records import Front, Report, TrialRecord
from sweeper.run.progress import Progress
from sweeper.run.usage import UsageMeter
from sweeper.tracking.tracker import Tracker


class Observer:
    """Implements ``trials.TrialListener``."""

    def __init__(
        self,
        progress: Progress,
        tracker: Tracker,
        files: FrontFiles,
        front: Callable[[Sequence[TrialRecord]], Front],
        trials: Callable[[], list[TrialRecord]],
        trial_tags: dict[str, str],
        meter: UsageMeter | None = None,
    ) -> None:
        """``front``: of given trials, also on the thread of ``files``; ``trials``: all there are; ``meter`` None:
        nothing is charged, as in a simulation."""
        self._progress, self._tracker, self._files = progress, tracker, files
        self._front, self._trials, self._live = front, trials, LiveFront(front, trials())
        self._trial_tags, self._meter = trial_tags, meter

    def repeat(self, trials: Iterable[TrialRecord], reports: Callable[[int], list[Report]]) -> None:
        """On resume: tells MLflow every trial's story again; what it has already is not told twice."""
        for trial in trials:
            self._track_start(trial)
            for report in reports(trial.number):
                self._tracker.trial_reported(trial.number, report)
            if trial.state != "running":
                self._track_end(trial)

    def started(self, trial: TrialRecord) -> None:
        if self._meter is not None:
            self._meter.started(trial)
        self._progress.trial_started(trial.number, trial.parameters)
        self._track_start(trial)

    def reported(self, trial: TrialRecord, report: Report) -> None:
        if self._meter is not None:
            self._meter.reported(trial, report)
        self._progress.trial_reported(trial.number, report)
        self._tracker.trial_reported(trial.number, report)

    def ended(self, trial: TrialRecord) -> None:
        if self._meter is not None:
            self._meter.ended(trial)
        self._progress.trial_ended(trial)
        self._track_end(trial)
        front = self._live.ended(trial)
        if trial.state == "complete":
            self._progress.front_updated(front)
            self._tracker.hypervolume_changed(front)
            self._files.offer(partial(self._front, self._trials()))

    def tick(self) -> None:
        if self._meter is not None:
            self._meter.tick()
        self._progress.tick()

    def _track_end(self, trial: TrialRecord) -> None:
        self._tracker.trial_ended(trial, {} if self._meter is None else self._meter.costs(trial))

    def _track_start(self, trial: TrialRecord) -> None:
        tags = dict(self._trial_tags)
        if trial.baseline is not None:
            tags["sweeper.baseline"] = trial.baseline
        if trial.confirms is not None:
            tags["sweeper.confirms"] = str(trial.confirms)
        self._tracker.trial_started(trial.number, trial.parameters, trial.seed, trial.slot, tags)

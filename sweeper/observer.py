"""Tells progress, tracking and the front's files what happens to trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sweeper.front_files import FrontFiles
from sweeper.progress import Progress
from sweeper.records import Front, Report, TrialRecord
from sweeper.tracking import Tracker


class Observer:
    """Implements ``trials.Listener``."""

    def __init__(
        self,
        progress: Progress,
        tracker: Tracker,
        files: FrontFiles,
        front: Callable[[], Front],
        trial_tags: dict[str, str],
    ) -> None:
        self._progress, self._tracker, self._files = progress, tracker, files
        self._front, self._trial_tags = front, trial_tags

    def repeat(self, trials: Iterable[TrialRecord], epochs: Callable[[int], list[Report]]) -> None:
        """On resume: tells MLflow every trial's story again; what it has already is not told twice."""
        for trial in trials:
            self._track_start(trial)
            for report in epochs(trial.number):
                self._tracker.trial_epoch(trial.number, report)
            if trial.state != "running":
                self._tracker.trial_ended(trial)

    def started(self, trial: TrialRecord) -> None:
        self._progress.trial_started(trial.number, trial.parameters)
        self._track_start(trial)

    def reported(self, trial: TrialRecord, report: Report) -> None:
        self._progress.trial_reported(trial.number, report)
        self._tracker.trial_epoch(trial.number, report)

    def ended(self, trial: TrialRecord) -> None:
        self._progress.trial_ended(trial)
        self._tracker.trial_ended(trial)
        if trial.state == "complete":
            front = self._front()
            self._progress.front_updated(front)
            self._tracker.hypervolume_changed(front)
            self._files.offer(front)

    def tick(self) -> None:
        self._progress.tick()

    def _track_start(self, trial: TrialRecord) -> None:
        tags = dict(self._trial_tags)
        if trial.baseline is not None:
            tags["sweeper.baseline"] = trial.baseline
        self._tracker.trial_started(trial.number, trial.parameters, trial.seed, trial.slot, tags)

"""Passes the events of trials to progress, tracking, the usage meter and the front's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from sweeper.front.build import LiveFront
from sweeper.front.rendering.writer import FrontFiles
from sweeper.front.search_state import SearchState
from sweeper.records import Front, TrialRecord
from sweeper.run.floor_watch import FloorWatch
from sweeper.run.progress import Progress
from sweeper.run.usage import UsageMeter
from sweeper.run.weight_removal import WeightRemoval
from sweeper.tracking.tracker import Tracker
from trainables.records import Report


class Observer:
    """Implements ``scheduler.TrialListener``."""

    def __init__(
        self,
        progress: Progress,
        tracker: Tracker,
        files: FrontFiles,
        usage: UsageMeter,
        *,
        drawn: Callable[[Sequence[TrialRecord]], tuple[Front, SearchState]],
        searched_front: Callable[[Sequence[TrialRecord]], Front],
        trials: Callable[[], list[TrialRecord]],
        trial_tags: dict[str, str],
        floor: FloorWatch | None = None,
        removal: WeightRemoval | None = None,
    ) -> None:
        """Prepare to observe trials.

        Args:
            drawn: returns the content of the front's files for given trials; called on the thread of ``files``.
            searched_front: returns the front by the search alone, shown while its trials end.
            trials: returns the trials of the study.
            floor: None if the goals have no noise floor.
            removal: None if the weights of all trials are kept.
        """
        self._progress, self._tracker, self._files, self._usage = progress, tracker, files, usage
        self._drawn, self._trials, self._live = drawn, trials, LiveFront(searched_front, trials())
        self._trial_tags, self._floor, self._removal = trial_tags, floor, removal
        self._draw_page()

    def repeat(self, trials: Iterable[TrialRecord], reports: Callable[[int], Sequence[Report]]) -> None:
        """On resume, send every trial to MLflow again; records that MLflow has are not sent twice."""
        for trial in trials:
            self._track_start(trial)
            for report in reports(trial.number):
                self._tracker.trial_reported(trial.number, report)
            if trial.state != "running":
                self._track_end(trial)

    def started(self, trial: TrialRecord) -> None:
        self._usage.started(trial)
        self._progress.trial_started(trial.number, trial.parameters, tries=trial.first_point)
        self._track_start(trial)
        self._draw_page()

    def reported(self, trial: TrialRecord, report: Report) -> None:
        self._usage.reported(trial, report)
        self._progress.trial_reported(trial.number, report)
        self._tracker.trial_reported(trial.number, report)
        self._draw_page()

    def ended(self, trial: TrialRecord) -> None:
        self._usage.ended(trial)
        if self._floor is not None:
            self._floor.trial_ended(trial)
        if self._removal is not None:
            self._removal.trial_ended(trial)
        self._progress.trial_ended(trial)
        self._track_end(trial)
        if trial.confirms is None:  # a retraining changes no front, in particular not one of the second look
            front = self._live.ended(trial)
            if trial.state == "complete":
                self._progress.front_updated(front)
                self._tracker.hypervolume_changed(front)
        if trial.state == "complete":
            self._files.offer(partial(self._drawn, self._trials()))
        else:
            self._draw_page()

    def _draw_page(self) -> None:
        self._files.offer_page(partial(self._drawn, self._trials()))

    def _track_end(self, trial: TrialRecord) -> None:
        self._tracker.trial_ended(trial, self._usage.costs(trial))

    def _track_start(self, trial: TrialRecord) -> None:
        tags = dict(self._trial_tags)
        if trial.baseline is not None:
            tags["sweeper.baseline"] = trial.baseline
        if trial.first_point is not None:
            tags["sweeper.first_point"] = trial.first_point
        if trial.confirms is not None:
            tags["sweeper.confirms"] = str(trial.confirms)
        self._tracker.trial_started(trial.number, trial.parameters, trial.seed, trial.slot, tags)

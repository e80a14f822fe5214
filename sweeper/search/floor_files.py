"""The noise floor of a sweep, computed from its files, and the record that a search has ended at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sweeper.records import TrialRecord, UntouchedModel
from sweeper.search.noise_floor import Floor, NoiseFloor, Points, noise_floor
from sweeper.spec.bounds import bound_value, keeps
from sweeper.spec.spec import Spec
from sweeper.storage.files import read_if_whole
from sweeper.storage.sweep_folder import SweepFolder
from trainables.evaluation.hits import PointHits, from_text
from trainables.files import StorageError

SEARCH_END_FILE = "search_end.json"


@dataclass(frozen=True)
class UnknownFloor:
    """The noise floor cannot be computed."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class SearchEnd:
    """A search that has ended at its noise floor before its last trial."""

    planned: int
    """``search.trials`` at that time."""
    trials: int
    """Number of trials of the search that had ended at that time."""
    gain: float
    standard_error: float

    def holds(self, spec: Spec) -> bool:
        """Return whether the search is still over: not if more trials, or all planned ones, were asked for since."""
        return spec.search.until == "noise_floor" and spec.search.trials <= self.planned

    def look_again_at(self) -> int:
        """Return after how many ended trials the floor is computed again if more trials were asked for."""
        return self.trials + max(1, self.trials // 4)


def read_search_end(folder: SweepFolder) -> SearchEnd | None:
    """Return the record; None if the search has not ended at its floor or the file is damaged."""
    record = read_if_whole(folder.path / SEARCH_END_FILE)
    try:
        return None if record is None else SearchEnd(**record)
    except TypeError:
        return None


def write_search_end(folder: SweepFolder, end: SearchEnd) -> None:
    """Write the record; it is on disk when this returns.

    Raises:
        StorageError: the disk fails.
    """
    folder.write_json(SEARCH_END_FILE, asdict(end))


def planned_trials(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> int:
    """Return the final number of trials of the search: ``search.trials``, or those begun before its noise floor."""
    end = read_search_end(folder)
    begun = sum(trial.confirms is None for trial in trials)
    return min(begun, spec.search.trials) if end is not None and end.holds(spec) else spec.search.trials


class FloorReader:
    """Computes the noise floor of a sweep's trials; reads the files of each trial once."""

    def __init__(self, folder: SweepFolder, spec: Spec, untouched: UntouchedModel) -> None:
        self._folder, self._spec, self._untouched = folder, spec, untouched
        self._hits: dict[int, PointHits | None] = {}

    def floor(self, trials: Sequence[TrialRecord]) -> NoiseFloor | UnknownFloor:
        """Return the noise floor of a study's trials; equal trials give an equal floor. Running trials do not count.

        Args:
            trials: in the order of their numbers.
        """
        goals = self._spec.task_goals()
        if unsuited := [goal for goal in goals if goal.view is None]:
            return UnknownFloor(f"{unsuited[0].title} is not a mean over images")
        ended = [trial for trial in trials if trial.confirms is None and trial.state != "running"]
        ended.sort(key=lambda trial: trial.number)
        complete = [(place, trial) for place, trial in enumerate(ended) if trial.state == "complete"]
        if not complete:
            return UnknownFloor("no trial is complete yet")
        metrics = [goal.metric for goal in goals]
        try:
            untouched = from_text(self._untouched.hits or {}, self._untouched.validation_images)
            parts = [(place, trial, self._hits_of(trial.number)) for place, trial in complete]
        except (ValueError, TypeError) as error:
            return UnknownFloor(f"the untouched model's answers are damaged: {error}")
        except StorageError as error:
            return UnknownFloor(str(error))
        if any(metric not in untouched for metric in metrics):
            return UnknownFloor("an earlier version began the sweep, which kept no answers of the untouched model")
        sizes = [len(of_set) for of_set in untouched[metrics[0]]]
        whole: list[tuple[int, np.ndarray, PointHits]] = []
        for place, trial, hits in parts:
            if hits is None or not _fits(hits, metrics, sizes, len(trial.points)):
                return UnknownFloor(f"there are no answers of trial {trial.number} (answers.npz)")
            whole.append((place, self._allowed(trial), hits))
        points = Points(
            untouched=[np.stack([untouched[metric][number] for metric in metrics]) for number in range(len(sizes))],
            hits=[
                np.concatenate([np.stack([hits[m][number][rows] for m in metrics], 1) for _, rows, hits in whole])
                for number in range(len(sizes))
            ],
            place=np.concatenate([np.full(len(rows), place) for place, rows, _ in whole]),
            reference=self._floor_of(metrics[0]) or Floor(offset=self._untouched.chance, relative=False),
            floors=(self._floor_of(metrics[0]), self._floor_of(metrics[1])),
        )
        floor = noise_floor(points, trials=len(ended), complete=len(complete))
        return UnknownFloor("there are too few validation images") if floor is None else floor

    def _hits_of(self, number: int) -> PointHits | None:
        if number not in self._hits:
            self._hits[number] = self._folder.trial(number).hits()
        return self._hits[number]

    def _allowed(self, trial: TrialRecord) -> np.ndarray:
        """Return the indices of the points that keep every bound of metrics that are not goals."""
        goals = {goal.metric for goal in self._spec.task_goals()}
        bounds = tuple(bound for bound in self._spec.bounds(self._untouched.goals) if bound.metric not in goals)
        return np.array([i for i, point in enumerate(trial.points) if keeps(bounds, point.values)], np.int64)

    def _floor_of(self, metric: str) -> Floor | None:
        bound = self._spec.goals[metric].bound
        return None if bound is None else Floor(offset=bound_value(bound, 0.0), relative=isinstance(bound, str))


def load_floor(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> NoiseFloor | UnknownFloor | None:
    """Return the noise floor of a sweep; None if its goals have none or no trial is complete."""
    untouched = folder.untouched()
    if untouched is None or any(goal.view is None for goal in spec.task_goals()):
        return None
    if not any(trial.state == "complete" and trial.confirms is None for trial in trials):
        return None
    return FloorReader(folder, spec, untouched).floor(trials)


def _fits(hits: PointHits, metrics: Sequence[str], sizes: Sequence[int], points: int) -> bool:
    expected = [(points, size) for size in sizes]
    return all(metric in hits and [of_set.shape for of_set in hits[metric]] == expected for metric in metrics)

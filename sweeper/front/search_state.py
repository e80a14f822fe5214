"""The state of a sweep's search, shown beside its front: its course, and the running trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.front.load import front_of
from sweeper.records import Front, TrialRecord, UntouchedModel
from sweeper.search.importance import importance
from sweeper.search.pareto import Value, hypervolume, non_dominated
from sweeper.spec.bounds import Bounds, keeps
from sweeper.spec.space import Space
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Goals, Report, oriented


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """The trials of a search, without retrainings."""

    trials: tuple[TrialRecord, ...]
    planned: int
    running: bool
    """Whether the sweep goes on: in the study of an interrupted sweep, trials are running too."""
    space: Space
    latest: Mapping[int, Report]
    """The last report of each running trial that has one."""
    hypervolumes: tuple[tuple[int, float], ...]
    """(number of ended trials, hypervolume of the front by the search alone), in the order in which trials began."""
    importance: Mapping[str, Mapping[str, float]]
    """Goal -> searched parameter -> share of the variance of ranks (``search.importance``)."""

    @property
    def ended(self) -> int:
        return sum(trial.state != "running" for trial in self.trials)


def search_state(
    folder: SweepFolder, spec: Spec, untouched: UntouchedModel, trials: Sequence[TrialRecord], *, running: bool
) -> SearchState:
    """Return the state of a search; reads the reports of running trials."""
    searched = tuple(trial for trial in trials if trial.confirms is None)
    goals, bounds = spec.task_goals(), spec.bounds(untouched.goals)
    reports = {trial.number: folder.trial(trial.number).reports() for trial in searched if trial.state == "running"}
    return SearchState(
        trials=searched,
        planned=spec.search.trials,
        running=running,
        space=spec.parameters,
        latest={number: by_step[max(by_step)] for number, by_step in reports.items() if by_step},
        hypervolumes=tuple(_hypervolumes(searched, goals, bounds, untouched)),
        importance={goal.metric: importance(spec.parameters, searched, goal.metric) for goal in goals},
    )


def running_front(
    folder: SweepFolder, spec: Spec, untouched: UntouchedModel, trials: Sequence[TrialRecord]
) -> tuple[Front, SearchState]:
    """Return the front and the state of the search that are shown while a sweep runs."""
    return front_of(folder, spec, untouched, trials), search_state(folder, spec, untouched, trials, running=True)


def final_state(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> SearchState | None:
    """Return the state of a search that does not run now; None before the untouched model was measured."""
    untouched = folder.untouched()
    return None if untouched is None else search_state(folder, spec, untouched, trials, running=False)


def _hypervolumes(
    trials: Sequence[TrialRecord], goals: Goals, bounds: Bounds, untouched: UntouchedModel
) -> list[tuple[int, float]]:
    """Return the hypervolume after each ended trial, against the reference point of the front (``build_front``)."""
    first, second = (goal.metric for goal in goals)
    floor = next((bound.value for bound in bounds if bound.metric == first), untouched.chance)
    reference = oriented({first: floor, second: untouched.goals[second]}, goals)
    best: list[Value] = []
    course: list[tuple[int, float]] = []
    for trial in trials:
        if trial.state == "running":
            continue
        if trial.state == "complete":
            best += [oriented(point.values, goals) for point in trial.points if keeps(bounds, point.values)]
            best = [value for value, kept in zip(best, non_dominated(best), strict=True) if kept]
        course.append((len(course) + 1, hypervolume(best, reference)))
    return course

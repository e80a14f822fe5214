"""The content of a front's page as plain data, which ``page.js`` reads as JSON."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sweeper.front.correlation import lines as proxy_lines
from sweeper.front.rendering.style import (
    BASELINE_TITLES,
    COLOURS,
    OTHER_COLOUR,
    UNTOUCHED_COLOUR,
    baseline_curves,
    is_baseline,
    label,
    objective_in,
)
from sweeper.front.rendering.table import rows, summary
from sweeper.front.rendering.window import Pair, Window, outline, window
from sweeper.front.search_state import SearchState
from sweeper.records import Confirmation, Front, FrontPoint, TrialRecord
from sweeper.search.importance import FEWEST_TRIALS, placed_trials
from sweeper.spec.branches import Branch
from sweeper.spec.domains import Choices, Fixed, Range, Value
from trainables.records import Goals, WeightsKind, goal_values

MOST_POINTS = 300
"""Number of points of the front with all details; further members without a name are drawn as other points."""

Kind = Literal["member", "untouched", "baseline"]


@dataclass(frozen=True, kw_only=True)
class GoalShown:
    metric: str
    short: str
    title: str
    direction: str


@dataclass(frozen=True, kw_only=True)
class FilterShown:
    """A value of a parameter that points can be filtered by."""

    name: str
    colour: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrialShown:
    sweep: str | None
    number: int | None
    """None for the untouched model, which has neither objective nor scope."""
    objective: str | None
    scope: str | None
    """Value of the parameter ``tune``."""
    baseline: bool
    """Whether it is a baseline or the untouched model, which filters never hide."""
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Goals on test with their 95 % intervals."""

    at: Pair
    low: Pair
    high: Pair


@dataclass(frozen=True, kw_only=True)
class RetrainedShown:
    """A member trained again with new seeds: means over the seeds."""

    seeds: int
    failed: int
    stays: bool
    validation: Pair | None
    test: Measured | None


@dataclass(frozen=True, kw_only=True)
class PointShown:
    """A point of the front: a member, the untouched model or a baseline."""

    trial: int
    """Index in ``trials``."""
    kind: Kind
    weights: WeightsKind
    strength: float
    at: Pair
    """Goals on validation."""
    name: str | None
    """Label of the point; None for members without a name."""
    images: int | None
    """Number of validation images behind ``at``."""
    test: Measured | None
    retrained: RetrainedShown | None


class OtherPoint(NamedTuple):
    """A validation point that is not on the front: index in ``trials``, weights, strength, goals."""

    trial: int
    weights: WeightsKind
    strength: float
    first: float
    second: float


@dataclass(frozen=True, kw_only=True)
class BaselineShown:
    title: str
    curve: list[Pair]
    """Goals by rising strength, the untouched model first."""


@dataclass(frozen=True, kw_only=True)
class ColumnShown:
    title: str
    text: bool
    """Whether it holds words; numbers are aligned to the right."""


@dataclass(frozen=True, kw_only=True)
class TableShown:
    """The table of the page. Rows are those of ``points``, in their order."""

    more: list[ColumnShown]
    """All columns of front.csv, shown on demand."""
    cells: list[list[Any]]
    left_out: int
    """Number of points beyond ``MOST_POINTS``; front.csv has them."""


@dataclass(frozen=True, kw_only=True)
class ParameterShown:
    """A searched parameter as an axis."""

    name: str
    log: bool
    choices: list[str] | None
    """Choices of the parameter; None for a range."""


class SearchedTrial(NamedTuple):
    """An ended trial: number, objective, scope, whether it was stopped, reported goals, values by parameter."""

    number: int
    objective: str | None
    scope: str | None
    stopped: bool
    goals: Pair
    values: list[float | str | None]


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    number: int
    objective: str | None
    scope: str | None
    progress: float
    """Share of the trial's steps that are done."""
    goals: Pair | None
    """Latest goals on validation, last weights, strength 1; None before the first report."""


@dataclass(frozen=True, kw_only=True)
class ImportanceShown:
    goal: str
    shares: list[tuple[str, float]]
    """Pairs of searched parameter and share of the variance of ranks."""


@dataclass(frozen=True, kw_only=True)
class SearchShown:
    """Content of a sweep's study, shown beside its front."""

    running: bool
    ended: int
    planned: int
    hypervolumes: list[tuple[int, float]]
    now: list[RunningTrial]
    parameters: list[ParameterShown]
    trials: list[SearchedTrial]
    importance: list[ImportanceShown]
    no_importance: str | None
    """Reason why no importance is shown; None if it is."""


@dataclass(frozen=True, kw_only=True)
class PageData:
    """The whole content of the page. Goals are exact, other numbers of the table are rounded to three decimals."""

    sweep: str
    summary: str
    notes: list[str]
    as_of: str
    """Time in ISO 8601 with the offset from UTC."""
    goals: list[GoalShown]
    window: Window
    reference: Pair
    outline: tuple[list[float], list[float]]
    objectives: list[FilterShown]
    scopes: list[FilterShown]
    colours: Mapping[str, str]
    trials: list[TrialShown]
    points: list[PointShown]
    others: list[OtherPoint]
    baselines: list[BaselineShown]
    table: TableShown
    search: SearchShown | None = None
    """None if only the front is available."""


def page_data(front: Front, search: SearchState | None = None, as_of: datetime.datetime | None = None) -> PageData:
    """Return the content of the page of a front.

    Args:
        search: the search behind the front, if available.
        as_of: with a time zone; None: now.
    """
    places: dict[tuple[str | None, int | None], int] = {}
    trials: list[TrialShown] = []
    baseline_trials = {(point.sweep, point.trial) for point in front.points if is_baseline(point)}
    for point in (*front.points, *front.others):
        key = (point.sweep, point.trial)
        if key not in places:
            places[key] = len(trials)
            trials.append(_trial(point, key in baseline_trials))
    searched = [] if search is None else [trial.parameters for trial in search.trials]
    tried = [trial.parameters for trial in trials if trial.number is not None] + searched
    objectives = dict.fromkeys(_objective(parameters) for parameters in tried)
    scopes = dict.fromkeys(_scope(parameters) for parameters in tried)
    known = [name for name in COLOURS if name in objectives]
    known += [name for name in objectives if name is not None and name not in COLOURS]
    whole, further = _whole(front)
    when = as_of or datetime.datetime.now().astimezone()
    return PageData(
        sweep=front.sweep,
        summary=summary(front),
        notes=proxy_lines(front),
        as_of=when.isoformat(timespec="seconds"),
        goals=[
            GoalShown(metric=goal.metric, short=goal.short, title=goal.title, direction=goal.direction)
            for goal in front.goals
        ],
        window=window(front),
        reference=front.reference_point,
        outline=outline(front),
        objectives=[FilterShown(name=name, colour=COLOURS.get(name, OTHER_COLOUR)) for name in known],
        scopes=[FilterShown(name=name) for name in scopes if name is not None],
        colours={"untouched": UNTOUCHED_COLOUR, "other": OTHER_COLOUR},
        trials=trials,
        points=[_point(point, places[point.sweep, point.trial], front.goals) for point in whole],
        others=[
            OtherPoint(places[point.sweep, point.trial], point.weights, point.strength, *front.at(point))
            for point in (*further, *front.others)
        ],
        baselines=[
            BaselineShown(title=BASELINE_TITLES[name], curve=[front.at(point) for point in curve])
            for name, curve in baseline_curves(front).items()
        ],
        table=_table(front, whole),
        search=None if search is None else _search(front.goals, search),
    )


def _objective(parameters: Mapping[str, Any]) -> str | None:
    return objective_in(parameters) if parameters.get("objective") or parameters.get("target") else None


def _scope(parameters: Mapping[str, Any]) -> str | None:
    scope = parameters.get("tune")
    return None if scope is None else str(scope)


def _trial(point: FrontPoint, baseline: bool) -> TrialShown:
    return TrialShown(
        sweep=point.sweep,
        number=point.trial,
        objective=None if point.trial is None else _objective(point.parameters),
        scope=_scope(point.parameters),
        baseline=baseline or point.trial is None,
        parameters={name: short_value(value) for name, value in point.parameters.items() if value is not None},
    )


def _point(point: FrontPoint, trial: int, goals: Goals) -> PointShown:
    kind: Kind = "untouched" if point.trial is None else "baseline" if is_baseline(point) else "member"
    return PointShown(
        trial=trial,
        kind=kind,
        weights=point.weights,
        strength=point.strength,
        at=goal_values(point.validation, goals),
        name=label(point) if point.name or point.trial is None else None,
        images=point.images,
        test=_measured(point.values, point.intervals, goals),
        retrained=None if point.confirmation is None else _retrained(point.confirmation, goals),
    )


def _measured(
    values: Mapping[str, float] | None, intervals: Mapping[str, tuple[float, float]] | None, goals: Goals
) -> Measured | None:
    if values is None or any(goal.metric not in values for goal in goals):
        return None
    at = goal_values(values, goals)
    bounds = [(intervals or {}).get(goal.metric, (value, value)) for goal, value in zip(goals, at, strict=True)]
    (first_low, first_high), (second_low, second_high) = bounds
    return Measured(at=at, low=(first_low, second_low), high=(first_high, second_high))


def _retrained(confirmation: Confirmation, goals: Goals) -> RetrainedShown:
    validation = confirmation.validation
    return RetrainedShown(
        seeds=confirmation.seeds,
        failed=confirmation.failed,
        stays=confirmation.stays,
        validation=None if validation is None else goal_values(validation, goals),
        test=_measured(confirmation.values, confirmation.intervals, goals),
    )


def _whole(front: Front) -> tuple[list[FrontPoint], list[FrontPoint]]:
    """Return the points of the front that are shown with all details, and the others."""
    named = sum(point.name is not None for point in front.points)
    room = MOST_POINTS - named
    whole, further = list[FrontPoint](), list[FrontPoint]()
    for point in front.points:
        room -= point.name is None
        (whole if point.name is not None or room >= 0 else further).append(point)
    return whole, further


def _table(front: Front, whole: Sequence[FrontPoint]) -> TableShown:
    lines = rows(front)
    names = {(point.sweep, point.point_name) for point in whole}
    shown = [line for line, point in zip(lines, front.points, strict=True) if (point.sweep, point.point_name) in names]
    keys = list(lines[0]) if lines else []
    more = [
        ColumnShown(title=key.replace("_", " "), text=any(isinstance(line[key], str) for line in lines)) for key in keys
    ]
    of_parameters = {name for point in front.points for name in point.parameters}
    cells = [[short_value(line[key]) if key in of_parameters else _three(line[key]) for key in keys] for line in shown]
    return TableShown(more=more, cells=cells, left_out=len(lines) - len(shown))


def short_value(value: Any) -> Any:
    """Return a parameter as shown: a number with four digits, any other value unchanged."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _three(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _search(goals: Goals, search: SearchState) -> SearchShown:
    parameters = [
        (name, branches) for name, branches in search.space.branches.items()
        if any(not isinstance(branch.domain, Fixed) for branch in branches)
    ]  # fmt: skip
    in_space = {trial.number for trial, _ in placed_trials(search.space, search.trials)}
    axes = [_axis(name, branches) for name, branches in parameters]
    shown = [trial for trial in search.trials if trial.number in in_space or trial.values_then is not None]
    importances = [
        ImportanceShown(goal=goal.short, shares=list(search.importance.get(goal.metric, {}).items())) for goal in goals
    ]
    return SearchShown(
        running=search.running,
        ended=search.ended,
        planned=search.planned,
        hypervolumes=[(ended, round(volume, 4)) for ended, volume in search.hypervolumes],
        now=[_running(trial, search, goals) for trial in search.trials if search.running and trial.state == "running"],
        parameters=axes,
        trials=[_searched(trial, axes, goals) for trial in shown],
        importance=importances if any(one.shares for one in importances) else [],
        no_importance=_no_importance(len(in_space), bool(axes), any(one.shares for one in importances)),
    )


def _no_importance(complete: int, searched: bool, measured: bool) -> str | None:
    if measured:
        return None
    if not searched:
        return "No parameter is searched."
    if complete < FEWEST_TRIALS:
        return f"Hidden: {complete} complete trials of the search; below {FEWEST_TRIALS} it would be chance."
    return "All trials have the same goals."


def _axis(name: str, branches: Sequence[Branch]) -> ParameterShown:
    searched = [branch.domain for branch in branches if not isinstance(branch.domain, Fixed)]
    choices = [value for domain in searched if isinstance(domain, Choices) for value in domain.values]
    choices += [branch.domain.value for branch in branches if isinstance(branch.domain, Fixed)]
    ranges = [domain for domain in searched if isinstance(domain, Range)]
    return ParameterShown(
        name=name,
        log=bool(ranges) and all(domain.log for domain in ranges),
        choices=None if ranges else [_choice(value) for value in dict.fromkeys(choices)],
    )


def _choice(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _searched(trial: TrialRecord, axes: Sequence[ParameterShown], goals: Goals) -> SearchedTrial:
    values = trial.values if trial.values is not None else trial.values_then
    assert values is not None, "a complete trial was told its goals, a stopped one those at its stop"
    return SearchedTrial(
        trial.number,
        _objective(trial.parameters),
        _scope(trial.parameters),
        trial.state == "stopped",
        goal_values(values, goals),
        [_on_axis(axis, trial.parameters.get(axis.name)) for axis in axes],
    )


def _on_axis(axis: ParameterShown, value: Value | None) -> float | str | None:
    if value is None:
        return None
    return _choice(value) if axis.choices is not None else short_value(value)


def _running(trial: TrialRecord, search: SearchState, goals: Goals) -> RunningTrial:
    report = search.latest.get(trial.number)
    return RunningTrial(
        number=trial.number,
        objective=_objective(trial.parameters),
        scope=_scope(trial.parameters),
        progress=0.0 if report is None else round(report.progress, 3),
        goals=None if report is None else goal_values(report.values, goals),
    )

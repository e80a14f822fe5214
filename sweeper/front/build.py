"""The front of a sweep: which validation points are non-dominated, what they are called, what is shown beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sweeper.front.pareto import hypervolume, knee, non_dominated
from sweeper.records import Confirmation, Front, FrontPoint, PointName, TrialRecord, UntouchedModel, goal_pair
from sweeper.spec.sections import Goals
from trainables.records import Measurement


def build_front(
    sweep: str,
    trials: Sequence[TrialRecord],
    *,
    goals: Goals,
    untouched: UntouchedModel,
    measurements: Mapping[PointName, Measurement],
    planned: int,
) -> Front:
    """Return the front. Everything is decided on validation; ``measurements`` (test) are only shown beside it.

    Args:
        planned: trials of the sweep.
    """
    reference = goal_pair(untouched.goals)
    floors = goals.floors(untouched.goals)
    candidates = [
        _tested(
            FrontPoint(
                trial=trial.number,
                weights=point.weights,
                strength=point.strength,
                parameters=trial.parameters,
                validation=dict(point.values),
                member=False,
            ),
            measurements,
        )
        for trial in trials
        if trial.state == "complete" and trial.confirms is None
        for point in trial.points
    ]
    allowed = [point for point in candidates if all(point.validation[goal] >= floors[goal] for goal in floors)]
    # The untouched model competes: a point that is nowhere better than it is no trade.
    flags = non_dominated([reference, *(point.goals for point in allowed)])[1:]
    members = [replace(point, member=True) for point, flag in zip(allowed, flags, strict=True) if flag]
    members.sort(key=lambda point: point.goals, reverse=True)
    members = _named(members)
    kept = {point.point_name for point in members}
    others = [point for point in candidates if point.point_name not in kept]
    untouched_point = FrontPoint(
        trial=None,
        weights="last",
        strength=1.0,
        parameters={},
        validation=dict(untouched.goals),
        name="untouched",
        member=False,
    )
    members, baselines = _with_paint(members, others, trials)
    baseline_names = {point.point_name for point in baselines}
    reference_point = (floors.get("clean_accuracy", untouched.chance), reference[1])
    return Front(
        sweep=sweep,
        points=(*members, _tested(untouched_point, measurements), *baselines),
        others=tuple(point for point in others if point.point_name not in baseline_names),
        hypervolume=hypervolume([point.goals for point in members], reference_point),
        reference_point=reference_point,
        finished=sum(trial.state != "running" and trial.confirms is None for trial in trials),
        trials=planned,
    )


class LiveFront:
    """The front while trials end. What is dominated stays dominated, so only the points shown are compared again."""

    def __init__(self, build: Callable[[Sequence[TrialRecord]], Front], trials: Sequence[TrialRecord]) -> None:
        """``build``: of given trials (``build_front``); ``trials``: that have begun so far."""
        self._build = build
        self._shown: dict[int, TrialRecord] = {}
        self._show(build(trials), {trial.number: trial for trial in trials})
        self._finished = sum(trial.state != "running" and trial.confirms is None for trial in trials)

    def ended(self, trial: TrialRecord) -> Front:
        """Return the front with this trial. ``others`` is empty: dominated points are not kept."""
        self._finished += trial.confirms is None
        known = {**self._shown, trial.number: trial}
        front = self._build([known[number] for number in sorted(known)])
        self._show(front, known)
        return replace(front, others=(), finished=self._finished)

    def _show(self, front: Front, known: Mapping[int, TrialRecord]) -> None:
        self._shown = {point.trial: known[point.trial] for point in front.points if point.trial is not None}


def confirmed(front: Front, confirmations: Mapping[PointName, Confirmation]) -> Front:
    """Return the same points with their confirmations; members and order stay."""
    points = tuple(
        replace(point, confirmation=confirmations.get(point.point_name)) if point.member else point
        for point in front.points
    )
    return replace(front, points=points)


def merged(fronts: Sequence[Front]) -> Front:
    """Return a front of several sweeps that were validated on the same images with the same untouched model.

    The reference point is the lowest of the sweeps in each goal; of several PAINT points the one with the best mean of
    both goals is shown.
    """
    by_sweep = [
        [replace(point, sweep=front.sweep, name=None if point.member else point.name) for point in front.points]
        for front in fronts
    ]
    untouched = next(point for point in by_sweep[0] if point.trial is None)
    candidates = [point for points in by_sweep for point in points if point.member]
    flags = non_dominated([point.goals for point in candidates])
    members = [point for point, flag in zip(candidates, flags, strict=True) if flag]
    members = _named(sorted(members, key=lambda point: point.goals, reverse=True))
    paint = [point for points in by_sweep for point in points if point.name == "paint" and not point.member]
    best = max(paint, key=lambda point: sum(point.goals), default=None)
    shown = [*members, replace(untouched, sweep=None), *([best] if best is not None else [])]
    dominated = [replace(point, member=False) for point, flag in zip(candidates, flags, strict=True) if not flag]
    others = [replace(point, sweep=front.sweep) for front in fronts for point in front.others]
    lowest = [min(front.reference_point[goal] for front in fronts) for goal in (0, 1)]
    reference_point = (lowest[0], lowest[1])
    return Front(
        sweep=" + ".join(front.sweep for front in fronts),
        points=tuple(shown),
        others=(*dominated, *others, *(point for point in paint if point is not best)),
        hypervolume=hypervolume([point.goals for point in members], reference_point),
        reference_point=reference_point,
        finished=sum(front.finished for front in fronts),
        trials=sum(front.trials for front in fronts),
    )


def _tested(point: FrontPoint, measurements: Mapping[PointName, Measurement]) -> FrontPoint:
    measured = measurements.get(point.point_name)
    return point if measured is None else replace(point, values=measured.values, intervals=measured.intervals)


def _named(members: list[FrontPoint]) -> list[FrontPoint]:
    """Name knee and extremes of members sorted by falling clean accuracy; a knee at an extreme is called knee."""
    if not members:
        return members
    names = {len(members) - 1: "most robust", 0: "cleanest"}
    names[knee([point.goals for point in members])] = "knee"
    return [replace(point, name=names.get(i)) for i, point in enumerate(members)]


def _with_paint(
    members: list[FrontPoint], others: Sequence[FrontPoint], trials: Sequence[TrialRecord]
) -> tuple[list[FrontPoint], list[FrontPoint]]:
    """Return members and baselines with PAINT named.

    PAINT's alpha has the best mean of both goals on validation, as its authors choose it.
    """
    baseline = {trial.number for trial in trials if trial.baseline == "paint"}
    curve = [point for point in (*members, *others) if point.trial in baseline and point.weights == "last"]
    if not curve:
        return members, []
    best = max(curve, key=lambda point: sum(point.goals))
    if best.member and best.name is None:
        return [replace(point, name="paint") if point == best else point for point in members], []
    return members, [replace(best, name="paint", member=False)]

"""The front of a sweep: its non-dominated validation points, their names, and the numbers shown beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sweeper.front.second_look import pooled
from sweeper.records import Confirmation, Front, FrontPoint, PointName, TrialRecord, UntouchedModel
from sweeper.search.pareto import hypervolume, knee, non_dominated
from sweeper.spec.bounds import Bounds, keeps
from trainables.records import Goals, Measurement, SecondLook, oriented


def build_front(
    sweep: str,
    trials: Sequence[TrialRecord],
    *,
    goals: Goals,
    bounds: Bounds,
    untouched: UntouchedModel,
    measurements: Mapping[PointName, Measurement],
    planned: int,
    curves: Sequence[str] = (),
    second_looks: Mapping[PointName, SecondLook] | None = None,
) -> Front:
    """Return the front. All decisions use validation; ``measurements`` (test) are only shown beside it.

    Args:
        bounds: bounds that every member must keep.
        planned: number of trials of the sweep.
        curves: metrics that are drawn over the strength.
        second_looks: by point. If given, only points with a second look can be members, by both measurements.
    """
    seen = untouched.validation_images

    def shown(point: FrontPoint) -> FrontPoint:
        return _tested(_looked_at(replace(point, images=sum(seen) or None), seen, second_looks or {}), measurements)

    candidates = [
        shown(
            FrontPoint(
                trial=trial.number,
                weights=point.weights,
                strength=point.strength,
                parameters=trial.parameters,
                validation=dict(point.values),
                member=False,
            )
        )
        for trial in trials
        if trial.state == "complete" and trial.confirms is None
        for point in trial.points
    ]
    looked_at = [point for point in candidates if second_looks is None or point.point_name in second_looks]
    allowed = [point for point in looked_at if keeps(bounds, point.validation)]
    untouched_point = shown(
        FrontPoint(
            trial=None,
            weights="last",
            strength=1.0,
            parameters={},
            validation=dict(untouched.goals),
            name="untouched",
            member=False,
        )
    )
    # The untouched model competes: a point that is in no goal better than it has no value.
    values = [oriented(point.validation, goals) for point in allowed]
    flags = non_dominated([oriented(untouched_point.validation, goals), *values])[1:]
    members = _named([point for point, flag in zip(allowed, flags, strict=True) if flag], goals)
    kept = {point.point_name for point in members}
    others = [point for point in candidates if point.point_name not in kept]
    members, baselines = _with_baselines(members, others, trials, goals)
    baseline_names = {point.point_name for point in baselines}
    first, second = (goal.metric for goal in goals)
    floor = next((bound.value for bound in bounds if bound.metric == first), untouched.chance)
    reference_point = (floor, untouched_point.validation[second])
    return Front(
        sweep=sweep,
        goals=goals,
        points=(*members, untouched_point, *baselines),
        others=tuple(point for point in others if point.point_name not in baseline_names),
        hypervolume=front_hypervolume(members, reference_point, goals),
        reference_point=reference_point,
        finished=sum(trial.state != "running" and trial.confirms is None for trial in trials),
        trials=planned,
        curves=tuple(curves),
        kept={bound.metric: str(bound) for bound in bounds if bound.metric not in (first, second)},
    )


class LiveFront:
    """The front while trials end. A dominated point stays dominated, so only the shown points are compared again."""

    def __init__(self, build: Callable[[Sequence[TrialRecord]], Front], trials: Sequence[TrialRecord]) -> None:
        """Start from the trials that have begun so far.

        Args:
            build: returns the front of given trials (``build_front``).
        """
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
    """Return a front with the confirmations of its points; members and order do not change."""
    points = tuple(
        replace(point, confirmation=confirmations.get(point.point_name)) if point.member else point
        for point in front.points
    )
    return replace(front, points=points)


def merged(fronts: Sequence[Front]) -> Front:
    """Return a front of several sweeps that were validated on the same images with the same untouched model.

    The reference point is the worst of the sweeps in each goal; of several points of a baseline, the point with the
    best mean of both goals is shown.
    """
    goals = fronts[0].goals
    by_sweep = [
        [replace(point, sweep=front.sweep, name=None if point.member else point.name) for point in front.points]
        for front in fronts
    ]
    untouched = next(point for point in by_sweep[0] if point.trial is None)
    candidates = [point for points in by_sweep for point in points if point.member]
    flags = non_dominated([oriented(point.validation, goals) for point in candidates])
    members = _named([point for point, flag in zip(candidates, flags, strict=True) if flag], goals)
    baselines: dict[str, list[FrontPoint]] = {}
    for point in (point for points in by_sweep for point in points):
        if not point.member and point.trial is not None and point.name is not None:
            baselines.setdefault(point.name, []).append(point)
    best = [max(points, key=lambda point: _sum(point, goals)) for points in baselines.values()]
    shown = [*members, replace(untouched, sweep=None), *best]
    dominated = [replace(point, member=False) for point, flag in zip(candidates, flags, strict=True) if not flag]
    others = [replace(point, sweep=front.sweep) for front in fronts for point in front.others]
    lesser = [point for points in baselines.values() for point in points if all(point is not one for one in best)]
    references = [front.reference_point for front in fronts]
    worst = [max if goal.direction == "minimize" else min for goal in goals]
    reference_point = (worst[0](point[0] for point in references), worst[1](point[1] for point in references))
    return Front(
        sweep=" + ".join(front.sweep for front in fronts),
        goals=goals,
        points=tuple(shown),
        others=(*dominated, *others, *lesser),
        hypervolume=front_hypervolume(members, reference_point, goals),
        reference_point=reference_point,
        finished=sum(front.finished for front in fronts),
        trials=sum(front.trials for front in fronts),
        curves=fronts[0].curves,
        kept={metric: words for front in fronts for metric, words in front.kept.items()},
    )


def front_hypervolume(members: Sequence[FrontPoint], reference_point: tuple[float, float], goals: Goals) -> float:
    """Return the hypervolume of members on validation; ``reference_point`` is in the goals' own units."""
    reference = oriented(dict(zip((goal.metric for goal in goals), reference_point, strict=True)), goals)
    return hypervolume([oriented(point.validation, goals) for point in members], reference)


def _looked_at(point: FrontPoint, seen: Sequence[int], looks: Mapping[PointName, SecondLook]) -> FrontPoint:
    looked = looks.get(point.point_name)
    if looked is None:
        return point
    return replace(point, validation=pooled(point.validation, seen, looked), images=sum(seen) + sum(looked.images))


def _tested(point: FrontPoint, measurements: Mapping[PointName, Measurement]) -> FrontPoint:
    measured = measurements.get(point.point_name)
    return point if measured is None else replace(point, values=measured.values, intervals=measured.intervals)


def _named(members: list[FrontPoint], goals: Goals) -> list[FrontPoint]:
    """Return members from the best to the worst in the first goal, knee and extremes named; a knee at an extreme is
    called knee.
    """
    if not members:
        return members
    members = sorted(members, key=lambda point: oriented(point.validation, goals), reverse=True)
    names = {len(members) - 1: goals[1].best, 0: goals[0].best}
    names[knee([oriented(point.validation, goals) for point in members])] = "knee"
    return [replace(point, member=True, name=names.get(i)) for i, point in enumerate(members)]


def _with_baselines(
    members: list[FrontPoint], others: Sequence[FrontPoint], trials: Sequence[TrialRecord], goals: Goals
) -> tuple[list[FrontPoint], list[FrontPoint]]:
    """Return members and baselines, each baseline named at one of its strengths.

    This strength has the best mean of both goals on validation; PAINT's authors choose their alpha in the same way.
    """
    baselines: list[FrontPoint] = []
    for trial in trials:
        if trial.baseline is None:
            continue
        curve = [point for point in (*members, *others) if point.trial == trial.number and point.weights == "last"]
        if not curve:
            continue
        best = max(curve, key=lambda point: _sum(point, goals))
        if best.member and best.name is None:
            members = [replace(point, name=trial.baseline) if point == best else point for point in members]
        else:
            baselines.append(replace(best, name=trial.baseline, member=False))
    return members, baselines


def _sum(point: FrontPoint, goals: Goals) -> float:
    return sum(oriented(point.validation, goals))

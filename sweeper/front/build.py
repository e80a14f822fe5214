"""The front of a sweep: which validation points are non-dominated, what they are called, what is shown beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeper.front.pareto import hypervolume, knee, non_dominated
from sweeper.records import GOALS, Confirmation, Front, FrontPoint, PointName, TrialRecord
from sweeper.spec.sections import Goals


def build_front(
    sweep: str,
    trials: Sequence[TrialRecord],
    *,
    goals: Goals,
    untouched: Mapping[str, Any],
    tests: Mapping[PointName, Mapping[str, Any]],
    planned: int,
) -> Front:
    """Everything is decided on validation; ``tests`` only adds what was measured once.

    Args:
        untouched: ``validation`` (goals of the untouched model) and ``chance``.
        planned: trials of the sweep.
    """
    reference = _pair(untouched["validation"])
    floors = goals.floors(untouched["validation"])
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
            tests,
        )
        for trial in trials
        if trial.state == "complete" and trial.confirms is None
        for point in trial.points
    ]
    allowed = [point for point in candidates if all(point.validation[goal] >= floors[goal] for goal in floors)]
    # The untouched model competes: a point that is nowhere better than it is no trade.
    flags = non_dominated([reference, *(_pair(point.validation) for point in allowed)])[1:]
    members = [replace(point, member=True) for point, flag in zip(allowed, flags, strict=True) if flag]
    members.sort(key=lambda point: _pair(point.validation), reverse=True)
    members = _named(members)
    kept = {_name(point) for point in members}
    others = [point for point in candidates if _name(point) not in kept]
    zero = FrontPoint(
        trial=None,
        weights="last",
        strength=1.0,
        parameters={},
        validation=dict(untouched["validation"]),
        name="untouched",
        member=False,
    )
    members, baselines = _with_paint(members, others, trials)
    baseline_names = {_name(point) for point in baselines}
    reference_point = (floors.get("clean_accuracy", untouched["chance"]), reference[1])
    return Front(
        sweep=sweep,
        points=(*members, _tested(zero, tests), *baselines),
        others=tuple(point for point in others if _name(point) not in baseline_names),
        hypervolume=hypervolume([_pair(point.validation) for point in members], reference_point),
        reference_point=reference_point,
        finished=sum(trial.state != "running" and trial.confirms is None for trial in trials),
        trials=planned,
    )


class LiveFront:
    """The front while trials end: what was dominated once stays so, and only the rest is looked at again."""

    def __init__(self, build: Callable[[Sequence[TrialRecord]], Front], trials: Sequence[TrialRecord]) -> None:
        """``build``: the whole front of given trials (``build_front``); ``trials``: those there are."""
        self._build = build
        self._shown: dict[int, TrialRecord] = {}
        self._show(build(trials), {trial.number: trial for trial in trials})
        self._finished = sum(trial.state != "running" and trial.confirms is None for trial in trials)

    def ended(self, trial: TrialRecord) -> Front:
        """The front with this trial. Its ``others`` are left out: they are not known."""
        self._finished += trial.confirms is None
        known = {**self._shown, trial.number: trial}
        front = self._build([known[number] for number in sorted(known)])
        self._show(front, known)
        return replace(front, others=(), finished=self._finished)

    def _show(self, front: Front, known: Mapping[int, TrialRecord]) -> None:
        self._shown = {point.trial: known[point.trial] for point in front.points if point.trial is not None}


def confirmed(front: Front, found: Mapping[PointName, Confirmation]) -> Front:
    """The same points with what training them again gave; nothing moves."""
    points = tuple(
        replace(point, confirmation=found.get(_name(point))) if point.member else point for point in front.points
    )
    return replace(front, points=points)


def merged(fronts: Sequence[Front]) -> Front:
    """One front of several sweeps that were validated on the same images with the same untouched model.

    The reference point is the lower one in each goal; PAINT is that with the best mean of both goals.
    """
    own = [
        [replace(point, sweep=front.sweep, name=None if point.member else point.name) for point in front.points]
        for front in fronts
    ]
    untouched = next(point for point in own[0] if point.trial is None)
    candidates = [point for points in own for point in points if point.member]
    flags = non_dominated([_pair(point.validation) for point in candidates])
    members = [point for point, flag in zip(candidates, flags, strict=True) if flag]
    members = _named(sorted(members, key=lambda point: _pair(point.validation), reverse=True))
    paint = [point for points in own for point in points if point.name == "paint" and not point.member]
    best = max(paint, key=lambda point: sum(_pair(point.validation)), default=None)
    shown = [*members, replace(untouched, sweep=None), *([best] if best is not None else [])]
    dominated = [replace(point, member=False) for point, flag in zip(candidates, flags, strict=True) if not flag]
    others = [replace(point, sweep=front.sweep) for front in fronts for point in front.others]
    lowest = [min(front.reference_point[goal] for front in fronts) for goal in (0, 1)]
    reference_point = (lowest[0], lowest[1])
    return Front(
        sweep=" + ".join(front.sweep for front in fronts),
        points=tuple(shown),
        others=(*dominated, *others, *(point for point in paint if point is not best)),
        hypervolume=hypervolume([_pair(point.validation) for point in members], reference_point),
        reference_point=reference_point,
        finished=sum(front.finished for front in fronts),
        trials=sum(front.trials for front in fronts),
    )


def point_name(point: FrontPoint) -> PointName:
    """What a point is measured under."""
    return _name(point)


def _name(point: FrontPoint) -> PointName:
    return (point.trial, point.weights, point.strength)


def _pair(values: Mapping[str, float]) -> tuple[float, float]:
    return values[GOALS[0]], values[GOALS[1]]


def _tested(point: FrontPoint, tests: Mapping[PointName, Mapping[str, Any]]) -> FrontPoint:
    measured = tests.get(_name(point))
    if measured is None:
        return point
    intervals = {name: (low, high) for name, (low, high) in measured["intervals"].items()}
    return replace(point, values=dict(measured["values"]), intervals=intervals)


def _named(members: list[FrontPoint]) -> list[FrontPoint]:
    """Knee and extremes of members sorted by falling clean accuracy; the knee's name comes first."""
    if not members:
        return members
    names = {len(members) - 1: "most robust", 0: "cleanest"}
    names[knee([_pair(point.validation) for point in members])] = "knee"
    return [replace(point, name=names.get(i)) for i, point in enumerate(members)]


def _with_paint(
    members: list[FrontPoint], others: Sequence[FrontPoint], trials: Sequence[TrialRecord]
) -> tuple[list[FrontPoint], list[FrontPoint]]:
    """PAINT's alpha is the one with the best mean of both goals on validation, as its authors choose it."""
    baseline = {trial.number for trial in trials if trial.baseline == "paint"}
    curve = [point for point in (*members, *others) if point.trial in baseline and point.weights == "last"]
    if not curve:
        return members, []
    best = max(curve, key=lambda point: sum(_pair(point.validation)))
    if best.member and best.name is None:
        return [replace(point, name="paint") if point == best else point for point in members], []
    return members, [replace(best, name="paint", member=False)]

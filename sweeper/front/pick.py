"""The choice of a point of a front by name, by trial or by a rule; always on validation."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import replace

from sweeper.errors import UserError
from sweeper.records import Front, FrontPoint

_RULE = re.compile(
    r"(?P<best>max|min)\s+(?P<goal>\w+)"
    r"(?:\s+where\s+(?P<other>\w+)\s*(?P<sign>>=|>|<=|<)\s*(?P<bound>[0-9.]+))?"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
HELP = "knee, another name on the front, a trial's number, or 'max robust_accuracy where clean_accuracy>=0.60'"


def pick(front: Front, choice: str, strength: float | None = None) -> FrontPoint:
    """Return the chosen point.

    Args:
        strength: strength of the point's weights, measured or not; None: that of the point.

    Raises:
        UserError: the front has no such point.
    """
    chosen = _chosen(front, choice.strip())
    if strength is None or strength == chosen.strength:
        return chosen
    measured = [point for point in (*front.points, *front.others) if point.trial == chosen.trial]
    for point in measured:
        if point.strength == strength and point.weights == chosen.weights:
            return point
    return replace(chosen, strength=strength, validation={}, values=None, intervals=None, name=None, member=False)


def _chosen(front: Front, choice: str) -> FrontPoint:
    trained = [point for point in (*front.points, *front.others) if point.trial is not None]
    if choice.isdigit():
        of_trial = [point for point in trained if point.trial == int(choice)]
        if not of_trial:
            raise UserError(f"trial {choice} of {front.sweep} has no finished weights; `sweeper trials` says why")
        return next(point for point in of_trial if point.weights == "last" and point.strength == 1.0)
    for point in trained:
        if point.name is not None and point.name == choice.replace("-", " ").replace("_", " "):
            return point
    rule = _RULE.fullmatch(choice)
    if rule is None:
        named = sorted({point.name for point in trained if point.name})
        raise UserError(f"--pick {choice!r}: no such point ({', '.join(named) or 'none yet'} are named); give {HELP}")
    return _by_rule(front, trained, rule)


def _by_rule(front: Front, points: list[FrontPoint], rule: re.Match[str]) -> FrontPoint:
    goals = {goal.metric: goal for goal in front.goals}
    for name in (rule["goal"], rule["other"]):
        if name is not None and name not in goals:
            raise UserError(f"--pick: {name!r} is not a goal; choose {', '.join(goals)}")
    best = "max" if goals[rule["goal"]].direction == "maximize" else "min"
    if rule["best"] != best:
        raise UserError(f"--pick: {rule['goal']} is {goals[rule['goal']].direction}d; write `{best} {rule['goal']}`")
    try:
        bound = float(rule["bound"]) if rule["bound"] else 0.0
    except ValueError as error:
        raise UserError(f"--pick: {rule['bound']!r} is not a number") from error
    kept = [
        point
        for point in points
        if rule["other"] is None or _SIGNS[rule["sign"]](point.validation[rule["other"]], bound)
    ]
    if not kept:
        choose, word = (max, "highest") if ">" in rule["sign"] else (min, "lowest")
        nearest = choose((point.validation[rule["other"]] for point in points), default=0.0)
        raise UserError(f"--pick: no point has {rule['other']} {rule['sign']} {bound:g}; the {word} is {nearest:.4f}")
    position = list(goals).index(rule["goal"])
    return max(kept, key=lambda point: (front.oriented(point)[position], sum(front.oriented(point))))

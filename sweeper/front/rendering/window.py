"""The part of the plane of both goals that a picture of the front shows, the same for the PNG and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.records import Front
from trainables.records import Goal, goal_values

LEAST_SHARE = 0.34
"""Least share of either axis for the members of the front: points that would leave them less are left out."""
_NARROW = 0.01
"""Least extent of an axis: smaller differences are mostly noise and are not magnified."""
_MARGINS = (0.1, 0.14)
"""Margins below and above the shown points, as shares of their extent; labels need the margin above."""
_LEAST_MARGIN = 0.008
_END_OF_ACCURACY = 1.02
"""Upper end of the axis of goals that are shares of correct answers."""

Pair = tuple[float, float]
"""Values of both goals."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Bounds of both axes, in the goals' own units."""

    low: Pair
    high: Pair

    def holds(self, at: Pair) -> bool:
        """Return whether a point lies inside or on the edge."""
        return all(low <= value <= high for low, value, high in zip(self.low, at, self.high, strict=True))

    def nearest(self, at: Pair) -> Pair:
        """Return the point of the window that is nearest to a point."""
        x, y = (min(max(value, low), high) for low, value, high in zip(self.low, at, self.high, strict=True))
        return x, y

    def share(self, at: Pair) -> Pair:
        """Return the position of a point along both axes: 0 at the low end, 1 at the high end."""
        x, y = ((value - low) / (high - low) for low, value, high in zip(self.low, at, self.high, strict=True))
        return x, y


def window(front: Front) -> Window:
    """Return the window of a front.

    It holds the members with their test values and, as far as the members keep ``LEAST_SHARE`` of an axis, the
    untouched model, the named baselines and the reference point. No other point widens it.
    """
    members = [front.at(point) for point in front.points if point.member]
    tested = [goal_values(point.values, front.goals) for point in front.points if point.member and point.values]
    beside = sorted((point for point in front.points if not point.member), key=lambda point: point.trial is not None)
    optional = [front.at(point) for point in beside]
    optional += [goal_values(point.values, front.goals) for point in beside if point.values]
    optional.append(front.reference_point)
    axes = [
        _axis(
            goal,
            [point[index] for point in members],
            [point[index] for point in tested],
            [point[index] for point in optional],
        )
        for index, goal in enumerate(front.goals)
    ]
    (left, right), (bottom, top) = axes
    return Window(low=(left, bottom), high=(right, top))


def outline(front: Front) -> tuple[list[float], list[float]]:
    """Return x and y of the outline of the area that the front dominates, in the goals' own units.

    It goes from the best in the second goal to the best in the first; it is empty if no member is better than the
    reference point in both goals.
    """
    signs = [1.0 if goal.direction == "maximize" else -1.0 for goal in front.goals]
    reference = [sign * value for sign, value in zip(signs, front.reference_point, strict=True)]
    members = (front.oriented(point) for point in front.points if point.member)
    points = sorted(point for point in members if point[0] > reference[0] and point[1] > reference[1])
    if not points:
        return [], []
    x, y = [reference[0]], [points[0][1]]
    for point, following in zip(points, [*points[1:], None], strict=True):
        x += [point[0], point[0]]
        y += [point[1], following[1] if following else reference[1]]
    return [signs[0] * value for value in x], [signs[1] * value for value in y]


def _axis(goal: Goal, members: Sequence[float], tested: Sequence[float], optional: Sequence[float]) -> Pair:
    """Return the bounds of an axis.

    Optional values are included in their order. If a value would make the members too small, the axis extends towards
    it as far as allowed.
    """
    shown = [*members, *tested] or [optional[0]]
    extent = max(members) - min(members) if members else 0.0
    longest = math.inf if extent < _NARROW else extent / LEAST_SHARE
    left_out = []
    for place, value in enumerate(optional):
        low, high = _with_margins(goal, [*shown, value])
        before_low, before_high = _with_margins(goal, shown)
        # The reference point is the last one. It may lie at chance, far from all measured points.
        most = 2 * (before_high - before_low) if place == len(optional) - 1 else math.inf
        if high - low <= min(longest, most):
            shown.append(value)
        else:
            left_out.append(value)
    low, high = _with_margins(goal, shown)
    sides = [any(value < low for value in left_out), any(value > high for value in left_out)]
    if any(sides) and high - low < longest < math.inf:
        step = (longest - (high - low)) / sum(sides)
        low, high = low - step * sides[0], high + step * sides[1]
    return low, high if goal.view is None else min(high, _END_OF_ACCURACY)


def _with_margins(goal: Goal, values: Sequence[float]) -> Pair:
    low, high = min(values), max(values)
    below, above = (max(_LEAST_MARGIN, share * (high - low)) for share in _MARGINS)
    low, high = low - below, high + above
    return low, high if goal.view is None else min(high, _END_OF_ACCURACY)

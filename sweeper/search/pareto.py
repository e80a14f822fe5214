"""Functions of points in the plane of two goals, both maximised (``records.oriented``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

Value = tuple[float, float]


def non_dominated(values: Sequence[Value]) -> list[bool]:
    """Return for each point whether no other is at least as good in both goals; of equal points the first counts.

    O(n log n).

    Raises:
        ValueError: a value is not finite.
    """
    _check_finite(values)
    kept = [False] * len(values)
    best_second = -math.inf
    for index in sorted(range(len(values)), key=lambda i: (-values[i][0], -values[i][1], i)):
        if values[index][1] > best_second:
            kept[index] = True
            best_second = values[index][1]
    return kept


def hypervolume(values: Sequence[Value], reference: Value) -> float:
    """Return the area dominated by the points and above ``reference`` in both goals; exact, O(n log n).

    Points that do not exceed the reference in both goals add nothing.

    Raises:
        ValueError: a value is not finite.
    """
    _check_finite([*values, reference])
    area, height = 0.0, reference[1]
    above = [value for value in values if value[0] > reference[0]]
    for first, second in sorted(above, key=lambda value: (-value[0], -value[1])):
        if second > height:
            area += (first - reference[0]) * (second - height)
            height = second
    return area


def knee(values: Sequence[Value]) -> int:
    """Return the index of the best compromise on a front: the largest sum of goals, each scaled between its extremes.

    Of equal sums the higher first goal wins, then the first point.

    Raises:
        ValueError: the front is empty, or a value is not finite.
    """
    if not values:
        raise ValueError("an empty front has no knee")
    _check_finite(values)
    lows = [min(value[goal] for value in values) for goal in (0, 1)]
    spans = [max(value[goal] for value in values) - lows[goal] for goal in (0, 1)]

    def merit(index: int) -> tuple[float, float, int]:
        shares = [(values[index][goal] - lows[goal]) / spans[goal] if spans[goal] > 0 else 0.0 for goal in (0, 1)]
        return sum(shares), values[index][0], -index

    return max(range(len(values)), key=merit)


def _check_finite(values: Sequence[Value]) -> None:
    for value in values:
        if not (math.isfinite(value[0]) and math.isfinite(value[1])):
            raise ValueError(f"a point of the front must be finite, got {value}")

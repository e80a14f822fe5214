"""Rank correlation of the second goal on validation with each test set's, over the points of a front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.records import Front

FEWEST_POINTS = 4


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Rank correlation between the second goal on validation, which the search sees, and on a test set."""

    set: str
    points: int
    spearman: float | None
    """None for fewer than ``FEWEST_POINTS`` points, or if all are equal."""
    interval: tuple[float, float] | None
    """95 % interval, by Fisher's transformation with the standard error of Bonett and Wright (2000)."""


def correlations(front: Front) -> list[Correlation]:
    """Return a correlation for each test set that is measured by itself, over all measured points but the untouched
    model.
    """
    metric = front.goals[1].metric
    points = [point for point in front.points if point.trial is not None and point.values is not None]
    names = dict.fromkeys(
        key.removesuffix(f"/{metric}")
        for point in points
        for key in point.values or {}
        if key.endswith(f"/{metric}") and not key.startswith("transfer/")
    )
    by_set = []
    for name in names:
        key = f"{name}/{metric}"
        measured = [point for point in points if point.values is not None and key in point.values]
        x = [point.validation[metric] for point in measured]
        y = [point.values[key] for point in measured if point.values is not None]
        rho = spearman(x, y) if len(measured) >= FEWEST_POINTS else None
        interval = None if rho is None else _interval(rho, len(measured))
        by_set.append(Correlation(set=name, points=len(measured), spearman=rho, interval=interval))
    return by_set


def lines(front: Front) -> list[str]:
    """Return the lines that `sweeper front` prints below its tables; empty if no set is measured by itself."""
    text = []
    for correlation in correlations(front):
        name, points, rho = correlation.set, correlation.points, correlation.spearman
        if rho is None:
            text.append(f"  {name}: {points} point(s): too few or too equal to say")
            continue
        assert correlation.interval is not None
        low, high = correlation.interval
        text.append(f"  {name}: {rho:+.2f} [{low:+.2f}, {high:+.2f}] over {points} points")
    metric = front.goals[1].metric.replace("_", " ")
    head = f"does the search goal hold there? rank correlation of {metric}, validation against test set:"
    return [head, *text] if text else []


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, ties at their mean rank; None if ``x`` or ``y`` is constant."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return statistics.correlation(_ranks(x), _ranks(y))


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in set(values)}
    return [first[value] + (values.count(value) - 1) / 2 for value in values]


def _interval(rho: float, points: int) -> tuple[float, float]:
    # A perfect order has an infinite Fisher transform: take the nearest other correlation, with two neighbours swapped.
    near = 1 - 12 / (points * (points**2 - 1))
    centre = math.atanh(max(-near, min(near, rho)))
    error = math.sqrt((1 + rho**2 / 2) / max(1, points - 3))
    low, high = math.tanh(centre - 1.96 * error), math.tanh(centre + 1.96 * error)
    return (low if rho > -1 + 1e-12 else -1.0), (high if rho < 1 - 1e-12 else 1.0)

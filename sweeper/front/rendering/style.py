"""Names and colours of a front's points, the same in table, plot and HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.records import Front, FrontPoint
from trainables.tasks.known import KINDS

COLOURS = {
    "dpo": "#0072B2",
    "ipo": "#E69F00",
    "kto": "#009E73",
    "cross_entropy": "#CC79A7",
    "equal": "#56B4E9",
    "none": "#999999",
}
"""Colours of the objectives, and of the target that has its own loss.

They are the colours of Okabe and Ito, which colour-blind readers can distinguish.
"""
OTHER_COLOUR = "#666666"
UNTOUCHED_COLOUR = "#D55E00"


BASELINE_TITLES = {baseline_name: title for kind in KINDS for baseline_name, title in kind.baseline_titles().items()}
"""Name of a baseline -> its title for readers."""


def label(point: FrontPoint) -> str:
    """Return the label of a point: its name, else its trial."""
    if point.name:
        return BASELINE_TITLES.get(point.name, point.name)
    return "untouched" if point.trial is None else f"trial {point.trial}"


def colour(point: FrontPoint) -> str:
    """Return the colour of the point's objective."""
    return COLOURS.get(objective_of(point), OTHER_COLOUR)


def objective_of(point: FrontPoint) -> str:
    """Return the objective, or the target if it has its own loss."""
    return objective_in(point.parameters)


def objective_in(parameters: Mapping[str, Any]) -> str:
    """Return the objective in a trial's parameters, or the target if it has its own loss."""
    return str(parameters.get("objective") or parameters.get("target"))


def is_baseline(point: FrontPoint) -> bool:
    return point.name in BASELINE_TITLES


def baseline_curves(front: Front) -> dict[str, list[FrontPoint]]:
    """Return for each baseline's name its validation points by rising strength, the untouched model first."""
    untouched = [point for point in front.points if point.trial is None]
    curves = {}
    for shown in (point for point in front.points if is_baseline(point)):
        of_trial = [
            point
            for point in (*front.points, *front.others)
            if (point.sweep, point.trial) == (shown.sweep, shown.trial) and point.weights == "last"
        ]
        curves[shown.name or ""] = untouched + sorted(of_trial, key=lambda point: point.strength)
    return curves


def error_bar(point: FrontPoint, goal: str) -> tuple[float, float]:
    """Return how far the test interval of ``goal`` reaches below and above its value; zero if not measured."""
    value = (point.values or {})[goal]
    low, high = (point.intervals or {}).get(goal, (value, value))
    return max(0.0, value - low), max(0.0, high - value)

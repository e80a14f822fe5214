"""Names and colours of a front's points, the same in table, plot and HTML page."""

from __future__ import annotations

from sweeper.records import Front, FrontPoint

COLOURS = {"dpo": "#0072B2", "ipo": "#E69F00", "kto": "#009E73", "cross_entropy": "#CC79A7"}
"""Per objective; colours of Okabe and Ito, which colour-blind readers can distinguish."""
OTHER_COLOUR = "#666666"
UNTOUCHED_COLOUR = "#D55E00"


def label(point: FrontPoint) -> str:
    """Return what a point is called: its name, else its trial."""
    if point.name:
        return "PAINT" if point.name == "paint" else point.name
    return "untouched" if point.trial is None else f"trial {point.trial}"


def colour(point: FrontPoint) -> str:
    """Return the colour of the point's objective."""
    return COLOURS.get(str(point.parameters.get("objective")), OTHER_COLOUR)


def paint_curve(front: Front) -> list[FrontPoint]:
    """Return PAINT's validation points by rising strength, the untouched model first; empty without the baseline."""
    trial = next((point.trial for point in front.points if point.name == "paint"), None)
    if trial is None:
        return []
    untouched = [point for point in front.points if point.trial is None]
    paint = [point for point in (*front.points, *front.others) if point.trial == trial and point.weights == "last"]
    return untouched + sorted(paint, key=lambda point: point.strength)


def error_bar(point: FrontPoint, goal: str) -> tuple[float, float]:
    """Return how far the test interval of ``goal`` reaches below and above its value; zero where none was measured."""
    value = (point.values or {})[goal]
    low, high = (point.intervals or {}).get(goal, (value, value))
    return max(0.0, value - low), max(0.0, high - value)

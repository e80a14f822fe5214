"""The front as a plot."""

from __future__ import annotations

import logging
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from sweeper.front.rendering.encoding import ImageFormat, encoded
from sweeper.front.rendering.style import (
    BASELINE_TITLES,
    COLOURS,
    OTHER_COLOUR,
    UNTOUCHED_COLOUR,
    baseline_curves,
    colour,
    error_bar,
    is_baseline,
    label,
    objective_of,
)
from sweeper.front.rendering.table import summary
from sweeper.front.rendering.window import Pair, Window, outline, window
from sweeper.records import Front, FrontPoint
from trainables.records import goal_values

_SUMMARY_WIDTH = 150
"""Number of characters in a line below the title."""
_GREY = "#444444"
_WIDEST_LEGEND = 7


def plot(front: Front, format: ImageFormat = "png") -> bytes:
    """Return a picture: validation with the front and every other point, and test with intervals if measured."""
    # The first import may take seconds to index fonts and warns about it.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    measured = any(point.values for point in front.points)
    # The width up to which MLflow's description of a run shows a picture in full.
    figure = Figure(figsize=(10.8 if measured else 6.8, 5.8), dpi=100, facecolor="white")
    axes = figure.subplots(1, 2 if measured else 1, sharex=True, sharey=True, squeeze=False)[0]
    shown = window(front)
    outside = _validation(axes[0], front, shown)
    if measured:
        _test(axes[1], front, shown)
    for panel in axes:
        panel.set_xlabel(front.goals[0].title)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(front.goals[1].title)
    figure.suptitle(f"Pareto front of {front.sweep}", x=0.02, y=0.975, ha="left", fontsize=15, fontweight="bold")
    far = f"; outside the picture: {outside} point{'' if outside == 1 else 's'}" if outside else ""
    about = textwrap.wrap(summary(front) + far, _SUMMARY_WIDTH)
    figure.text(0.02, 0.935, "\n".join(about), ha="left", va="top", fontsize=9.5, color=_GREY)
    lines = _legend(figure, front)
    figure.tight_layout(rect=(0.0, 0.02 + 0.04 * lines, 1.0, 0.97 - 0.03 * len(about)))
    return encoded(figure, format)


def _validation(axes: Any, front: Front, shown: Window) -> int:
    """Draw the validation points; return how many points of trials lie outside the axes."""
    axes.set_title("validation: every point tried, and the front picked on it", loc="left", fontsize=10.5)
    for point in front.others:
        axes.plot(*front.at(point), "o", color=colour(point), alpha=0.25, markersize=4.5, markeredgewidth=0)
    for curve in baseline_curves(front).values():
        axes.plot(*zip(*map(front.at, curve), strict=True), "--", color=_GREY, linewidth=1)
        for point in curve[1:]:
            axes.plot(*front.at(point), "D", color="white", markeredgecolor=_GREY, markersize=5)
    reference = front.reference_point
    outline_x, outline_y = outline(front)
    if outline_x:
        axes.fill_between(outline_x, outline_y, reference[1], color="#0072B2", alpha=0.06, linewidth=0)
        axes.plot(outline_x, outline_y, color="#222222", linewidth=1.3, zorder=3)
    axes.plot(*reference, "+", color="#222222", markersize=10, zorder=3)
    axes.annotate("reference point", reference, (6, -11), textcoords="offset points", fontsize=8, color=_GREY)
    _marks(axes, [(point, front.at(point)) for point in front.points], shown)
    axes.set_xlim(shown.low[0], shown.high[0])
    axes.set_ylim(shown.low[1], shown.high[1])
    return sum(not shown.holds(front.at(point)) for point in front.others)


def _test(axes: Any, front: Front, shown: Window) -> None:
    axes.set_title("test: the same points, measured once, 95 % intervals", loc="left", fontsize=10.5)
    axes.tick_params(labelleft=True)
    metrics = [goal.metric for goal in front.goals]
    measured = [(point, goal_values(point.values, front.goals)) for point in front.points if point.values]
    for point, (x, y) in measured:
        bars = [[[reach] for reach in error_bar(point, metric)] for metric in metrics]
        edge = _GREY if point.trial is None or not point.member else colour(point)
        axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt="none", ecolor=edge, elinewidth=1, alpha=0.7, zorder=2)
    _marks(axes, measured, shown)
    for point in front.points:
        confirmation = point.confirmation
        if confirmation is None or point.values is None:
            continue
        means, intervals = confirmation.values, confirmation.intervals
        if means is None or intervals is None or not set(metrics) <= set(means):
            continue
        first, retrained = goal_values(point.values, front.goals), goal_values(means, front.goals)
        axes.plot([first[0], retrained[0]], [first[1], retrained[1]], ":", color=_GREY, linewidth=1.2, zorder=6)
        bars = [[[max(0.0, means[metric] - intervals[metric][0])],
                 [max(0.0, intervals[metric][1] - means[metric])]] for metric in metrics]  # fmt: skip
        axes.errorbar(*retrained, xerr=bars[0], yerr=bars[1], fmt="none", ecolor="#222222", elinewidth=0.8, zorder=6)
        marker = "s" if confirmation.stays else "X"
        axes.plot(*retrained, marker, color="white", markeredgecolor="#222222", markersize=6, zorder=7)


def _marks(axes: Any, points: Sequence[tuple[FrontPoint, Pair]], shown: Window) -> None:
    """Draw front members, untouched model and baselines with their names.

    A named point outside the window is drawn at its edge, with its values.
    """
    for point, at in points:
        xy, text = shown.nearest(at), label(point)
        pinned = xy != at
        if pinned:
            text += f" is at {at[0]:.3f}, {at[1]:.3f}"
        if point.trial is None:
            axes.plot(
                *xy, "*", color=UNTOUCHED_COLOUR, markersize=17, markeredgecolor="white", zorder=5, clip_on=not pinned
            )
        elif is_baseline(point):
            axes.plot(*xy, "D", color=_GREY, markersize=8, markeredgecolor="white", zorder=4, clip_on=not pinned)
        elif point.member:
            size = 11 if point.name else 8
            axes.plot(*xy, "o", color=colour(point), markersize=size, markeredgecolor="#222222", zorder=4)
        if point.name or point.trial is None:
            across, up = shown.share(xy)
            left = across > (0.5 if pinned else 0.3 if is_baseline(point) else 0.9)
            below = (is_baseline(point) or point.trial is None) and not (pinned and up < 0.5)
            offset = (-9 if left else 10, -13 if below else 5)
            axes.annotate(
                text, xy, offset, textcoords="offset points", fontsize=9.5, zorder=6,
                ha="right" if left else "left", fontweight="bold" if point.name == "knee" else "normal",
            )  # fmt: skip


def _legend(figure: Any, front: Front) -> int:
    """Draw the legend; return its number of lines."""
    from matplotlib.lines import Line2D

    used = {objective_of(point) for point in (*front.points, *front.others)}
    handles = [
        Line2D([], [], marker="o", linestyle="", color=shade, markeredgecolor="#222222", markersize=8, label=name)
        for name, shade in COLOURS.items()
        if name in used
    ]
    handles.append(Line2D([], [], marker="o", linestyle="", color=OTHER_COLOUR, alpha=0.3, label="not on the front"))
    if any(point.trial is None for point in front.points):
        handles.append(
            Line2D([], [], marker="*", linestyle="", color=UNTOUCHED_COLOUR, markersize=13, label="untouched model")
        )
    for name in baseline_curves(front):
        title = f"{BASELINE_TITLES[name]} (by strength)"
        handles.append(Line2D([], [], marker="D", linestyle="--", color=_GREY, markersize=6, label=title))
    if any(point.confirmation for point in front.points):
        shapes = {"s": "mean over new seeds", "X": "the same, does not stay"}
        handles += [
            Line2D([], [], marker=shape, linestyle="", color="white", markeredgecolor="#222222", label=text)
            for shape, text in shapes.items()
        ]
    lines = 1 if len(handles) <= _WIDEST_LEGEND else 2
    columns = math.ceil(len(handles) / lines)
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=9.5)
    return lines

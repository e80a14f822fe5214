"""Pictures of a search as a front's page shows it: each parameter against each goal, and importance."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from sweeper.front.rendering.encoding import ImageFormat, encoded
from sweeper.front.rendering.page.data import ParameterShown, SearchedTrial, SearchShown
from sweeper.front.rendering.style import COLOURS, OTHER_COLOUR
from trainables.records import Goals

_COLUMNS = 3
_GREY = "#dddddd"


def slices(search: SearchShown, goals: Goals, format: ImageFormat = "png") -> bytes | None:
    """Return a picture with a panel for each parameter and goal; None if there is nothing to show."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # the first import may warn that it indexes fonts
    from matplotlib.figure import Figure

    places = [
        (place, axis)
        for place, axis in enumerate(search.parameters)
        if any(trial.values[place] is not None for trial in search.trials)
    ]
    if not places:
        return None
    columns = min(_COLUMNS, len(places))
    lines = math.ceil(len(places) / columns)
    figure = Figure(figsize=(3.4 * columns + 0.4, 2.5 * lines * len(goals) + 0.3), dpi=100, facecolor="white")
    panels = figure.subplots(lines * len(goals), columns, squeeze=False)
    for row in panels:
        for panel in row:
            panel.set_visible(False)
    for index, (place, axis) in enumerate(places):
        for number, goal in enumerate(goals):
            panel = panels[(index // columns) * len(goals) + number][index % columns]
            panel.set_visible(True)
            _slice(panel, axis, search.trials, place, number)
            panel.set_ylabel(goal.short)
            if number == 0:
                panel.set_title(axis.name, loc="left", fontsize=10)
    figure.tight_layout()
    return encoded(figure, format)


def importance_bars(search: SearchShown, format: ImageFormat = "png") -> bytes | None:
    """Return a picture with the importance of each parameter in each goal; None if it is not known."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    if not search.importance:
        return None
    most = max(len(shown.shares) for shown in search.importance)
    figure = Figure(figsize=(3.6 * len(search.importance) + 0.6, 0.34 * most + 1.0), dpi=100, facecolor="white")
    panels = figure.subplots(1, len(search.importance), squeeze=False)[0]
    for panel, shown in zip(panels, search.importance, strict=True):
        names, shares = [name for name, _ in shown.shares], [share for _, share in shown.shares]
        panel.barh(range(len(names)), shares, color="#0072B2", height=0.6)
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set_xlim(0, 1)
        panel.set_title(shown.goal, loc="left", fontsize=10)
        panel.set_xlabel("share of the variance of ranks")
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return encoded(figure, format)


def _slice(panel: Any, axis: ParameterShown, trials: Sequence[SearchedTrial], place: int, goal: int) -> None:
    for trial in trials:
        value = trial.values[place]
        if value is None:
            continue
        x = value if axis.choices is None else axis.choices.index(str(value))
        shade = COLOURS.get(trial.objective or "", OTHER_COLOUR)
        panel.plot(
            x, trial.goals[goal], "o", color=shade, markersize=5, alpha=0.8,
            markerfacecolor="none" if trial.stopped else shade,
        )  # fmt: skip
    if axis.choices is not None:
        panel.set_xticks(range(len(axis.choices)), axis.choices, fontsize=8)
        panel.set_xlim(-0.5, len(axis.choices) - 0.5)
    elif axis.log:
        panel.set_xscale("log")
    panel.grid(color=_GREY, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)

"""The front as a low strip (PNG), because MLflow folds a run's description below some hundred pixels."""

from __future__ import annotations

import io
import logging

from sweeper.front.rendering.style import UNTOUCHED_COLOUR, colour, is_baseline, label
from sweeper.records import Front, FrontPoint

_HEIGHT, _WIDTH, _DPI = 0.84, 7.2, 100
"""Height and width in inches, and pixels per inch."""
_MOST_LINES = 4


def strip(front: Front) -> bytes:
    """Return a PNG of 720 x 84 pixels: the front on validation, and beside it its named points in words."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # the first import may warn that it indexes fonts
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0.01, 0.06, 0.26, 0.88))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#cccccc")
    for point in front.points:
        shade = UNTOUCHED_COLOUR if point.trial is None else "#444444" if is_baseline(point) else colour(point)
        marker = "*" if point.trial is None else "D" if is_baseline(point) else "o"
        axes.plot(*front.at(point), marker, color=shade, markersize=9 if marker == "*" else 5)
    members = sorted(front.at(point) for point in front.points if point.member)
    if members:
        axes.plot(*zip(*members, strict=True), color="#222222", linewidth=0.8, zorder=0)
    axes.margins(0.12, 0.2)
    texts = [_text(front, point) for point in front.points if point.name or point.trial is None]
    for number, text in enumerate(texts[: 2 * _MOST_LINES]):
        x, y = 0.29 + 0.36 * (number // _MOST_LINES), 0.82 - 0.235 * (number % _MOST_LINES)
        figure.text(x, y, text, fontsize=8.5, va="center", color="#222222")
    figure.text(0.995, 0.115, "on validation", fontsize=7.5, va="center", ha="right", color="#777777")
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _text(front: Front, point: FrontPoint) -> str:
    """Return the text of a named point, such as ``knee: clean 0.938, robust 0.613``."""
    values = ", ".join(f"{goal.short} {value:.3f}" for goal, value in zip(front.goals, front.at(point), strict=True))
    return f"{label(point)}: {values}"

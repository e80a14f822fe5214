"""The task's metrics over the strength of a trial's weights, as a plot."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.front.rendering.encoding import ImageFormat, encoded
from sweeper.front.rendering.style import is_baseline, label
from sweeper.records import Front, FrontPoint

_MOST = 4
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def curves(front: Front, format: ImageFormat = "png") -> bytes | None:
    """Return a picture with a panel for each named trial: the task's metrics on validation over the strength.

    The untouched model is at strength 0. None if no trial was measured at several strengths.
    """
    from matplotlib.figure import Figure

    untouched = next((point for point in front.points if point.trial is None), None)
    shown = [(title, points) for title, points in _by_trial(front) if len(points) > 1][:_MOST]
    if untouched is None or not shown:
        return None
    figure = Figure(figsize=(3.4 * len(shown) + 0.6, 3.6), dpi=100, facecolor="white")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for panel, (title, points) in zip(panels, shown, strict=True):
        course = [(0.0, untouched.validation), *((point.strength, point.validation) for point in points)]
        for metric, colour in zip(front.curves, _COLOURS, strict=False):
            line = [(strength, values[metric]) for strength, values in sorted(course, key=lambda pair: pair[0])]
            panel.plot(*zip(*line, strict=True), "o-", color=colour, markersize=4, label=metric.replace("_", " "))
        solved = [point.strength for point in points if round(point.strength, 2) != point.strength]
        for strength in solved:  # strengths that were solved for, not named in a spec
            panel.axvline(strength, color="#444444", linestyle=":", linewidth=1)
            panel.annotate(
                f"t = {strength:.3f}", (strength, 0.0), (-3, 3), textcoords="offset points", ha="right", fontsize=8
            )
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xlabel("strength t")
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_ylim(-0.03, 1.05)
    panels[0].set_ylabel("on validation")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return encoded(figure, format)


def _by_trial(front: Front) -> list[tuple[str, Sequence[FrontPoint]]]:
    """Return the points with last weights, by rising strength, of each named trial: members first, then baselines."""
    named = [point for point in front.points if point.trial is not None and point.name is not None]
    titles: dict[tuple[str | None, int | None], list[str]] = {}
    for point in sorted(named, key=is_baseline):
        titles.setdefault((point.sweep, point.trial), []).append(label(point))
    everything = (*front.points, *front.others)
    return [
        (
            f"trial {trial}: {', '.join(names)}",
            sorted(
                (
                    point
                    for point in everything
                    if (point.sweep, point.trial) == (sweep, trial)
                    and point.weights == "last"
                    and all(metric in point.validation for metric in front.curves)
                ),
                key=lambda point: point.strength,
            ),
        )
        for (sweep, trial), names in titles.items()
    ]

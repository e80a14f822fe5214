"""The figures of a report by name, drawn from its content."""

from __future__ import annotations

from sweeper.front.rendering.curves import curves
from sweeper.front.rendering.encoding import ImageFormat
from sweeper.front.rendering.plot import plot
from sweeper.front.rendering.slices import importance_bars, slices
from sweeper.report.content import Report

ALT = {
    "front": "Goals on validation and on test: the front, other points, the untouched model and baselines.",
    "importance": "Bars of the importance of each parameter in each goal.",
    "slices": "Each searched parameter against each goal, a dot for each trial.",
    "curves": "Metrics of the named trials over the strength of their weights.",
}
"""Name of a figure -> its description."""


def figures(report: Report, format: ImageFormat) -> dict[str, bytes]:
    """Return the figures that the report's sections name, those that there are."""
    drawn = {
        "front": plot(report.front, format),
        "importance": importance_bars(report.search, format),
        "slices": slices(report.search, report.front.goals, format),
        "curves": curves(report.front, format),
    }
    named = [name for section in report.sections for name in section.figures]
    return {name: content for name in named if (content := drawn[name]) is not None}

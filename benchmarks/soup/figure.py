"""The figure of ``benchmarks.soup.run``: fronts on test, and hypervolume over cost, for each scope."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.common.figure import png_bytes, tidy

if TYPE_CHECKING:
    from benchmarks.search.table import Part
    from benchmarks.soup.points import Comparison, Point

COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#994f00") * 2
MARKERS = "osD^vP*X<>hpd8"


def draw(comparisons: Mapping[Part, Comparison], untouched: Point) -> bytes:
    """Return a PNG with a row per scope: on the left the points of the first seed, on the right all seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 4.8 * len(comparisons)), dpi=100, facecolor="white")
    panels = figure.subplots(len(comparisons), 2, squeeze=False)
    for (left, right), (tune, comparison) in zip(panels, comparisons.items(), strict=True):
        _points(left, tune, comparison, untouched)
        _costs(right, tune, comparison)
    figure.tight_layout()
    return png_bytes(figure)


def _points(panel: Any, tune: str, comparison: Comparison, untouched: Point) -> None:
    for sweep in comparison.full:
        front = sorted(point.test for point in sweep.front)
        panel.plot(*zip(*front, strict=True), ".", color="#0072b2", alpha=0.5, markersize=5)
    panel.plot([], [], ".", color="#0072b2", label=f"{len(comparison.full)} full sweeps")
    for (name, results), colour, marker in zip(comparison.strategies.items(), COLOURS, MARKERS, strict=False):
        front = sorted(point.test for point in results[0].front)
        panel.plot(*zip(*front, strict=True), marker, color=colour, markersize=5, alpha=0.8, label=name)
    panel.plot(*untouched.test, "k+", markersize=10, label="untouched")
    panel.set_xlabel("clean accuracy, test")
    panel.set_ylabel("robust accuracy, test")
    panel.set_title(f"{tune}: points chosen on validation, measured on test", loc="left", fontsize=10)
    tidy(panel)
    panel.legend(fontsize=6, frameon=False, loc="lower left")


def _costs(panel: Any, tune: str, comparison: Comparison) -> None:
    cost = statistics.mean(course.costs[-1] for course in comparison.full)
    area = statistics.mean(course.test[-1] for course in comparison.full)
    for sweeps, name, style in (
        (comparison.full, "TPE", "-"),
        (comparison.cross_entropy, "TPE of CE only", ":"),
        (comparison.after_middle, "TPE after one CE in the middle", "--"),
    ):
        x = [spent / cost for spent in sweeps[0].costs]
        means = [statistics.mean(course.test[i] for course in sweeps) / area for i in range(len(x))]
        panel.plot(x, means, style, color="#0072b2", label=name)
    for results, colour, marker in zip(comparison.strategies.values(), COLOURS, MARKERS, strict=False):
        x = [result.cost.images / cost for result in results]
        panel.plot(x, [result.test / area for result in results], marker, color=colour, markersize=4, alpha=0.8)
    panel.axhline(0.9, color="#999999", linewidth=0.8, zorder=0)
    panel.axvline(0.2, color="#999999", linewidth=0.8, zorder=0)
    panel.set_xscale("log")
    panel.set_ylim(0, 1.15)
    panel.set_xlabel(f"share of the full sweep's cost ({len(comparison.full[0].costs)} trials)")
    panel.set_ylabel("share of its hypervolume, test")
    panel.set_title(f"{tune}: a mark per seed; grey: 90 % for a fifth", loc="left", fontsize=10)
    tidy(panel)
    panel.legend(fontsize=7, frameon=False, loc="lower right")

"""The figure of ``soup.py``: fronts on test, and hypervolume over cost, for each scope."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.search.table import Part
    from benchmarks.soup.points import Compared, Point

COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#994f00") * 2
MARKERS = "osD^vP*X<>hpd8"


def draw(studies: Mapping[Part, Compared], untouched: Point) -> bytes:
    """Returns a PNG: a row per scope; left the points of the first seed, right all seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 4.8 * len(studies)), dpi=100, facecolor="white")
    panels = figure.subplots(len(studies), 2, squeeze=False)
    for (left, right), (tune, study) in zip(panels, studies.items(), strict=True):
        _points(left, tune, study, untouched)
        _costs(right, tune, study)
    figure.tight_layout()
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _points(panel: Any, tune: str, study: Compared, untouched: Point) -> None:
    for swept in study.full:
        front = sorted(point.test for point in swept.front)
        panel.plot(*zip(*front, strict=True), ".", color="#0072b2", alpha=0.5, markersize=5)
    panel.plot([], [], ".", color="#0072b2", label=f"{len(study.full)} full sweeps")
    for (name, served), colour, marker in zip(study.served.items(), COLOURS, MARKERS, strict=False):
        front = sorted(point.test for point in served[0].front)
        panel.plot(*zip(*front, strict=True), marker, color=colour, markersize=5, alpha=0.8, label=name)
    panel.plot(*untouched.test, "k+", markersize=10, label="untouched")
    panel.set_xlabel("clean accuracy, test")
    panel.set_ylabel("robust accuracy, test")
    panel.set_title(f"{tune}: points chosen on validation, measured on test", loc="left", fontsize=10)
    _tidy(panel)
    panel.legend(fontsize=6, frameon=False, loc="lower left")


def _costs(panel: Any, tune: str, study: Compared) -> None:
    cost, area = (statistics.mean(getattr(one, name)[-1] for one in study.full) for name in ("costs", "test"))
    kinds = ((study.full, "TPE", "-"), (study.cross_entropy, "TPE of CE only", ":"))
    for sweeps, name, style in (*kinds, (study.after_middle, "TPE after one CE in the middle", "--")):
        x = [one / cost for one in sweeps[0].costs]
        means = [statistics.mean(one.test[i] for one in sweeps) / area for i in range(len(x))]
        panel.plot(x, means, style, color="#0072b2", label=name)
    for (_, served), colour, marker in zip(study.served.items(), COLOURS, MARKERS, strict=False):
        x = [one.bill.cost / cost for one in served]
        panel.plot(x, [one.test / area for one in served], marker, color=colour, markersize=4, alpha=0.8)
    panel.axhline(0.9, color="#999999", linewidth=0.8, zorder=0)
    panel.axvline(0.2, color="#999999", linewidth=0.8, zorder=0)
    panel.set_xscale("log")
    panel.set_ylim(0, 1.15)
    panel.set_xlabel(f"share of the full sweep's cost ({len(study.full[0].costs)} trials)")
    panel.set_ylabel("share of its hypervolume, test")
    panel.set_title(f"{tune}: a mark per seed; grey: 90 % for a fifth", loc="left", fontsize=10)
    _tidy(panel)
    panel.legend(fontsize=7, frameon=False, loc="lower right")


def _tidy(panel: Any) -> None:
    panel.grid(color="#e5e5e5", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)

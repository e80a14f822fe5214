"""A concept before and after, as a plot (PNG): the best retrievals of some queries, and the singular values of W."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.front.rendering.style import label
from sweeper.records import Front, FrontPoint, PointName

if TYPE_CHECKING:
    from trainables.evaluation.retrieved import Retrieved

_FRAMES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#F0E442", "#56B4E9")
_GAP_PX = 3
_LOWEST = 1e-3


def shown_points(front: Front) -> list[FrontPoint]:
    """Return the points that are drawn: the untouched model, the knee, and the best in the second goal."""
    names = ("untouched", "knee", front.goals[1].best)
    found = [next((point for point in front.points if point.name == name), None) for name in names]
    return [point for point in found if point is not None]


def concept(front: Front, retrieved: Mapping[PointName, Retrieved]) -> bytes | None:
    """Return a PNG; None if no retrievals were measured."""
    points = [point for point in shown_points(front) if point.point_name in retrieved]
    if not points:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.8, 0.5 + 2.1 * len(points)), dpi=100, facecolor="white")
    panels = figure.subplots(len(points), 2, squeeze=False, gridspec_kw={"width_ratios": [3, 1]})
    limits = _limits([retrieved[point.point_name].singular_values for point in points])
    for (strip, spectrum), point in zip(panels, points, strict=True):
        of_point = retrieved[point.point_name]
        strip.imshow(_sheet(of_point))
        strip.set_title(f"{label(point)}: best retrievals on test", loc="left", fontsize=10)
        side = of_point.images.shape[2] + 2 * _GAP_PX
        strip.set_yticks([side * (row + 0.5) for row in range(len(of_point.queries))], of_point.queries, fontsize=8)
        strip.set_xticks([])
        strip.spines[:].set_visible(False)
        _spectrum(spectrum, of_point, limits)
    from matplotlib.patches import Patch

    names = retrieved[points[0].point_name].value_names
    handles = [Patch(color=colour, label=name) for colour, name in zip(_FRAMES, names, strict=False)]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _sheet(of_point: Retrieved) -> Any:
    """Return the images side by side, a row for each query, each in a frame of its value's colour."""
    import numpy as np

    queries, best, side = of_point.images.shape[:3]
    cell = side + 2 * _GAP_PX
    sheet = np.full((queries * cell, best * cell, 3), 255, np.uint8)
    for query in range(queries):
        for rank in range(best):
            top, left = query * cell, rank * cell
            colour = _FRAMES[int(of_point.values[query, rank]) % len(_FRAMES)]
            sheet[top : top + cell - 1, left : left + cell - 1] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            inside = (
                slice(top + _GAP_PX - 1, top + _GAP_PX - 1 + side),
                slice(left + _GAP_PX - 1, left + _GAP_PX - 1 + side),
            )
            sheet[inside] = of_point.images[query, rank]
    return sheet


def _limits(spectra: Sequence[Any]) -> tuple[float, float]:
    """Return one range for the singular values of all points."""
    values = [value for spectrum in spectra for value in spectrum.clip(min=_LOWEST).tolist()]
    return 0.7 * min(values, default=_LOWEST), 1.4 * max(values, default=1.0)


def _spectrum(axes: Any, of_point: Retrieved, limits: tuple[float, float]) -> None:
    """Draw the singular values; the size of a mark is the concept's share in its direction."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values, shares = of_point.singular_values, of_point.concept_shares
    if not len(values):
        axes.set_visible(False)
        return
    values = values.clip(min=_LOWEST)  # a projection has zeros, which a logarithmic axis cannot show
    axes.plot(range(len(values)), values, "-", color="#999999", linewidth=1)
    axes.scatter(range(len(values)), values, s=4 + 250 * shares, color="#0072B2", alpha=0.7)
    axes.set_yscale("log")
    axes.set_ylim(limits)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("singular values of W", loc="left", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)

"""The figure of ``benchmarks.transform.run``: clean and robust accuracy over the strength t and over the rank of W."""

from __future__ import annotations

from typing import Any

from benchmarks.common.figure import png_bytes, tidy

COLOURS = {"CE": "#0072b2", "DPO": "#d55e00"}
STARTS = {"images": "-", "all class texts": "--", "I + BA": ":"}


def draw(
    strengths: dict[tuple[Any, ...], dict[str, float]],
    ranked: dict[tuple[Any, ...], dict[str, float]],
    untouched: dict[str, float],
    ranks: list[int],
) -> bytes:
    """Return a PNG.

    Args:
        strengths: (trial, start, rank, t, clamped) -> clean and robust accuracy.
        ranked: (trial, start, rank) -> clean and robust accuracy.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.8), dpi=100, facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    names = sorted({key[0] for key in ranked})
    for name in names:
        colour = COLOURS.get(name, "#009e73")
        for metric, style in (("clean", "-"), ("robust", "--")):
            for clamped in (True, False):
                line = {
                    key[3]: row
                    for key, row in strengths.items()
                    if key[:3] == (name, "images", ranks[-1]) and (key[4] == clamped or (key[3] == 0 and not clamped))
                }
                line = {t: row for t, row in line.items() if clamped or t <= 0}
                x, y = list(line), [row[metric] for row in line.values()]
                label = f"{name}, {metric}" if clamped else None
                left.plot(x, y, style, color=colour, linewidth=1.6 if clamped else 0.7, label=label)
    left.set_xlabel("t of W^t, full rank (thin: singular values not clamped below 0)")
    left.set_ylabel("test accuracy over all classes")
    left.set_title("strength", loc="left", fontsize=11)
    first = names[0]
    for start, style in STARTS.items():
        for metric, colour in (("clean", "#444444"), ("robust", "#cc79a7")):
            rows = [ranked[first, start, rank] for rank in ranks]
            right.plot(ranks, [row[metric] for row in rows], style, color=colour, label=f"{start}, {metric}")
    right.set_xscale("log", base=2)
    right.set_xticks(ranks, [str(rank) for rank in ranks])
    right.minorticks_off()
    right.set_xlabel(f"rank of W, trained with {first}")
    right.set_title("rank, by start of W", loc="left", fontsize=11)
    for panel in (left, right):
        for metric in ("clean", "robust"):
            panel.axhline(untouched[metric], color="#999999", linewidth=0.8, zorder=0)
        panel.set_ylim(0, 1)
        tidy(panel)
        panel.legend(fontsize=8, frameon=False, loc="lower right")
    figure.text(0.995, 0.005, "grey lines: the untouched model", ha="right", fontsize=8, color="#777777")
    figure.tight_layout()
    return png_bytes(figure)

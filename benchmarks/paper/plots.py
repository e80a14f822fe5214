"""Draws one of the paper's sweeps: clean and robust accuracy on validation over the swept parameter, by objective.

    python -m benchmarks.paper.plots paper_beta-reduced beta docs/paper/beta.png --storage sweeps

Every finished trial is shown with its last weights at strength 1, on validation: test is measured for the front only.
Bars are 95 % intervals of a share (normal approximation, over the images of validation).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.front.rendering.style import COLOURS, UNTOUCHED_COLOUR
from sweeper.records import TrialRecord
from sweeper.search.study import read_trials
from sweeper.storage.sweep_folder import SweepFolder

GOALS = {"clean_accuracy": "clean images", "robust_accuracy": "attacked images"}
LABELS = {
    "beta": "beta",
    "lambda_reg": "lambda_reg",
    "images": "training images",
    "copies": "attacked copies per image",
}


def half_width(share: float, counts: Sequence[int]) -> float:
    """Return half the width of the 95 % interval of a mean of shares, each measured on one of ``counts`` images."""
    return 1.96 * math.sqrt(share * (1 - share) * sum(1 / count for count in counts)) / len(counts)


def draw(trials: Sequence[TrialRecord], untouched: dict[str, Any], parameter: str, title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), dpi=90, facecolor="white", layout="constrained")
    counts = untouched["validation_images"]
    shown = [trial for trial in trials if trial.values is not None and trial.baseline is None]
    ticks = sorted({trial.parameters[parameter] for trial in shown})
    for axes, (goal, words) in zip(figure.subplots(1, 2), GOALS.items(), strict=True):
        for objective, colour in COLOURS.items():
            own = [trial for trial in shown if trial.parameters["objective"] == objective]
            own.sort(key=lambda trial: trial.parameters[parameter])
            # Side by side, so that the bars of several objectives at the same value do not overlap.
            aside = 1.0 + 0.03 * (list(COLOURS).index(objective) - 1.5)
            x = [trial.parameters[parameter] * aside for trial in own]
            y = [trial.values[goal] for trial in own if trial.values is not None]
            bars = [half_width(value, counts) for value in y]
            if own:
                axes.errorbar(x, y, yerr=bars, color=colour, marker="o", markersize=4, linewidth=1.4, elinewidth=0.8,
                              label=objective)  # fmt: skip
        axes.axhline(untouched["validation"][goal], color=UNTOUCHED_COLOUR, linestyle="--", label="untouched model")
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel(LABELS.get(parameter, parameter))
        axes.set_title(f"accuracy on {words} (validation)", loc="left", fontsize=10)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the sweep")
    parser.add_argument("parameter", help="what it swept: beta, lambda_reg, images, copies or another number")
    parser.add_argument("file", type=Path, help="the picture to write (.png, .svg or .pdf)")
    parser.add_argument("--storage", type=Path, default=Path("sweeps"))
    arguments = parser.parse_args()
    folder = SweepFolder(arguments.storage, arguments.name)
    trials, untouched = read_trials(folder, folder.spec()), folder.untouched()
    if untouched is None or not any(arguments.parameter in trial.parameters for trial in trials):
        raise SystemExit(f"sweep {arguments.name} has no finished trial with a {arguments.parameter}")
    seeds = len({trial.number for trial in trials if trial.values is not None and trial.baseline is None})
    draw(trials, untouched, arguments.parameter, f"{arguments.name}: {seeds} trials, one seed each", arguments.file)


if __name__ == "__main__":
    main()

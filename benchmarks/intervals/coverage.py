"""How often the printed 95 % intervals of a sweep's picks cover the true values.

    python -m benchmarks.intervals.coverage

Runs many small sweeps over the embedded world, each with training, validation and test images of its own, drawn from a
large pool (``small_sweep``). The true value of a pick is measured on all images of the pool that its sweep has not
seen. ``--keep`` holds a line per finished sweep, so an interrupted run is continued.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.common.goals import GOALS
from benchmarks.common.machine import publish
from benchmarks.intervals.pool import PAIRS, TEST, VALIDATION, Draw
from benchmarks.intervals.small_sweep import PICKS, TRUTH_SEEDS, SmallSweep, fresh_images, spec
from trainables.tasks.known import open_context


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sweeps", type=int, default=100, help="number of sweeps; default 100")
    parser.add_argument(
        "--second-look", type=int, default=0, metavar="IMAGES", help="further validation images that the front is "
        "chosen on; default 0: no second look",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=Path, help="file with a JSON line per finished sweep; an interrupted run is continued"
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps prepared images and embeddings for the next run")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/calibration.md"))
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    unseen = options.second_look
    started_s, kept = time.process_time(), _kept(options.keep, unseen)
    with tempfile.TemporaryDirectory() as scratch:
        sweeps = _sweeps(options.sweeps, options.keep, options.cache or Path(scratch) / "cache", unseen)
    made = sum(sweep["seed"] not in kept for sweep in sweeps)
    taken = (
        f"{len(sweeps)} sweeps, {made} of them in this run ({time.process_time() - started_s:.0f} s of one processor)"
    )
    publish(f"{heading(taken, unseen)}\n\n{report(sweeps)}\n", options.output)
    return 0


def _kept(keep: Path | None, unseen: int) -> dict[int, dict[str, Any]]:
    if keep is None or not keep.exists():
        return {}
    lines = map(json.loads, keep.read_text().splitlines())
    return {line["seed"]: line for line in lines if line.get("unseen", 0) == unseen}


def _sweeps(count: int, keep: Path | None, cache: Path, unseen: int) -> list[dict[str, Any]]:
    """Return the kept sweeps, and further ones until ``count`` is reached; ``unseen``: images of their second look."""
    known, seed, pool = _kept(keep, unseen), 0, None
    while len(known) < count:
        if seed not in known:
            if pool is None:
                task = spec(0).task_settings()
                pool = open_context(task, data_seed=0, cache=cache, device=torch.device("cpu"))
            with tempfile.TemporaryDirectory() as folder:
                known[seed] = SmallSweep(Draw(pool, cache, seed, unseen), seed, Path(folder)).run()
            if keep is not None:
                with keep.open("a") as file:
                    file.write(json.dumps(known[seed]) + "\n")
            print(f"{len(known)} of {count} sweeps", file=sys.stderr)
        seed += 1
    return [known[seed] for seed in sorted(known)]


@dataclass(frozen=True)
class Check:
    """An interval and the true value."""

    value: float
    low: float
    high: float
    truth: float
    truth_error: float
    """Standard error of ``truth``, which is measured on finitely many images and seeds."""

    @property
    def covers(self) -> bool:
        """Whether the interval covers the true value.

        ``truth`` has a standard error e, so an interval that reaches r beyond the value is widened to
        sqrt(r^2 + (1.96 e)^2).
        """
        below, above = (
            math.hypot(reach, 1.96 * self.truth_error) for reach in (self.value - self.low, self.high - self.value)
        )
        return self.value - below <= self.truth <= self.value + above


def checks(sweeps: Sequence[Mapping[str, Any]], pick: str, goal: str, kind: str) -> list[Check]:
    """Return the check of an interval of ``kind`` for ``pick``, one per sweep that confirmed a member."""
    results = []
    for sweep in sweeps:
        if not sweep["lines"]:
            continue
        values = _picked(sweep["lines"], pick)["goals"][goal]
        of_weights = kind in ("validation", "test")
        seeds = values["seeds"]
        truth = values["fresh"] if of_weights else fmean(seeds)
        fresh = fresh_images(sweep.get("unseen", 0))
        variance = truth * (1 - truth) / fresh + (0.0 if of_weights else stdev(seeds) ** 2 / len(seeds))
        value, low, high = values[kind]
        results.append(Check(value, low, high, truth, variance**0.5))
    return results


def _picked(lines: Sequence[Mapping[str, Any]], pick: str) -> Mapping[str, Any]:
    if pick == "highest on test":
        return max(lines, key=lambda line: line["goals"][GOALS[1]]["confirm"][0])
    named = {line["name"]: line for line in lines}
    return named.get(pick) or named["knee"]  # an end of the front that is also the knee is called the knee


WHAT = {
    "validation": "validation, of the weights",
    "test": "test, of the weights",
    "confirm": "test and new seeds, of the recipe",
    "simultaneous": "the same, for all confirmed members",
}


def report(sweeps: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "pick",
        "goal",
        "95 % interval from",
        "covers",
        "95 % interval of that share",
        "mean width",
        "value - truth",
    ]
    rows = []
    for pick, kinds in (
        *((pick, ("validation", "test", "confirm")) for pick in PICKS),
        ("highest on test", ("confirm", "simultaneous")),
    ):
        for goal in GOALS if pick in PICKS else GOALS[1:]:
            for kind in kinds:
                results = checks(sweeps, pick, goal, kind)
                hits = sum(check.covers for check in results)
                share = binomtest(hits, len(results)).proportion_ci(method="wilson")
                width = fmean(check.high - check.low for check in results)
                error = fmean(check.value - check.truth for check in results)
                rows.append(
                    [pick, goal.removesuffix("_accuracy"), WHAT[kind], f"{hits} of {len(results)}"]
                    + [f"[{share.low:.3f}, {share.high:.3f}]", f"{width:.3f}", f"{error:+.4f}"]
                )
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([*lines, "", pooled(sweeps), "", beaten(sweeps), "", spread(sweeps)])


def beaten(sweeps: Sequence[Mapping[str, Any]]) -> str:
    """Return how often the training that a search begins with, at any strength, beats a pick in both goals."""
    texts = []
    for pick in PICKS:
        compared = [sweep for sweep in sweeps if sweep["lines"] and "first_point" in sweep]
        worse = 0
        for sweep in compared:
            truth = {goal: value["fresh"] for goal, value in _picked(sweep["lines"], pick)["goals"].items()}
            worse += any(all(first[goal] > truth[goal] for goal in GOALS) for first in sweep["first_point"])
        texts.append(f"{pick}: {worse} of {len(compared)}")
    return (
        "On fresh images one training in the middle of all ranges (cross-entropy, what a search begins with), at one "
        f"of its strengths, is better in both goals than a pick of 16 trials: {'; '.join(texts)}."
    )


def pooled(sweeps: Sequence[Mapping[str, Any]]) -> str:
    """Return the coverage over all picks and goals."""
    texts = []
    for kind in ("validation", "test", "confirm"):
        covers = [check.covers for pick in PICKS for goal in GOALS for check in checks(sweeps, pick, goal, kind)]
        texts.append(f"{WHAT[kind]}: {fmean(covers):.1%}")
    return f"Covered, over both picks and both goals (not independent of each other): {'; '.join(texts)}."


def spread(sweeps: Sequence[Mapping[str, Any]]) -> str:
    """Return the standard deviation of a value between seeds, and the one by the number of test images."""
    lines = [line for sweep in sweeps for line in sweep["lines"]]
    texts = []
    for goal in GOALS:
        seeds = fmean(stdev(line["goals"][goal]["seeds"]) for line in lines)
        share = fmean(fmean(line["goals"][goal]["seeds"]) for line in lines)
        images = (share * (1 - share) / TEST) ** 0.5
        texts.append(f"{goal.removesuffix('_accuracy')}: {seeds:.4f} between seeds, {images:.4f} by {TEST} test images")
    stay = fmean(line["stays"] for line in lines)
    members = fmean(sweep["members"] for sweep in sweeps)
    return (
        f"Standard deviations of a value, mean over confirmed members: {'; '.join(texts)}. Members of a front: "
        f"{members:.1f} on average; {stay:.0%} of {len(lines)} confirmed members stay."
    )


def heading(taken: str, unseen: int) -> str:
    settings = spec(0)
    confirm = settings.confirm
    assert confirm is not None
    versions = f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    threads = f"{torch.get_num_threads()} thread(s)"
    points = len(settings.evaluate.front.strengths) + 1
    fresh = fresh_images(unseen)
    option = f" --second-look {unseen}" if unseen else ""
    picked_on = f"these and {unseen} images of a second look" if unseen else "validation"
    return f"""# Calibration of the printed intervals

Made by `python -m benchmarks.intervals.coverage{option}`: {taken}; {platform.machine()}, {threads}; {versions}.

Each sweep: {settings.search.trials} trials of transforms over the embedded world, {points} points each, on {PAIRS}
preference pairs and {VALIDATION} validation images; picks on {picked_on}; {TEST} test images; {confirm.seeds} new
seeds for the trials of the picks. All images are the sweep's own draw. Truth for an interval of the weights: their
accuracy on the {fresh} images of the pool that the sweep has not seen. Truth for an interval of the recipe: the
same, mean over {TRUTH_SEEDS} further seeds. A truth is measured too, and its standard error is allowed for. The
validation interval is what a sweep without test images could print: that of a point that nobody picked.
"highest on test" is what a reader picks who goes by the confirmed members' robust accuracy on test."""


if __name__ == "__main__":
    sys.exit(main())

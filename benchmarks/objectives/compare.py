"""All objectives at equal budget: the same number of settings each, chosen on validation, measured on test.

A search draws settings (learning rate, lambda, the objective's own parameters) from the ranges of ``OBJECTIVES`` and
trains with each, on the generated world. Of all points (settings, weights, strengths) it takes the one with
the most robust accuracy that keeps clean accuracy, on validation; and the front of all. Searches of one seed draw the
same learning rates and lambdas for every objective, and train with the same order of batches.

    python -m benchmarks.objectives.compare --output benchmarks/results/objectives.md
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from scipy.stats import qmc

from benchmarks.common.machine import publish, torch_device
from benchmarks.search.recorder import right_answers
from sweeper.search.pareto import hypervolume, non_dominated
from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import untouched_policy
from trainables.evaluation.typographic import data_of
from trainables.numerics import flushed_denormals
from trainables.records import Point
from trainables.settings.parameters import Parameters
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.known import open_context
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

TRAIN = 1024
"""Training images."""
STRENGTHS = [0.25, 0.5, 0.75, 1.0]
MAY_LOSE, CORNER = 0.05, 0.10
"""Clean accuracy that a point may lose to be taken, and that the corner of the hypervolume lies below the untouched."""
LEVEL = 0.95
BASE = "cross_entropy"


@dataclass(frozen=True)
class Within:
    """A range of a parameter."""

    low: float
    high: float
    log: bool = True

    def at(self, position: float) -> float:
        if self.log:
            return float(self.low * (self.high / self.low) ** position)
        return float(self.low + (self.high - self.low) * position)


@dataclass(frozen=True)
class Case:
    """What is trained, how long, and in how many searches of how many settings."""

    title: str
    tune: Mapping[str, Any]
    rates: Within
    epochs: int
    seeds: int
    settings: int
    validation: int = 2000
    test: int = 4000


CASES = (
    Case("A transform, 3 epochs", {"tune": "transform"}, Within(1e-3, 1e-1), epochs=3, seeds=10, settings=16),
    Case("A transform, 12 epochs", {"tune": "transform"}, Within(1e-3, 1e-1), epochs=12, seeds=10, settings=16),
    Case(
        "The last block of the image tower, 3 epochs",
        {"tune": "last_blocks", "blocks": 1},
        Within(1e-4, 1e-2),
        epochs=3,
        seeds=5,
        settings=8,
        validation=1000,
        test=2000,
    ),
)
LAMBDA = Within(0.03, 10.0)
OBJECTIVES: dict[str, dict[str, Within]] = {
    "cross_entropy": {},
    "dpo": {"beta": Within(0.1, 2.0)},
    "ipo": {"beta": Within(0.01, 0.2)},
    "kto": {"beta": Within(0.1, 3.0)},
    "examples.objectives:conservative_dpo": {"beta": Within(0.1, 2.0), "label_smoothing": Within(0.01, 0.3)},
    "examples.objectives:slic_hinge": {"delta": Within(1.0, 30.0)},
    "examples.objectives:simpo": {"beta": Within(0.1, 2.0), "gamma": Within(0.0, 5.0, log=False)},
}


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    right: np.ndarray
    """(2, N) bool: whether the point that was taken answers each test image, clean and attacked."""
    hypervolume: float
    """Of the front that was chosen on validation, measured on test."""
    parameters: Mapping[str, Any]
    strength: float


def world_task(case: Case) -> TypographicSettings:
    images = {"train": TRAIN, "validation": case.validation, "test": case.test}
    return TypographicSettings.model_validate(
        {
            "sets": {"world": {"kind": "world", **images}},
            "train": {"set": "world", "classes": 0.5},
            "attack": {"recipe": "sign"},
            "evaluate": {
                "search": {"sets": ["world"]},
                "front": {"strengths": STRENGTHS},
                "test": {"sets": ["world"], "variants": False},
            },
            "training": {"epochs": case.epochs, "global_batch_size": 128, "warmup_share": 0.1},
        }
    )


def settings(objective: str, case: Case, seed: int) -> list[dict[str, Any]]:
    """Return the settings that a search tries: scrambled Sobol points, the same learning rates for every objective."""
    ranges = {"learning_rate": case.rates, "lambda_reg": LAMBDA, **OBJECTIVES[objective]}
    points = qmc.Sobol(4, seed=seed).random(case.settings)
    drawn = [{name: within.at(x) for (name, within), x in zip(ranges.items(), point, strict=False)} for point in points]
    return [{"objective": objective, **case.tune, **one} for one in drawn]


class Searches:
    """Searches of one case, in one process."""

    def __init__(self, context: TrialContext, case: Case) -> None:
        self._context, self._case = context, case
        self._test = data_of(context).test_sets[0]
        policy = untouched_policy(context)
        self.untouched_right = right_answers(context, policy, self._test)
        values = context.measures.validation(context, policy, WorkerGroup(device=context.device)).values
        self.untouched = (values["clean_accuracy"], values["robust_accuracy"])

    def search(self, objective: str, seed: int) -> Found:
        """Search with one objective."""
        with tempfile.TemporaryDirectory() as scratch:
            trained: list[tuple[dict[str, Any], TrialFolder, Point]] = []
            for number, one in enumerate(settings(objective, self._case, seed)):
                folder = TrialFolder(Path(scratch) / str(number))
                result = run_trial(self._context, Parameters.model_validate(one), seed=seed, folder=folder)
                trained += [(one, folder, point) for point in result.points]
            return self._chosen(trained)

    def _chosen(self, trained: list[tuple[dict[str, Any], TrialFolder, Point]]) -> Found:
        values = [(point.values["clean_accuracy"], point.values["robust_accuracy"]) for _, _, point in trained]
        flags = non_dominated([self.untouched, *values])[1:]
        front = [i for i, flag in enumerate(flags) if flag and values[i][0] >= self.untouched[0] - CORNER]
        kept = [i for i, (clean, _) in enumerate(values) if clean >= self.untouched[0] - MAY_LOSE]
        taken = max(kept, key=lambda i: values[i][1], default=None)
        tested = {i: self._tested(*trained[i]) for i in {*front, *([] if taken is None else [taken])}}
        corner = self.untouched_right.mean(1) - np.array([CORNER, 0.0])
        volume = hypervolume([tuple(tested[i].mean(1)) for i in front], tuple(corner))
        if taken is None:
            return Found(self.untouched_right, volume, {}, 0.0)
        return Found(tested[taken], volume, trained[taken][0], trained[taken][2].strength)

    def _tested(self, parameters: Mapping[str, Any], folder: TrialFolder, point: Point) -> np.ndarray:
        policy = self._context.policy(Parameters.model_validate(parameters))
        try:
            policy.set_weights(folder.weights(point.weights), point.strength)
            with flushed_denormals():
                return right_answers(self._context, policy, self._test)
        finally:
            self._context.release(policy)


def difference(first: np.ndarray, second: np.ndarray, level: float) -> tuple[float, float]:
    """Return the mean difference and half of its interval, over fresh seeds and fresh images.

    Seeds and images vary independently, as in ``sweeper.front.intervals``: the variance is that of the seeds' means and
    that of the images' own differences, each with its own t quantile.

    Args:
        first, second: whether each image is answered right with each seed, (k, N); seeds and images are paired.
    """
    apart = first.astype(float) - second.astype(float)
    seeds, images = apart.shape
    of_seeds = apart.mean(1).var(ddof=1) / seeds
    by_image = apart.mean(0)
    rest = apart - by_image - apart.mean(1, keepdims=True) + apart.mean()
    of_rest = (rest**2).sum() / ((seeds - 1) * (images - 1))
    of_images = max(0.0, by_image.var(ddof=1) - of_rest / seeds) / images
    quantiles = [stdtrit(degrees, (1 + level) / 2) for degrees in (seeds - 1, images - 1)]
    return float(apart.mean()), float(np.sqrt(quantiles[0] ** 2 * of_seeds + quantiles[1] ** 2 * of_images))


def difference_of_values(first: np.ndarray, second: np.ndarray, level: float) -> tuple[float, float]:
    """Return the mean difference of values (k,) and half of its t interval over seeds."""
    apart = first - second
    half = stdtrit(len(apart) - 1, (1 + level) / 2) * apart.std(ddof=1) / np.sqrt(len(apart))
    return float(apart.mean()), float(half)


def section(found: Mapping[str, list[Found]], case: Case, untouched: np.ndarray, seconds: float) -> list[str]:
    """Return the results of a case in lines of Markdown.

    Args:
        untouched: (2, N), whether the untouched model answers each test image, clean and attacked.
    """
    clean, robust = untouched.mean(1)
    right = {name: np.stack([one.right for one in results]) for name, results in found.items()}
    volumes = {name: np.array([one.hypervolume for one in results]) for name, results in found.items()}
    several = 1 - (1 - LEVEL) / (len(found) - 1)
    measures: dict[str, Callable[[str, str, float], tuple[float, float]]] = {
        "robust": lambda a, b, level: difference(right[a][:, 1], right[b][:, 1], level),
        "clean": lambda a, b, level: difference(right[a][:, 0], right[b][:, 0], level),
        "hypervolume": lambda a, b, level: difference_of_values(volumes[a], volumes[b], level),
    }
    trainings = case.seeds * case.settings * len(found)
    lines = [
        f"## {case.title}",
        "",
        f"{case.seeds} searches of {case.settings} settings for each objective, learning rates {case.rates.low:g} to "
        f"{case.rates.high:g}: {trainings} trainings in {seconds / 60:.1f} min of processor time. {case.validation} "
        f"validation and {case.test} test images. Untouched model on test: clean {clean:.4f}, robust {robust:.4f}.",
        "",
        "| objective | robust | clean | hypervolume |",
        "| --- | --- | --- | --- |",
    ]
    for name in found:
        by_seed = right[name].mean(2)
        cells = [f"{of.mean():.4f} +- {of.std(ddof=1):.4f}" for of in (by_seed[:, 1], by_seed[:, 0], volumes[name])]
        lines.append(f"| {_short(name)} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Minus {BASE}, paired over searches and test images (hypervolume: over searches); the {len(found) - 1} "
        f"intervals of a column hold together with {LEVEL:.0%} (Bonferroni). In bold where they leave out 0.",
        "",
        f"| objective | {' | '.join(measures)} |",
        "| --- |" + " --- |" * len(measures),
    ]
    for name in found:
        if name != BASE:
            cells = [_cell(*measure(name, BASE, several)) for measure in measures.values()]
            lines.append(f"| {_short(name)} | {' | '.join(cells)} |")
    pairs = list(combinations(found, 2))
    lines += [
        "",
        f"All {len(pairs)} pairs, by intervals that hold together with {LEVEL:.0%} for each measure:",
        "",
    ]
    for measure_name, measure in measures.items():
        apart = []
        for first, second in pairs:
            mean, half = measure(first, second, 1 - (1 - LEVEL) / len(pairs))
            if abs(mean) > half:
                better, worse = (first, second) if mean > 0 else (second, first)
                apart.append(f"{_short(better)} over {_short(worse)} by {abs(mean):.4f} +- {half:.4f}")
        lines.append(f"- {measure_name}: {'; '.join(apart) if apart else 'no pair differs'}")
    lines += ["", "Settings that were taken (median over searches, lowest to highest):", ""]
    lines += [f"- {_short(name)}: {_taken(results)}" for name, results in found.items()]
    return [*lines, ""]


def heading() -> list[str]:
    """Return the first lines of the page."""
    return [
        "# Objectives at equal budget",
        "",
        f"{torch_device('cpu')}.",
        f"Generated world: {TRAIN} training images of ten classes; goals over all twenty.",
        "",
        f"Taken: the point with the most robust accuracy that loses at most {MAY_LOSE} clean accuracy, on validation. "
        f"Hypervolume: of the front chosen on validation, above clean - {CORNER} and the untouched robust accuracy. "
        "All values are on test, means over searches; behind +- is their standard deviation over searches.",
        "",
    ]


def _short(name: str) -> str:
    return name.rpartition(":")[2]


def _cell(mean: float, half: float) -> str:
    text = f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"
    return f"**{text}**" if abs(mean) > half else text


def _taken(results: list[Found]) -> str:
    columns: dict[str, list[float]] = {"strength": [one.strength for one in results]}
    for one in results:
        for name, value in one.parameters.items():
            if isinstance(value, float):
                columns.setdefault(name, []).append(value)
    return ", ".join(
        f"{name} {np.median(values):.2g} ({min(values):.2g} to {max(values):.2g})" for name, values in columns.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="All objectives at equal budget.")
    parser.add_argument("--case", type=int, action="append", choices=range(len(CASES)), help="only this case")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as cache:
        for case in [CASES[number] for number in options.case or range(len(CASES))]:
            started_s = time.process_time()
            task = world_task(case)
            searches = Searches(open_context(task, data_seed=0, cache=Path(cache), device=torch.device("cpu")), case)
            found: dict[str, list[Found]] = {name: [] for name in OBJECTIVES}
            for seed in range(case.seeds):
                for name in OBJECTIVES:
                    found[name].append(searches.search(name, seed))
                    told = {"seed": seed, "objective": name, "robust": float(found[name][-1].right[1].mean())}
                    print(json.dumps(told), flush=True)
            lines += section(found, case, searches.untouched_right, time.process_time() - started_s)
    publish("\n".join([*heading(), *lines]).rstrip() + "\n", options.output)


if __name__ == "__main__":
    main()

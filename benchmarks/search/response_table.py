"""Trains every point of a discrete search space on the embedded world and records what each trial reported.

    python -m benchmarks.search.response_table

Simulated searches read their trials from the table (``benchmarks.search.table.load_table``). Trials that the file given
by --output already has are not trained again, so an interrupted run is continued.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch

from benchmarks.common.goals import TYPOGRAPHIC
from benchmarks.search.table import Measured, Part, RecordedTrial, Table, Value, load_table, save_table
from sweeper.search.pareto import hypervolume, non_dominated
from trainables.context.trial_context import TrialContext
from trainables.data.typographic import EvaluationSet
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import means, untouched_policy
from trainables.evaluation.typographic import goal_scores
from trainables.models.policy import Policy
from trainables.records import Report, goal_values
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.known import open_context
from trainables.training.hooks import Hooks
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

EPOCHS, BATCH = 3, 64
RUNGS = {"transform": [i / 9 for i in range(1, 9)], "visual": [1 / 9, 1 / 3], "authors": [1 / 9, 1 / 3]}
STRENGTHS = [0.5, 1.0]
VISUAL_LEARNING_RATE = 4e-4
"""Of the authors' grids. Their own, 2e-5, changes nothing in a CLIP of 1.6 million parameters within 24 steps."""
LAMBDAS = (0.03, 10.0)
LEARNING_RATES = {"transform": (1e-3, 2e-1), "visual": (1e-4, 2e-3)}
BETAS = {"dpo": (0.1, 2.0), "kto": (0.1, 3.0), "ipo": (0.01, 0.2)}
AUTHORS_BETA = {"dpo": 1.0, "kto": 1.5, "ipo": 0.01}
AUTHORS_BETAS = (0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5)
AUTHORS_LAMBDAS = (0.01, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
AUTHORS_COPIES = (1, 3, 5, 10)
AUTHORS_IMAGES = (10, 51, 102, 205, 512)
"""2, 10, 20, 40 and 100 % of the images, the shares that the authors' 1000 to 50 000 images are of their set."""
SAVED_EVERY_S = 30.0


def logarithmic(low: float, high: float, count: int) -> list[float]:
    """Return ``count`` values from low to high in equal factors, rounded to three significant digits."""
    return [float(f"{low * (high / low) ** (i / (count - 1)):.3g}") for i in range(count)]


def transforms() -> Iterator[dict[str, Value]]:
    """4 objectives x 6 betas x 6 lambdas x 6 learning rates x 3 ranks."""
    for objective in ("dpo", "ipo", "kto", "cross_entropy"):
        betas = logarithmic(*BETAS[objective], 6) if objective in BETAS else [None]
        grid = itertools.product(
            betas, logarithmic(*LAMBDAS, 6), logarithmic(*LEARNING_RATES["transform"], 6), (16, 32, 64)
        )
        for beta, lambda_reg, learning_rate, rank in grid:
            yield _point(objective, "transform", beta, lambda_reg, learning_rate, rank=rank)


def visuals() -> Iterator[dict[str, Value]]:
    """4 objectives x 2 betas (at a third and two thirds of the range) x 3 lambdas x 4 learning rates."""
    for objective in ("dpo", "ipo", "kto", "cross_entropy"):
        betas = logarithmic(*BETAS[objective], 4)[1:3] if objective in BETAS else [None]
        for beta, lambda_reg, learning_rate in itertools.product(
            betas, logarithmic(*LAMBDAS, 3), logarithmic(*LEARNING_RATES["visual"], 4)
        ):
            yield _point(objective, "visual", beta, lambda_reg, learning_rate)


def authors() -> Iterator[dict[str, Value]]:
    """The grids of the authors' scripts, one parameter at a time around their defaults; each combination once."""
    seen = []
    for objective, default in AUTHORS_BETA.items():
        choices: list[dict[str, Any]] = [{"beta": beta} for beta in AUTHORS_BETAS]
        choices += [{"lambda_reg": value} for value in AUTHORS_LAMBDAS]
        choices += [{"copies": value} for value in AUTHORS_COPIES]
        choices += [{"images": value} for value in AUTHORS_IMAGES]
        for choice in choices:
            lambda_reg = 0.01 if objective == "kto" else 1.0
            point = _point(objective, "visual", default, lambda_reg, VISUAL_LEARNING_RATE)
            point |= {"copies": 1, "images": AUTHORS_IMAGES[-1], **choice}
            if point not in seen:
                seen.append(point)
                yield point


def _point(
    objective: str, tune: str, beta: float | None, lambda_reg: float, learning_rate: float, **more: Value
) -> dict[str, Value]:
    point: dict[str, Value] = {"objective": objective, "tune": tune}
    point |= {} if beta is None else {"beta": beta}
    return point | {"lambda_reg": lambda_reg, "learning_rate": learning_rate, **more}


PARTS: dict[Part, Callable[[], Iterator[dict[str, Value]]]] = {
    "transform": transforms,
    "authors": authors,
    "visual": visuals,
}
FIRST: dict[Part, int] = {"transform": 1, "visual": 10_001, "authors": 20_001}
"""Number of a part's first trial. The number of a trial is also its seed."""


def world_task(*, copies: int = 1) -> TaskSettings:
    """Return the task of the quickstart's world: 512 preference pairs of ten classes, goals over all twenty."""
    return TypographicSettings.model_validate(
        {
            "sets": {"world": {"kind": "world", "train": 1024, "validation": 700, "test": 1000}},
            "train": {"set": "world", "classes": 0.5, "copies": copies},
            "attack": {"recipe": "sign"},
            "evaluate": {
                "search": {"sets": ["world"]},
                "front": {"strengths": STRENGTHS},
                "test": {"sets": ["world"]},
            },
            "training": {"epochs": EPOCHS, "global_batch_size": BATCH, "warmup_share": 0.1, "precision": "bf16"},
        }
    )


def image_count(sets: Sequence[EvaluationSet]) -> int:
    """Return the number of clean and attacked images of some sets."""
    return sum(len(view.labels) for images in sets for view in images.views())


class Recorder:
    """Trains trials in one context and records what they report."""

    def __init__(self, context: TrialContext) -> None:
        self.context = context
        self._group = WorkerGroup(device=context.device)
        self._validation_images = image_count(context.data.search_sets)

    def untouched(self) -> Measured:
        policy = untouched_policy(self.context)
        values = means(goal_scores(self.context, policy, self.context.data.search_sets, self._group))
        clean, robust = self._test(policy)
        return Measured("last", 1.0, 0.0, 0, 0.0, 0, 0.0, 0, 0.0, *goal_values(values, TYPOGRAPHIC), clean, robust)

    def train(self, number: int, part: Part, point: dict[str, Value]) -> RecordedTrial:
        parameters = Parameters.model_validate(point)
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
            folder = TrialFolder(Path(name))
            reports: list[tuple[Report, dict[str, torch.Tensor]]] = []
            """With the weights, where test is measured before the end of a trial."""

            def on_report(report: Report) -> None:
                state = folder.load_checkpoint() if part == "transform" else None
                reports.append((report, {} if state is None else state["policy"]))

            hooks = Hooks(report=on_report)
            result = run_trial(
                self.context, parameters, seed=number, folder=folder, group=self._group, hooks=hooks, rungs=RUNGS[part]
            )
            policy = self.context.policy(parameters)
            try:
                course = []
                for count, (report, weights) in enumerate(reports, 1):
                    if report.step == report.steps:
                        weights = folder.weights("last")
                    if weights:
                        policy.set_weights(weights)
                    course.append(self._measured(point, report, count, self._test(policy) if weights else None))
                points = [course[-1]]
                last = replace(reports[-1][0], evaluation_s=result.evaluation_s)
                for count, variant in enumerate(result.points[1:], len(reports) + 1):
                    policy.set_weights(folder.weights(variant.weights), variant.strength)
                    measured = self._measured(point, replace(last, values=variant.values), count, self._test(policy))
                    points.append(replace(measured, weights=variant.weights, strength=variant.strength))
            finally:
                policy.restore()
        return RecordedTrial(number, part, point, tuple(course), tuple(points))

    def _measured(
        self,
        point: dict[str, Value],
        report: Report,
        count: int,
        test: tuple[float, float] | None,
    ) -> Measured:
        """Return a row of the table for the last weights at strength 1 after ``count`` evaluations."""
        pairs = int(point.get("images", len(self.context.data.pairs.clean.labels))) * int(point.get("copies", 1))
        return Measured(
            weights="last",
            strength=1.0,
            progress=round(report.progress, 6),
            step=report.step,
            epoch=report.epoch,
            image_steps=round(2 * pairs * report.epoch),
            train_s=round(report.train_s, 3),
            evaluation_images=count * self._validation_images,
            evaluation_s=round(report.evaluation_s, 3),
            clean_validation=round(report.values["clean_accuracy"], 4),
            robust_validation=round(report.values["robust_accuracy"], 4),
            clean_test=None if test is None else test[0],
            robust_test=None if test is None else test[1],
        )

    def _test(self, policy: Policy) -> tuple[float, float]:
        """Return (clean accuracy, robust accuracy) on test."""
        clean, robust = goal_values(
            means(goal_scores(self.context, policy, self.context.data.test_sets, self._group)), TYPOGRAPHIC
        )
        return round(clean, 4), round(robust, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/response_table.csv.gz"))
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps prepared images for the next run")
    parser.add_argument("--trials", type=int, default=None, help="limit for this run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    with tempfile.TemporaryDirectory() as folder:
        record(options.parts, options.output, options.cache or Path(folder), options.trials)


def record(parts: list[Part], output: Path, cache: Path, most: int | None) -> None:
    recorders: dict[int, Recorder] = {}

    def recorder(point: dict[str, Value]) -> Recorder:
        """Return a recorder with one copy per image, unless the trial needs more: first copies are the same in both."""
        copies = 1 if point.get("copies", 1) == 1 else max(AUTHORS_COPIES)
        if copies not in recorders:
            task = world_task(copies=copies)
            recorders[copies] = Recorder(open_context(task, data_seed=0, cache=cache, device=torch.device("cpu")))
        return recorders[copies]

    if output.exists():
        table = load_table(output)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        table = Table(recorder({}).untouched(), ())
    trials = {trial.number: trial for trial in table.trials}
    todo = [(part, n, point) for part in parts for n, point in enumerate(PARTS[part](), FIRST[part]) if n not in trials]
    started_s = saved_s = time.monotonic()
    for done, (part, number, point) in enumerate(todo[:most], 1):
        trials[number] = recorder(point).train(number, part, point)
        if time.monotonic() - saved_s > SAVED_EVERY_S or done == len(todo[:most]):
            saved_s = time.monotonic()
            save_table(output, Table(table.untouched, tuple(trials[key] for key in sorted(trials))))
            per_s = (saved_s - started_s) / done
            print(f"{done}/{len(todo)} trials, {per_s:.2f} s each, now {part}", file=sys.stderr)
    table = load_table(output)
    if all(table.part(part) for part in PARTS):
        output.with_name(output.name.removesuffix(".csv.gz") + ".md").write_text(description(table))


def description(table: Table) -> str:
    """Return the Markdown text that describes the table's trials."""
    where = f"Python {platform.python_version()}, torch {torch.__version__}, open_clip {open_clip.__version__}"
    text = [
        "# Response table of the embedded world",
        f"`{' '.join(['python -m benchmarks.search.response_table', *sys.argv[1:]])}`",
        f"`response_table.csv.gz`: {len(table.trials)} trials, each trained for real once, and what each reported; "
        "`benchmarks.search.table.load_table` reads it. The world is the quickstart's (512 preference pairs of ten "
        "classes, 700 validation and 1000 test images, each clean and attacked, goals over twenty classes). "
        f"{EPOCHS} epochs of {512 // BATCH} steps of {BATCH} pairs, Adamax with 10 % warm-up and cosine, bf16. "
        "Validation after steps 3 and 8 of 24 (progress 1/9 and 1/3, each rung at the first whole step) and at the end "
        "of every epoch; of transforms at every ninth, and there on test too. At the end also strength 0.5 and the "
        "averaged weights. A trial's number is the seed of its order of batches; data seed 0.",
        f"Untouched: clean {table.untouched.clean_validation:.3f}, robust {table.untouched.robust_validation:.3f} on "
        f"validation; {table.untouched.clean_test:.3f}, {table.untouched.robust_test:.3f} on test. Hypervolume over "
        "(untouched clean - 0.1, untouched robust), front chosen on validation.",
        "| part | trials | grid | image steps | looks on validation (images) | hypervolume validation / test "
        "| front (points) | most robust on the front: clean / robust, test |\n"
        + "| --- " * 8
        + "|\n"
        + "\n".join(_summary(table, part) for part in PARTS),
        "Costs are counted in images and do not depend on the machine. In seconds (it was shared with other work): "
        + "; ".join(_seconds(table, part) for part in PARTS)
        + ". So an image that is trained on costs about as much as three that are looked at where the image tower is "
        "tuned; a transform sees embeddings, and its small steps are overhead.",
        f"The authors' grids: beta {AUTHORS_BETAS}, lambda {AUTHORS_LAMBDAS}, copies {AUTHORS_COPIES} and images "
        f"{AUTHORS_IMAGES} (2 to 100 % of them, as 1000 to 50 000 are of theirs), one at a time around their "
        f"defaults, the image tower tuned; learning rate {VISUAL_LEARNING_RATE:g}: their 2e-5 changes next to nothing "
        "in a CLIP of 1.6 million parameters within 24 steps. An objective's defaults are in all four lists and were "
        "trained once.",
        f"{where}; {platform.machine()}, one thread. The same command gives the same accuracies on the same machine "
        "and versions (bf16 kernels differ between processors); seconds vary.",
    ]
    return "\n\n".join(text) + "\n"


def _summary(table: Table, part: Part) -> str:
    trials, untouched = table.part(part), table.untouched
    floor = untouched.clean_validation - 0.1
    points = [point for trial in trials for point in trial.points if point.clean_validation >= floor]
    kept = non_dominated([point.validation for point in points])
    front = [point for point, keep in zip(points, kept, strict=True) if keep]
    areas = [
        hypervolume([point.validation for point in front], (floor, untouched.robust_validation)),
        hypervolume([point.test for point in front], (untouched.test[0] - 0.1, untouched.test[1])),
    ]
    best = max(front, key=lambda point: point.robust_validation)
    image_steps = sum(trial.points[-1].image_steps for trial in trials)
    evaluated = sum(trial.points[-1].evaluation_images for trial in trials)
    grid = (PARTS[part].__doc__ or "").rstrip(".")
    return (
        f"| {part} | {len(trials)} | {grid} | {image_steps:,} | {evaluated:,} | {areas[0]:.4f} / {areas[1]:.4f} "
        f"| {len(front)} | {best.test[0]:.3f} / {best.test[1]:.3f} |"
    )


def _seconds(table: Table, part: Part) -> str:
    ends = [trial.points[-1] for trial in table.part(part)]
    step_s = statistics.median(end.train_s / end.image_steps for end in ends)
    evaluation_s = statistics.median(end.evaluation_s / end.evaluation_images for end in ends)
    return f"{part} {step_s * 1e6:.0f} us per image step, {evaluation_s * 1e6:.0f} us per image looked at (medians)"


if __name__ == "__main__":
    main()

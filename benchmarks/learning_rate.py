"""How the good learning rate depends on the number of steps and on what is tuned.

    python -m benchmarks.learning_rate --seconds 2700

Trains cross-entropy on the embedded world at learning rates in factors of about 3, outwards from a first one, until the
best has worse ones on both sides. Finished trainings are read from --record and not trained again, so that a run that
--seconds ended is continued by the same command. Writes tables to --output.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.goals import TYPOGRAPHIC
from benchmarks.common.machine import environment, publish
from sweeper.search.learning_rate import ModelSize, usual_rate
from sweeper.search.pareto import hypervolume
from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import means, untouched_policy
from trainables.evaluation.typographic import goal_scores
from trainables.records import goal_values
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.known import open_context
from trainables.training.hooks import NonFiniteLoss
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

PAIRS, VALIDATION = 2048, 1000
FLOOR = 0.10
"""Clean accuracy that a point may lose against the untouched model and still count."""
PLATEAU = 0.9
"""Share of the best hypervolume down to which a learning rate counts as good."""
WORLD_SIZE = ModelSize(embed_dim=64, image_parameters=1_327_832)


@dataclass(frozen=True)
class Scope:
    name: str
    parameters: dict[str, Any]
    first: int
    """Where the walk of the fewest steps begins, in half decades: -6 is a learning rate of 1e-3."""


@dataclass(frozen=True)
class Course:
    """How the images are gone through."""

    steps: int
    epochs: int
    batch: int
    images: int = PAIRS


@dataclass(frozen=True)
class Case:
    """One walk over learning rates."""

    scope: Scope
    course: Course
    seeds: int = 1
    share: float = PLATEAU
    """The walk ends when a rate on each side of the best has less than this share of its hypervolume."""


TRANSFORM = Scope("transform", {"tune": "transform"}, -3)
RANK_16 = Scope("transform, rank 16", {"tune": "transform", "rank": 16}, -3)
LAST_BLOCK = Scope("last_blocks", {"tune": "last_blocks", "blocks": 1}, -6)
VISUAL = Scope("visual", {"tune": "visual"}, -6)

TEN, THIRTY, HUNDRED = Course(10, 1, 205), Course(30, 1, 69), Course(100, 4, 82)
HUNDREDS, THOUSAND, THOUSANDS = Course(300, 12, 82), Course(1000, 40, 82), Course(3000, 120, 82)
FEW_IMAGES = Course(10, 1, 82, 820)
LARGE_BATCH = Course(100, 10, 205)

CASES = (
    *(Case(scope, course, 2) for scope in (TRANSFORM, LAST_BLOCK, VISUAL) for course in (TEN, THIRTY)),
    *(Case(TRANSFORM, course, 2) for course in (HUNDRED, HUNDREDS, THOUSAND)),
    Case(LAST_BLOCK, HUNDRED, 2),
    Case(VISUAL, HUNDRED),
    Case(LAST_BLOCK, HUNDREDS),
    *(Case(RANK_16, course, 2) for course in (TEN, HUNDRED)),
    *(Case(scope, FEW_IMAGES, 2) for scope in (TRANSFORM, VISUAL)),
    Case(TRANSFORM, LARGE_BATCH, 2),
    Case(VISUAL, HUNDREDS, share=1.0),
    Case(TRANSFORM, THOUSANDS),
    Case(LAST_BLOCK, THOUSAND, share=1.0),
    Case(VISUAL, THOUSAND, share=1.0),
    Case(LAST_BLOCK, THOUSANDS, share=1.0),
)
"""In the order in which they are trained. Two seeds where a training takes less than about 10 s."""


@dataclass(frozen=True)
class Training:
    """A finished training, a line of the record."""

    scope: str
    course: Course
    half_decades: int
    """2 log10 of the learning rate."""
    seed: int
    tuned_parameters: int
    hypervolume: float
    """Of its points, over (untouched clean - ``FLOOR``, untouched robust)."""
    seconds: float
    """Training and evaluation."""
    points: list[tuple[float, float, float]] = field(default_factory=list)
    """Strength, clean and robust accuracy; none where the loss was not finite."""

    @property
    def key(self) -> tuple[str, Course, int, int]:
        return self.scope, self.course, self.half_decades, self.seed


def learning_rate(half_decades: int) -> float:
    return float(f"{10 ** (half_decades / 2):.3g}")


def next_half_decades(volumes: dict[int, float], first: int, share: float) -> int | None:
    """Return the learning rate to train next, one further out than those that were, or None where the best is inside.

    ``volumes``: half decades -> hypervolume. ``share``: see ``Case``.
    """
    if first not in volumes:
        return first
    best = max(volumes, key=lambda rate: volumes[rate])
    bound = share * volumes[best]
    outwards = {-1: min(volumes) - 1, 1: max(volumes) + 1}
    for side in sorted(outwards, key=lambda side: abs(outwards[side] - best)):
        if not any((rate - best) * side > 0 and volumes[rate] < bound for rate in volumes):
            return outwards[side]
    return None


class Bench:
    """Everything but the course of training is kept between trainings."""

    def __init__(self, cache: Path) -> None:
        self._context: TrialContext = open_context(
            self._task(TEN), data_seed=0, cache=cache, device=torch.device("cpu")
        )
        self._group = WorkerGroup(device=self._context.device)
        scores = goal_scores(
            self._context, untouched_policy(self._context), self._context.data.search_sets, self._group
        )
        self.untouched = goal_values(means(scores), TYPOGRAPHIC)
        """Clean and robust accuracy on validation."""

    def train(self, scope: Scope, course: Course, half_decades: int, seed: int) -> Training:
        started_s = time.monotonic()
        parameters = Parameters(
            objective="cross_entropy",
            lambda_reg=0.3,
            learning_rate=learning_rate(half_decades),
            images=None if course.images == PAIRS else course.images,
            **scope.parameters,
        )
        self._context.task = self._task(course)  # of which a trial reads the training only
        tuned = sum(value.numel() for value in self._context.policy(parameters).tuned().values())
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = run_trial(
                    self._context, parameters, seed=seed, folder=TrialFolder(Path(folder)), group=self._group
                )
                points = [(point.strength, *goal_values(point.values, TYPOGRAPHIC)) for point in result.points]
            except NonFiniteLoss:
                points = []
        volume = hypervolume(
            [(clean, robust) for _, clean, robust in points], (self.untouched[0] - FLOOR, self.untouched[1])
        )
        seconds = round(time.monotonic() - started_s, 2)
        return Training(scope.name, course, half_decades, seed, tuned, round(volume, 6), seconds, points)

    def _task(self, course: Course) -> TaskSettings:
        return TypographicSettings.model_validate(
            {
                "sets": {"world": {"kind": "world", "train": 2 * PAIRS, "validation": VALIDATION, "test": 100}},
                "train": {"set": "world", "classes": 0.5},
                "attack": {"recipe": "sign"},
                "evaluate": {
                    "search": {"sets": ["world"]},
                    "front": {"averaged": False},
                    "test": {"sets": ["world"]},
                },
                "training": {
                    "epochs": course.epochs,
                    "global_batch_size": course.batch,
                    "warmup_share": 0.1,
                    "precision": "bf16",
                },
            }
        )


def load(record: Path) -> list[Training]:
    """Return the trainings of a record; none where it does not exist."""
    trainings = []
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
        values = json.loads(line)
        points = [tuple(point) for point in values.pop("points")]
        trainings.append(Training(course=Course(**values.pop("course")), points=points, **values))
    return trainings


def volumes_of(trainings: Sequence[Training], case: Case) -> dict[int, float]:
    """Return half decades -> mean hypervolume of the learning rates whose seeds are all trained."""
    by_rate: dict[int, list[float]] = {}
    for training in trainings:
        if (training.scope, training.course) == (case.scope.name, case.course):
            by_rate.setdefault(training.half_decades, []).append(training.hypervolume)
    return {rate: statistics.mean(values) for rate, values in by_rate.items() if len(values) >= case.seeds}


def first_rate(trainings: Sequence[Training], case: Case) -> int:
    """Return where a walk begins: at the best rate of the scope's nearest smaller number of steps."""
    smaller = [
        (other.course.steps, other)
        for other in CASES
        if other.scope == case.scope and other.course.steps < case.course.steps and volumes_of(trainings, other)
    ]
    if not smaller:
        return case.scope.first
    volumes = volumes_of(trainings, max(smaller, key=lambda pair: pair[0])[1])
    return max(volumes, key=lambda rate: volumes[rate])


def remaining(trainings: list[Training]) -> Iterator[tuple[Case, int, int]]:
    """Yield case, half decades and seed of what is to be trained next; ``trainings`` grows meanwhile."""
    for case in CASES:
        first = first_rate(trainings, case)
        while (rate := next_half_decades(volumes_of(trainings, case), first, case.share)) is not None:
            done = {training.key for training in trainings}
            for seed in range(case.seeds):
                if (case.scope.name, case.course, rate, seed) not in done:
                    yield case, rate, seed


def train(record: Path, cache: Path, seconds: float) -> list[Training]:
    """Return the trainings of the record and those that fit into ``seconds``; they are appended to the record."""
    trainings, bench = load(record), Bench(cache)
    end_s = time.monotonic() + seconds
    for case, rate, seed in remaining(trainings):
        if time.monotonic() > end_s:
            break
        training = bench.train(case.scope, case.course, rate, seed)
        trainings.append(training)
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(training)) + "\n")
        print(
            f"{case.scope.name}, {case.course}, {learning_rate(rate):g}, seed {seed}: "
            f"{1e4 * training.hypervolume:.0f} {training.points[:1]}, {training.seconds:.1f} s",
            file=sys.stderr,
        )
    return trainings


@dataclass(frozen=True)
class Walk:
    """What a walk over learning rates found."""

    volumes: dict[int, float]
    """Half decades -> mean hypervolume."""

    @property
    def best(self) -> int:
        return max(self.volumes, key=lambda rate: self.volumes[rate])

    def at(self, rate: float) -> float:
        """Return the hypervolume at a learning rate, interpolated in its logarithm; outside, that of the nearest."""
        place = 2 * math.log10(rate)
        low, high = min(self.volumes), max(self.volumes)
        if not low < place < high:
            return self.volumes[low if place <= low else high]
        left = math.floor(place)
        right_share = place - left
        return self.volumes[left] * (1 - right_share) + self.volumes[min(left + 1, high)] * right_share

    def plateau(self) -> tuple[float | None, float | None]:
        """Return the learning rates between which ``PLATEAU`` of the best is reached; None where no walk got there."""
        bound = PLATEAU * self.volumes[self.best]
        return self._edge(-1, bound), self._edge(1, bound)

    def _edge(self, side: int, bound: float) -> float | None:
        rate = self.best
        while rate + side in self.volumes:
            inside, outside = self.volumes[rate], self.volumes[rate + side]
            if outside < bound:
                return float(10 ** ((rate + side * (inside - bound) / (inside - outside)) / 2))
            rate += side
        return None


def walks(trainings: Sequence[Training]) -> Iterator[tuple[Case, list[Training], Walk]]:
    """Yield the cases that were walked to their end."""
    for case in CASES:
        volumes = volumes_of(trainings, case)
        if volumes and next_half_decades(volumes, first_rate(trainings, case), case.share) is None:
            own = [item for item in trainings if (item.scope, item.course) == (case.scope.name, case.course)]
            yield case, own, Walk(volumes)


def summary(trainings: Sequence[Training]) -> str:
    """Return a table with a row for each case."""
    head = [
        "tuned (parameters)",
        "steps",
        "batch x epochs",
        "best rate",
        f"rates within {PLATEAU:.0%} of its hypervolume",
        "factor",
        "hypervolume",
        "clean / robust",
        "rule",
        "rule / best",
        "at the rule",
        "best of rule, x 3, / 3",
        "steps of 3 to the best",
        "of 5",
    ]
    rows = []
    for case, own, walk in walks(trainings):
        low, high = walk.plateau()
        best, top = learning_rate(walk.best), walk.volumes[walk.best]
        rule = usual_rate(case.scope.parameters["tune"], case.course.steps, WORLD_SIZE)
        bracket = max(walk.at(rule * factor) for factor in (1 / 3, 1, 3))
        images = "" if case.course.images == PAIRS else f" of {case.course.images} pairs"
        rows.append(
            [
                f"{case.scope.name} ({own[0].tuned_parameters:,})",
                f"{case.course.steps}",
                f"{case.course.batch} x {case.course.epochs}{images}",
                f"{best:.2g}",
                f"{_edge(low, '<')} to {_edge(high, '>')}",
                "" if low is None or high is None else f"{high / low:.0f}",
                f"{1e4 * top:.0f}",
                _accuracies(own, walk.best),
                f"{rule:.2g}",
                f"{rule / best:.2f}",
                f"{walk.at(rule) / top:.2f}",
                f"{bracket / top:.2f}",
                *(f"{math.ceil(abs(math.log(rule / best, factor)) - 0.1)}" for factor in (3, 5)),
            ]
        )
    return _table(head, rows)


def _edge(rate: float | None, unknown: str) -> str:
    return f"{unknown} measured" if rate is None else f"{rate:.2g}"


def courses(trainings: Sequence[Training]) -> Iterator[str]:
    """Yield a table for each scope: rows are learning rates, columns are courses."""
    for scope in {case.scope.name: case.scope for case in CASES}.values():
        cases = [case for case in CASES if case.scope == scope and volumes_of(trainings, case)]
        if not cases:
            continue
        volumes = [volumes_of(trainings, case) for case in cases]
        owns = [[item for item in trainings if (item.scope, item.course) == (scope.name, c.course)] for c in cases]
        head = [scope.name, *(f"{c.course.steps} steps of {c.course.batch}, {c.seeds} seed(s)" for c in cases)]
        rows = [
            [
                f"{learning_rate(rate):.3g}",
                *(
                    f"{1e4 * of_case[rate]:.0f}: {_accuracies(own, rate)}" if rate in of_case else ""
                    for of_case, own in zip(volumes, owns, strict=True)
                ),
            ]
            for rate in sorted({rate for of_case in volumes for rate in of_case})
        ]
        yield _table(head, rows)


def _accuracies(trainings: Sequence[Training], rate: int) -> str:
    """Return clean / robust accuracy at strength 1, means over seeds."""
    ends = [
        (clean, robust)
        for training in trainings
        for strength, clean, robust in training.points
        if training.half_decades == rate and strength == 1.0
    ]
    return " / ".join(f"{statistics.mean(values):.3f}" for values in zip(*ends, strict=True)) or "not finite"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def report(trainings: Sequence[Training]) -> str:
    seconds = sum(training.seconds for training in trainings)
    parts = [
        "# The good learning rate",
        f"`python -m benchmarks.learning_rate`: {len(trainings)} trainings, {seconds:.0f} s on one thread of a machine "
        "that was shared with other work; `learning_rate.jsonl` holds each.",
        f"Embedded world, {PAIRS} pairs of every second class; cross-entropy, lambda_reg 0.3, Adamax, warm-up 0.1 and "
        "cosine, no weight decay, bf16. Hypervolume x 1e4 of the strengths 0.25, 0.5, 0.75, 1 of the last weights over "
        f"(untouched clean - {FLOOR:g}, untouched robust) on {VALIDATION} validation images, clean and attacked; "
        "accuracies at strength 1; means over seeds.",
        "## What was found",
        "Walks that reached their end. `at the rule`: share of the best hypervolume, interpolated in log rate.",
        summary(trainings),
        "## All trainings",
        "Hypervolume: clean / robust.",
        *courses(trainings),
        environment("torch", "open_clip_torch") + ".",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=math.inf, help="no training begins later than this")
    parser.add_argument("--record", type=Path, default=Path("benchmarks/results/learning_rate.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/learning_rate.md"))
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps prepared images for the next run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    with tempfile.TemporaryDirectory() as folder:
        trainings = train(options.record, options.cache or Path(folder), options.seconds)
    publish(report(trainings), options.output)


if __name__ == "__main__":
    main()

"""GPU hours of the paper's table, counted where there is no GPU that could be timed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.paper.rows import ROWS
from sweeper.spec.spec import Spec

TFLOP_A_FORWARD = 8.8e-3
"""Forward pass of ViT-B/32's image tower on an image of 224 px: 4.4 G multiply-adds."""

RATES = {"A100, fp32": 12.0, "H100 or H200, fp32": 40.0, "A100, bf16": 100.0, "H100 or H200, bf16": 250.0}
"""TFLOP/s that are assumed: about 60 % of the fp32 peak without TF32, about a third (A100) or a quarter of bf16's."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """Work of the table, counted from the number of images."""

    trainings: int
    steps: int
    """Optimizer steps of a training."""
    train_tflop: float
    """Of all trainings and seeds, evaluations on validation among them."""
    measure_tflop: float
    """Of all models on all test sets, clean and attacked."""

    def lines(self, seeds: int) -> list[str]:
        """Return the forecast for people."""
        total = self.train_tflop + self.measure_tflop
        hours = ", ".join(f"{total / rate / 3600:.2g} h ({name})" for name, rate in RATES.items())
        return [
            f"counted, not timed: {seeds} seed{'s' * (seeds > 1)} x {self.trainings} trainings of {self.steps} steps, "
            f"{self.train_tflop / 1000:.0f} PFLOP, and {self.measure_tflop / 1000:.0f} PFLOP of measuring",
            f"  on one GPU: {hours}",
            "  at assumed rates; decoding of images by the CPUs, once, and loading come on top; the spec says fp32",
        ]


def count(spec: Spec, images: Mapping[str, int], seeds: int) -> Count:
    """Return the work of the table.

    Args:
        images: number of images by set and split, ``imagenet100/train``: of the train and validation splits, and of the
            test split of every set that is measured.
    """
    pairs = images[f"{spec.train.set}/train"] * spec.train.copies
    steps = math.ceil(pairs / spec.training.global_batch_size) * spec.training.epochs
    trainings = spec.search.trials
    # A step needs the forward pass and twice as much backward, of the clean and the attacked image of each pair.
    training = 3 * 2 * pairs * spec.training.epochs * TFLOP_A_FORWARD
    looks = spec.training.epochs + len(spec.evaluate.front.strengths)
    seen = min(spec.evaluate.search.images or 10**9, images[f"{spec.train.set}/validation"])
    tests = sum(number for name, number in images.items() if name.endswith("/test"))
    models = 1 + seeds * (len(ROWS) - 1)
    return Count(
        trainings=trainings,
        steps=steps,
        train_tflop=seeds * trainings * (training + 2 * looks * seen * TFLOP_A_FORWARD),
        measure_tflop=2 * models * tests * TFLOP_A_FORWARD,
    )


def images_of(spec: Spec, sets: Sequence[str]) -> dict[str, int]:
    """Return the number of images of the splits that the table uses, as their readers list them."""
    from trainables.data.readers.kinds import list_images

    train = spec.train.set
    numbers = {f"{train}/{split}": len(list_images(train, spec.sets[train], split).keys) for split in _SPLITS}
    return numbers | {f"{name}/test": len(list_images(name, spec.sets[name], "test").keys) for name in sets}


_SPLITS = ("train", "validation")

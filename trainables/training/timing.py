"""Speed and memory of a trial, measured on the beginning of a real trial."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.memory import MemoryGauge
from trainables.records import Report, TrialTiming
from trainables.settings.parameters import Parameters
from trainables.training.hooks import Hooks, TrialInterrupted
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

_BLOCK_S = 0.2
"""Least length of a block of timed steps, in seconds: measuring a block waits for the GPU at both ends."""


def probe_trial(
    context: TrialContext,
    parameters: Parameters,
    *,
    seconds: float,
    folder: Path,
    group: WorkerGroup | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    long_operation: Callable[[str], AbstractContextManager[None]] = lambda what: nullcontext(),
) -> TrialTiming:
    """Train one policy in ``folder`` for about ``seconds`` and until it was evaluated twice; return its timing.

    Raises:
        NonFiniteLoss: the loss is infinite or not a number.
        StorageError: the disk fails.
        OutOfMemory: not even one pair of images fits into memory.
        MicroBatchReduced: micro-batches must be smaller (several workers only).
        ValueError: the parameters do not fit the model.
    """
    group = group or WorkerGroup(device=context.device)
    end_s = time.monotonic() + seconds
    pairs, training = len(context.data.preference_rows(parameters)), context.task.training
    epochs = training.epochs_of(parameters)
    seen, unseen = context.data.validation_images(), context.data.unseen_images()
    steps = epochs * math.ceil(pairs / training.global_batch_size)
    evaluations = [step / steps for step in (1, 3) if step < steps]  # the first one also warms up
    for repetition in range(2):  # a trial that ends early is timed again, warm
        timer, gauge = _Timer(context.device, end_s), MemoryGauge(context.device)
        hooks = Hooks(
            report=timer.evaluation_ended,
            interrupted=timer.step_begins,
            heartbeat=heartbeat,
            long_operation=long_operation,
        )
        trial = TrialFolder(folder / str(repetition))
        try:
            with gauge:
                run_trial(context, parameters, seed=0, folder=trial, group=group, hooks=hooks, rungs=evaluations)
        except TrialInterrupted:
            break
    return TrialTiming(
        steps=steps,
        images_per_step=2 * epochs * pairs / steps,
        step_s=timer.step_s(),
        evaluation_s=timer.evaluation_s(),
        micro_batch_size=context.batch_sizes.micro(parameters),
        peak_bytes=gauge.peak_bytes,
        total_bytes=gauge.total_bytes,
        unseen_share=sum(unseen) / sum(seen) if all(unseen) else 0.0,
    )


class _Timer:
    """Follows a trial: start of its steps, duration of evaluations."""

    def __init__(self, device: torch.device, end_s: float) -> None:
        self._end_s = end_s
        self._cuda = device if device.type == "cuda" else None
        self._blocks: list[tuple[int, float]] = []
        """Number of steps and seconds of each block."""
        self._steps = 0
        self._trained = (0, 0.0)
        """Steps and seconds of training up to the last evaluation."""
        self._block_start: tuple[int, float] | None = None
        """Step and time at which the present block began; None after an evaluation."""
        self._evaluations_s: list[float] = []
        self._evaluation_sum_s = 0.0

    def step_begins(self) -> bool:
        """Return whether the trial shall end: the time is over and the trial was evaluated twice."""
        now_s = time.monotonic()
        if self._block_start is None or now_s - self._block_start[1] >= _BLOCK_S:
            if self._cuda is not None:
                torch.cuda.synchronize(self._cuda)
                now_s = time.monotonic()
            if self._block_start is not None:
                self._blocks.append((self._steps - self._block_start[0], now_s - self._block_start[1]))
            self._block_start = (self._steps, now_s)
        self._steps += 1
        return len(self._evaluations_s) >= 2 and time.monotonic() > self._end_s

    def evaluation_ended(self, report: Report) -> None:
        self._evaluations_s.append(report.evaluation_s - self._evaluation_sum_s)
        self._evaluation_sum_s = report.evaluation_s
        self._trained = (report.step, report.train_s)
        self._block_start = None  # the block holds an evaluation

    def step_s(self) -> float:
        """Return the mean seconds per step over all blocks but the first, or over all steps if there are no blocks."""
        blocks = self._blocks[1:] or self._blocks or [self._trained]
        return sum(seconds for _, seconds in blocks) / sum(steps for steps, _ in blocks)

    def evaluation_s(self) -> float:
        """Return the seconds of the last evaluation."""
        return self._evaluations_s[-1]

"""How fast a trial is and what memory it takes: the beginning of a real one, timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from trainables.distributed import WorkerGroup
from trainables.settings.parameters import Parameters
from trainables.training.checkpoint import TrialFolder
from trainables.training.trial import Hooks, Interrupted, run_trial
from trainables.trial_context import TrialContext

_BLOCK_S = 0.2
"""Steps are timed in blocks of at least so long: a GPU has to be waited for at both ends."""


def probe_trial(
    bench: TrialContext,
    parameters: Parameters,
    *,
    seconds: float,
    folder: Path,
    group: WorkerGroup | None = None,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains one policy for about so many seconds, and until it was evaluated twice, in ``folder``.

    Returns ``steps`` (of the whole trial), ``images_per_step`` (clean and attacked), ``step_s``, ``evaluation_s`` (of
    one look at the search sets), ``micro_batch_size`` (pairs; None unless larger ones did not fit), ``peak_bytes`` (of
    the device's memory, on CPU of the process) and ``total_bytes`` (that there are). Raises as ``run_trial``, but for
    ``Interrupted``.
    """
    group = group or WorkerGroup(device=bench.device)
    until_s = time.monotonic() + seconds
    steps = bench.task.training.epochs * _steps_per_epoch(bench, parameters)
    looks = [step / steps for step in (1, 3) if step < steps]  # the first one also warms up
    for go in range(2):  # a trial that is through soon is measured again, warm
        clock = _Clock(bench.device, until_s)
        hooks = Hooks(report=clock.report, interrupted=clock.step, alive=alive)
        part = TrialFolder(folder / str(go))
        try:
            run_trial(bench, parameters, seed=0, folder=part, group=group, hooks=hooks, rungs=looks)
        except Interrupted:
            break
    return {
        "steps": steps,
        "images_per_step": 2 * bench.task.training.epochs * len(bench.pair_rows(parameters)) / steps,
        "step_s": clock.step_s(),
        "evaluation_s": clock.evaluation_s(),
        "micro_batch_size": bench.micro_batch_size(parameters),
        "peak_bytes": clock.peak_bytes(),
        "total_bytes": _total_bytes(bench.device),
    }


def _steps_per_epoch(bench: TrialContext, parameters: Parameters) -> int:
    return math.ceil(len(bench.pair_rows(parameters)) / bench.task.training.global_batch_size)


class _Clock:
    """Follows a trial: when steps began, how long evaluations took, how much memory was held."""

    def __init__(self, device: torch.device, until_s: float) -> None:
        self._until_s = until_s
        self._cuda = device if device.type == "cuda" else None
        self._blocks: list[tuple[int, float]] = []
        """Steps and seconds of each."""
        self._steps = 0
        self._trained = (0, 0.0)
        """Steps and seconds, at the last evaluation."""
        self._began: tuple[int, float] | None = None
        """Step and time at which the present block began."""
        self._evaluations_s: list[float] = []
        self._evaluated_s = 0.0
        self._resident_bytes = 0
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)

    def step(self) -> bool:
        """A step begins. Returns whether to end: the time is over and the trial was evaluated twice."""
        now_s = time.monotonic()
        if self._began is None or now_s - self._began[1] >= _BLOCK_S:
            if self._cuda is not None:
                torch.cuda.synchronize(self._cuda)
                now_s = time.monotonic()
            if self._began is not None:
                self._blocks.append((self._steps - self._began[0], now_s - self._began[1]))
            self._began = (self._steps, now_s)
            self._look()
        self._steps += 1
        return len(self._evaluations_s) >= 2 and time.monotonic() > self._until_s

    def report(self, line: dict[str, Any]) -> None:
        self._evaluations_s.append(line["evaluation_s"] - self._evaluated_s)
        self._evaluated_s = line["evaluation_s"]
        self._trained = (line["step"], line["train_s"])
        self._began = None  # the block holds an evaluation
        self._look()

    def step_s(self) -> float:
        """Mean over the blocks but the first; over all steps of a trial too short for blocks."""
        blocks = self._blocks[1:] or self._blocks or [self._trained]
        return sum(seconds for _, seconds in blocks) / sum(steps for steps, _ in blocks)

    def evaluation_s(self) -> float:
        return self._evaluations_s[-1]

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_reserved(self._cuda) if self._cuda is not None else self._resident_bytes

    def _look(self) -> None:
        if self._cuda is None:
            self._resident_bytes = max(self._resident_bytes, psutil.Process().memory_info().rss)


def _total_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total

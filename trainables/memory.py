"""Running out of the accelerator's memory: the same work is done again in smaller parts."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class OutOfMemory(ValueError):
    """The settings ask for more than the device holds, one row at a time; the message says what to do."""


class MicroBatchReduced(RuntimeError):
    """One worker of several ran out of memory while the others wait for it: all of them are to begin again from the
    checkpoint, with the smaller micro-batches that the trial's folder now names."""


def in_memory(work: Callable[[], Result]) -> Result | None:
    """What ``work`` returns; None where memory ran out, with what it had taken given back."""
    try:
        return work()
    except torch.OutOfMemoryError:
        pass  # its traceback holds the tensors of every frame: nothing is free before this block is left
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def halve(size: int) -> int:
    """Half of a number of rows, rounded up.

    Raises:
        OutOfMemory: it is one row.
    """
    if size <= 1:
        raise OutOfMemory(
            "out of memory with a single image or pair at a time: set training.gradient_checkpointing: true, tune "
            "fewer blocks or a smaller model, or give a trial more memory (resources.gpus_per_worker: 1 leaves a GPU "
            "to one trial)"
        )
    return (size + 1) // 2


def in_parts(rows: Tensor, size: int, work: Callable[[Tensor], Result]) -> tuple[list[Result], int]:
    """``work`` of ``rows`` in order, at most ``size`` at a time; where memory runs out, fewer from there on.

    Returns the results and the size that fitted. Raises OutOfMemory where one row does not fit.
    """
    found: list[Result] = []
    while len(rows):
        part = rows[:size]
        result = in_memory(lambda part=part: work(part))  # type: ignore[misc]
        if result is None:
            size = halve(len(part))
        else:
            found.append(result)
            rows = rows[len(part) :]
    return found, size

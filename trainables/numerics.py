"""Switches of PyTorch for a whole thread or process: set around a trial or a command, and restored after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormal floats as zero in this thread inside the context.

    An almost untrained small model is full of denormals, which make it 10 to 25 times slower on a CPU. Python's own
    floats are flushed too, so the switch must not outlive the work that needs it.
    """
    before = sys.float_info.min / 2 == 0.0  # PyTorch has no getter; the switch holds for all arithmetic of the thread
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def full_precision() -> None:
    """Compute with all bits of float32 on a GPU.

    PyTorch does so in products of matrices and not in convolutions, where it uses TF32 with 10 bits of mantissa.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Let PyTorch use ``threads`` threads for one operation on the CPU inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Running out of the accelerator's memory: the same work is repeated in smaller batches."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from trainables.activity import busy_with
from trainables.records import CONTEXT_BYTES

Result = TypeVar("Result")


class OutOfMemory(ValueError):
    """The settings need more memory than the device has, even for one row at a time; the message says what to do."""


class MicroBatchReduced(RuntimeError):
    """A worker ran out of memory while the other workers wait for it.

    All of them must begin again from the checkpoint, with the smaller micro-batches that the trial's folder now names.
    """


def limit_device_memory(device: torch.device, share: float) -> None:
    """Let this process use at most a share of a GPU's memory, its CUDA context included.

    Processes that share a GPU would otherwise take memory from each other: PyTorch keeps what a trial has used.
    """
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, share - CONTEXT_BYTES / total_bytes), device)


def available_bytes(device: torch.device) -> int:
    """Return how many bytes of a GPU's memory this process can still allocate."""
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    used_bytes = torch.cuda.memory_allocated(device)
    own_bytes = int(torch.cuda.get_per_process_memory_fraction(device) * total_bytes)
    return min(free_bytes + torch.cuda.memory_reserved(device), own_bytes) - used_bytes


def return_device_memory() -> None:
    """Give memory that no tensor uses back to the GPU, if there is one, for other processes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class MemoryGauge:
    """Memory of this process on a device: a GPU, or the host. A context manager: inside it the peak is followed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        return_device_memory()  # a peak begins at what is reserved, which the scope before may have left
        if self._on_gpu:
            self.free_bytes, self.total_bytes = torch.cuda.mem_get_info(device)
        else:
            memory = psutil.virtual_memory()
            self.free_bytes, self.total_bytes = memory.available, memory.total
        self.own_bytes = self._now_bytes()
        """Memory of the process when the gauge was made."""
        self.peak_bytes = self.own_bytes
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> MemoryGauge:
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._thread = threading.Thread(target=self._sample, daemon=True, name="memory")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_gpu:
            self.peak_bytes = torch.cuda.max_memory_reserved(self._device) + CONTEXT_BYTES
            return
        assert self._thread is not None
        self._ended.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._now_bytes())

    def _now_bytes(self) -> int:
        if self._on_gpu:
            return torch.cuda.memory_reserved(self._device) + CONTEXT_BYTES
        return int(psutil.Process().memory_info().rss)

    def _sample(self) -> None:
        """Follow the peak: the operating system tells it for the whole life of a process only."""
        while not self._ended.wait(0.005):
            self.peak_bytes = max(self.peak_bytes, self._now_bytes())


def run_or_none_on_oom(work: Callable[[], Result]) -> Result | None:
    """Return the result of ``work``; None if memory ran out, after its memory was freed."""
    try:
        return work()
    except torch.OutOfMemoryError:
        pass  # the traceback holds the tensors of every frame: memory is freed only after this block
    return_device_memory()
    return None


def halve(size: int) -> int:
    """Return half of a number of rows, rounded up.

    Raises:
        OutOfMemory: the number is 1.
    """
    if size <= 1:
        raise OutOfMemory(
            "out of memory with a single image or pair at a time: set training.gradient_checkpointing: true, tune "
            "fewer blocks or a smaller model, or give a trial more memory (resources.gpus_per_worker: 1 leaves a GPU "
            "to one trial)"
        )
    return (size + 1) // 2


def in_batches(rows: Tensor, size: int, work: Callable[[Tensor], Result], what: str) -> tuple[list[Result], int]:
    """Return the results of ``work`` on ``rows`` in order, at most ``size`` at a time, and the largest size that fits.

    If memory runs out, the batches are smaller from that row on.

    Args:
        what: the work in words, for ``busy_with``.

    Raises:
        OutOfMemory: one row does not fit.
    """
    results: list[Result] = []
    total = len(rows)
    while len(rows):
        busy_with(what, total - len(rows), total)
        batch = rows[:size]
        result = run_or_none_on_oom(lambda batch=batch: work(batch))  # type: ignore[misc]
        if result is None:
            size = halve(len(batch))
        else:
            results.append(result)
            rows = rows[len(batch) :]
    return results, size

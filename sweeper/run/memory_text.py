"""The line that says whether the slots fit into memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trainables.records import MemoryNeed

if TYPE_CHECKING:
    from sweeper.execution.capacity import SlotPlan

HOST_SHARE = 0.95
"""Ray's memory monitor ends workers when more than this share of a machine's memory is used."""


def memory_line(need: MemoryNeed, plan: SlotPlan, *, measured: int) -> str:
    """Return a line on the memory of the workers that share a GPU, or this machine.

    Args:
        measured: number of these workers that already had their own memory when the need was measured.
    """
    on_gpu = plan.gpus_per_worker > 0
    workers = max(1, math.floor(1 / plan.gpus_per_worker + 1e-6)) if on_gpu else plan.slots * plan.workers_per_trial
    reserved_bytes = 0.0 if on_gpu else (1 - HOST_SHARE) * need.total_bytes
    held_bytes = need.free_bytes + measured * need.own_bytes - reserved_bytes
    place = "a GPU" if on_gpu else "this machine"
    each = f"{_gib(need.peak_bytes)} each ({need.tune}, micro-batches of {need.micro_batch_size} pairs)"
    several = f"{workers} worker{'' if workers == 1 else 's'}"
    if workers * need.peak_bytes <= held_bytes:
        return f"memory: {several} with about {each}; {place} has {_gib(held_bytes)} for them"
    more, smaller = "gpus" if on_gpu else "cpus", max(1, need.micro_batch_size // 2)
    return (
        f"memory: {several} with about {each} do not fit into the {_gib(held_bytes)} that {place} has for them: have "
        f"fewer slots (resources.{more}_per_worker), or --set training.micro_batch_size={smaller}"
    )


def _gib(number: float) -> str:
    return f"{number / 2**30:.3g} GiB"

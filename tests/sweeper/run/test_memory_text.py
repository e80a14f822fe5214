"""The line about memory: who shares it, what each needs, what to do where it is not enough."""

from __future__ import annotations

from sweeper.execution.capacity import SlotPlan
from sweeper.run.memory_text import memory_line
from trainables.records import MemoryNeed

GIB = 2**30


def need(peak: float, own: float, free: float, total: float) -> MemoryNeed:
    return MemoryNeed(
        tune="visual",
        micro_batch_size=64,
        peak_bytes=int(peak * GIB),
        own_bytes=int(own * GIB),
        free_bytes=int(free * GIB),
        total_bytes=int(total * GIB),
    )


def plan(slots: int, *, gpus: float = 0.0, workers: int = 1) -> SlotPlan:
    return SlotPlan(slots=slots, workers_per_trial=workers, cpus_per_worker=1.0, gpus_per_worker=gpus, text="")


def test_workers_share_the_machine() -> None:
    text = "memory: 2 workers with about 3 GiB each (visual, micro-batches of 64 pairs)"
    # 2 x 3 = 6: 5.1 are free, two workers hold 1 each already, and Ray leaves a twentieth of 20 free.
    assert memory_line(need(3, 1, 5.1, 20), plan(2), measured=2) == f"{text}; this machine has 6.1 GiB for them"
    refused = memory_line(need(3, 1, 4.9, 20), plan(2), measured=2)
    assert refused.startswith(f"{text} do not fit into the 5.9 GiB that this machine has for them")
    assert "resources.cpus_per_worker" in refused and "--set training.micro_batch_size=32" in refused
    assert "do not fit" in memory_line(need(3, 1, 5.1, 20), plan(2, workers=2), measured=2), "four workers"


def test_slots_share_a_gpu() -> None:
    assert "a GPU has 79 GiB" in memory_line(need(30, 1, 78, 80), plan(8, gpus=1.0), measured=1)
    assert memory_line(need(30, 1, 78, 80), plan(8, gpus=0.5), measured=1).startswith("memory: 2 workers")
    refused = memory_line(need(30, 1, 78, 80), plan(9, gpus=1 / 3), measured=1)
    assert refused.startswith("memory: 3 workers with about 30 GiB each") and "resources.gpus_per_worker" in refused

"""Slots that cannot be set up, and a job queue that dies: on real slots. Hanging workers are in ``test_slots.py``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.errors import UnavailableError
from sweeper.execution.job_queue import SETUP_ATTEMPTS, JobLimits
from sweeper.jobs import Outcome
from tests.helpers import runners
from tests.helpers.runners import LONG_S, ScriptedJob, patience
from tests.sweeper.execution.test_slots import a_plan, keys

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

LIMITS = JobLimits(stall_s=5.0, grace_s=60.0)
assert LIMITS.stall_s < LONG_S


def do(slots: Any, what: str, seconds: float = 240) -> Outcome:
    outcome: Outcome = slots.submit(ScriptedJob(key=next(keys), do=what)).result(seconds)
    return outcome


def job_queues() -> set[int]:
    processes = psutil.Process().children(recursive=True)
    return {process.pid for process in processes if process.name().startswith("ray::Dispatcher")}


@pytest.mark.drill
def test_a_slot_that_cannot_be_set_up_is_set_aside_and_one_that_takes_long_is_not(tmp_path: Path) -> None:
    from sweeper.execution.slots import SlotPool

    notes: list[str] = []
    with SlotPool(a_plan(2), runners.make_on_slot_0, tmp_path, LIMITS, notes.append) as slots:
        assert [do(slots, "fail").slot for _ in range(2)] == [0, 0]
        with patience(240, "slot 1 to be set aside") as again:
            while slots.active == 2 and again():
                slots.check()
        assert do(slots, "fail").slot == 0
    reason = f"the workers ended {SETUP_ATTEMPTS} times while they were set up"
    assert [note for note in notes if "set aside" in note] == [
        f"slot 1 is set aside: {reason}, the last time: MemoryError: the GPU of this slot is full"
    ]


@pytest.mark.drill
def test_where_no_slot_can_be_set_up_the_reason_is_said_once(tmp_path: Path) -> None:
    from sweeper.execution.slots import SlotPool

    with SlotPool(a_plan(2), runners.make_without_memory, tmp_path, LIMITS) as slots:
        with pytest.raises(UnavailableError) as raised:
            do(slots, "fail")
        assert str(raised.value).count("every GPU is full") == 1


@pytest.mark.drill
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_the_job_queue_the_driver_learns_so_and_frees_everything(tmp_path: Path, number: int) -> None:
    import ray

    from sweeper.execution.slots import SlotPool

    def reserved() -> set[str]:
        table = ray.util.placement_group_table()
        return {name for name, group in table.items() if group["state"] != "REMOVED"}

    before, others = reserved(), job_queues()
    slots = SlotPool(a_plan(1), runners.make, tmp_path, LIMITS)
    slots.start()
    assert do(slots, "fail").kind == "failed"
    with patience(60, "the driver to know of the slot's placement group") as again:
        while not slots._groups and again():
            pass
    future = slots.submit(ScriptedJob(key=next(keys), do="wait", folder=tmp_path))
    [queue] = job_queues() - others
    os.kill(queue, number)
    with pytest.raises(UnavailableError, match="job queue"):
        future.result(120)
    with pytest.raises(UnavailableError, match="job queue"):
        slots.check()
    began_s = time.monotonic()
    slots.close()
    assert time.monotonic() - began_s < 30, "waited for workers that nobody tells to end"
    with patience(60, "the placement group to be removed") as again:
        while not reserved() <= before and again():
            pass

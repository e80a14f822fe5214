"""Workers that hang or cannot be set up, and a job queue that dies: on real slots."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
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
MARGIN_S = 15.0
"""docs/durability.md: a hang is seen, and the process is gone, within stall_minutes plus this."""
BUSY_S = 60.0
"""More for a machine that does other things too."""
assert LIMITS.stall_s < LONG_S


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return []


@pytest.fixture(scope="module")
def two_slots(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, notes: list[str]) -> Iterator[Any]:
    from sweeper.execution.slots import SlotPool

    with SlotPool(a_plan(2), runners.make, tmp_path_factory.mktemp("slots"), LIMITS, notes.append) as slots:
        yield slots


def do(slots: Any, what: str, seconds: float = 240) -> Outcome:
    outcome: Outcome = slots.submit(ScriptedJob(key=next(keys), do=what)).result(seconds)
    return outcome


def below_this_process(status: str) -> list[int]:
    pids = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() == status:
                pids.append(process.pid)
        except psutil.Error:
            continue
    return pids


def job_queues() -> set[int]:
    processes = psutil.Process().children(recursive=True)
    return {process.pid for process in processes if process.name().startswith("ray::Dispatcher")}


@pytest.mark.parametrize("how", ["stop_once", pytest.param("hold_the_interpreter_once", marks=pytest.mark.drill)])
def test_a_frozen_worker_is_killed_and_its_job_goes_on_elsewhere(two_slots: Any, notes: list[str], how: str) -> None:
    with patience(240, "both slots to be warm") as again:
        while two_slots.ready_count() < 2 and again():
            pass
    before_s = time.monotonic()
    outcome = do(two_slots, how)
    took_s = time.monotonic() - before_s
    assert (outcome.kind, outcome.attempt) == ("complete", 2)
    assert LIMITS.stall_s < took_s < LIMITS.stall_s + MARGIN_S + BUSY_S
    with patience(MARGIN_S + BUSY_S, "the stopped process to be killed") as again:
        while below_this_process(psutil.STATUS_STOPPED) and again():
            pass
    assert any("no heartbeat for 5 s" in note and "its processes are replaced" in note for note in notes)


def test_a_long_operation_is_no_hang(two_slots: Any) -> None:
    outcome = do(two_slots, "take_long")
    assert (outcome.kind, outcome.attempt) == ("complete", 1)


def test_a_full_disk_is_the_storages_failure(two_slots: Any) -> None:
    outcome = do(two_slots, "full_disk")
    assert (outcome.kind, outcome.reason) == ("storage", "/data/checkpoint.pt: No space left on device")
    assert do(two_slots, "fail").kind == "failed", "the slot is of no use any more"


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

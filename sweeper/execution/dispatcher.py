"""The job queue as an actor, which the driver, Train's controllers and the workers of all slots call.

Imports no Ray: ``sweeper.execution.slots`` makes an actor of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from sweeper.execution.handles import Sealed
from sweeper.execution.job_queue import JobLimits, JobQueue
from sweeper.execution.messages import JobUpdate, SetupError, SlotsState, WorkerAddress
from sweeper.jobs import AttemptName, Job, JobName, Outcome
from trainables.records import Report

_TICK_S = 0.2
_STOPPED_S = 3.0
"""Seconds between ticks above which this process, or the machine, was stopped meanwhile."""
Answer = TypeVar("Answer")


class Dispatcher:
    """Serves the state of a ``JobQueue``. A waiting call does not block others."""

    def __init__(self, slots: int, workers: int, limits: JobLimits) -> None:
        self._queue = JobQueue(slots, workers, limits)
        self._events: dict[int | JobName, asyncio.Event] = {}
        self._controllers: dict[int, Sealed] = {}
        """Slot -> handle of Train's controller."""
        self._groups: dict[int, Any] = {}
        """Slot -> placement group of its workers."""
        self._workers: dict[WorkerAddress, Sealed] = {}
        """Handles of the workers' actors."""
        self._followers: dict[JobName, Sealed] = {}
        """Handles of Tune's trial actors, by the job that each follows."""
        self._barrier_open = asyncio.Event()
        self._activity: str | None = None
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    # Called by the driver

    async def enqueue(self, job: Job) -> None:
        self._queue.enqueue(job, time.monotonic())
        self._notify()

    async def register_follower(self, name: JobName, actor: Sealed) -> None:
        """Take the handle of the trial actor that is about to follow a job."""
        self._followers[name] = actor

    async def follow(self, name: JobName, seen: int) -> JobUpdate | SetupError:
        """Wait for news of a job after its first ``seen`` reports, and return it."""
        self._queue.read(name, seen, time.monotonic())

        def probe() -> JobUpdate | SetupError | None:
            return self._queue.setup_error() or self._queue.update(name, seen)

        while True:
            update: JobUpdate | SetupError | None = await self._wait(name, probe, 60.0)
            if update is not None:
                return update

    async def grow_to(self, count: int) -> None:
        """Have ``count`` slots, for resources that the cluster has now."""
        self._queue.grow_to(count)

    async def close_barrier(self) -> None:
        self._barrier_open.clear()

    async def wait_at_barrier(self) -> None:
        """Wait until the barrier is open."""
        await self._barrier_open.wait()

    async def open_barrier(self) -> None:
        self._barrier_open.set()

    async def discard(self, name: JobName) -> None:
        self._queue.discard(name)
        self._followers.pop(name, None)
        self._notify()

    async def perform(self, job: Job) -> Outcome | SetupError:
        """Queue a job and wait for its outcome."""
        await self.enqueue(job)
        seen = 0
        while True:
            update = await self.follow(job.name, seen)
            if isinstance(update, SetupError):
                return update
            if update.outcome is not None:
                await self.discard(job.name)
                return update.outcome
            seen += len(update.reports)

    async def set_decision(self, name: JobName, attempt: int, number: int, stop: bool) -> None:
        self._queue.set_decision(name, attempt, number, stop)
        self._notify()

    async def interrupt(self, grace_s: float | None) -> None:
        self._queue.interrupt(time.monotonic(), grace_s)
        self._notify()

    async def close(self) -> None:
        self._queue.close(time.monotonic())
        self._notify()

    async def state(self) -> SlotsState:
        """Return the state of the slots. Each note is returned once, actors to kill until they are gone."""
        queue = self._queue
        groups = queue.groups_to_kill(time.monotonic())
        hung = [handle for place, handle in self._workers.items() if (place.slot, place.group) in groups]
        hung += [self._followers[name] for name in queue.hung_followers(time.monotonic()) if name in self._followers]
        unstarted = queue.unstarted_slots(time.monotonic())
        hung += [self._controllers[slot] for slot in unstarted if slot in self._controllers]
        notes = list(queue.notes)
        queue.notes.clear()
        return SlotsState(
            warm=sum(state.warm for state in queue.slot_states),
            set_aside=queue.set_aside(),
            setup_error=queue.setup_error(),
            to_kill=hung,
            notes=notes,
            activity=self._activity,
            controllers=dict(self._controllers),
            placement_groups=dict(self._groups),
        )

    # Called by Train's controllers

    async def register_controller(self, slot: int, controller: Sealed) -> None:
        self._controllers[slot] = controller

    async def group_starting(self, slot: int) -> None:
        self._queue.group_starting(slot, time.monotonic())

    async def register_placement_group(self, slot: int, group: Any) -> None:
        self._groups[slot] = group

    async def group_lost(self, slot: int) -> None:
        group = self._groups.pop(slot, None)
        if group is not None:
            self._queue.group_lost(slot, group.id.hex(), time.monotonic())
            self._notify()

    async def record_failure(self, slot: int, reason: str, memory: bool = False) -> None:
        self._queue.record_failure(slot, reason, memory=memory)
        self._notify()

    # Called by the workers

    async def worker_started(self, worker: WorkerAddress, actor: Sealed) -> None:
        """Note that a worker has started.

        Args:
            actor: the worker's handle, by which it is killed if it hangs.
        """
        # Workers of another group are gone, unless they hang and are yet to be killed.
        hanging = [*self._queue.hung_groups, (worker.slot, worker.group)]
        kept = {
            place: handle
            for place, handle in self._workers.items()
            if place.slot != worker.slot or (place.slot, place.group) in hanging
        }
        self._workers = {**kept, worker: actor}
        self._queue.worker_started(worker.slot, worker.group, time.monotonic(), worker.node)
        self._queue.heartbeat(worker.slot, worker.group, worker.rank, None, 0.0, time.monotonic())
        self._notify()

    async def busy_with(self, what: str) -> None:
        self._activity = what

    async def heartbeat(self, worker: WorkerAddress, attempt: AttemptName | None, idle_s: float) -> bool:
        return self._queue.heartbeat(worker.slot, worker.group, worker.rank, attempt, idle_s, time.monotonic())

    async def setup_process_failing(self, slot: int, group: str, reason: str) -> None:
        self._queue.setup_process_failing(slot, group, reason)

    async def setup_failed(self, slot: int, setup_error: SetupError) -> None:
        self._queue.setup_failed(slot, setup_error)
        self._notify()

    async def worker_ready(self, slot: int, group: str, rank: int) -> None:
        self._queue.worker_ready(slot, group, rank, time.monotonic())
        self._notify()

    async def next_job(
        self, slot: int, group: str, last: AttemptName | None, timeout_s: float
    ) -> Job | Literal["closed"] | None:
        def probe() -> Job | Literal["closed"] | None:
            job = self._queue.current(slot, group, last)
            return "closed" if job is None and self._queue.closed else job

        return await self._wait(slot, probe, timeout_s)

    async def report(self, slot: int, group: str, attempt: AttemptName, number: int, report: Report) -> None:
        self._queue.report(slot, group, attempt, number, report, time.monotonic())
        self._notify()

    async def decision(self, slot: int, group: str, attempt: AttemptName, number: int, timeout_s: float) -> bool | None:
        return await self._wait(slot, lambda: self._queue.decision(slot, group, attempt, number), timeout_s)

    async def wait_for_interruption(self, slot: int, group: str, attempt: AttemptName, timeout_s: float) -> bool:
        """Wait for an interruption; return whether there was one."""
        return await self._wait(slot, lambda: self._queue.interrupted(slot, group, attempt) or None, timeout_s) or False

    async def end(self, slot: int, group: str, rank: int, attempt: AttemptName, rank_outcome: Outcome) -> None:
        self._queue.end(slot, group, rank, attempt, rank_outcome, time.monotonic())
        self._notify()

    async def all_ranks_done(self, slot: int, group: str, attempt: AttemptName, timeout_s: float) -> bool:
        return (
            await self._wait(slot, lambda: self._queue.all_ranks_done(slot, group, attempt) or None, timeout_s) or False
        )

    async def abandon_group(self, slot: int, group: str, attempt: AttemptName) -> None:
        self._queue.abandon_group(slot, group, attempt, time.monotonic())
        self._notify()

    async def worker_failing(self, slot: int, group: str, attempt: AttemptName, reason: str, counts: bool) -> None:
        self._queue.worker_failing(slot, group, attempt, reason, counts)

    # Private

    async def _tick(self) -> None:
        ticked_s = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            gap_s, ticked_s = time.monotonic() - ticked_s, time.monotonic()
            if gap_s > _STOPPED_S:
                self._queue.forgive(gap_s)
            self._queue.tick(ticked_s)
            self._notify()

    def _notify(self) -> None:
        names: list[int | JobName] = [*self._queue.touched_slots, *self._queue.touched_jobs]
        for name in names:
            event = self._events.pop(name, None)
            if event is not None:
                event.set()
        self._queue.touched_slots.clear()
        self._queue.touched_jobs.clear()

    async def _wait(self, name: int | JobName, probe: Callable[[], Answer | None], timeout_s: float) -> Answer | None:
        """Return the result of ``probe``, called again after each change of the slot or job; None after the timeout."""
        until = time.monotonic() + timeout_s
        while (answer := probe()) is None:
            left = until - time.monotonic()
            if left <= 0:
                return None
            try:
                await asyncio.wait_for(self._events.setdefault(name, asyncio.Event()).wait(), left)
            except TimeoutError:
                return None
        return answer

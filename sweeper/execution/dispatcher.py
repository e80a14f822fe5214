"""The mailboxes as an actor: what the driver, Train's controllers and the workers of all slots talk to.

Imports no Ray: ``sweeper.slots`` makes an actor of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from sweeper.execution.job_queue import AttemptName, JobLimits, JobName, JobQueue, JobUpdate, SetupError
from sweeper.records import Outcome, Report, Task

Answer = TypeVar("Answer")


class Dispatcher:
    """Takes and hands out what a ``JobQueue`` holds. Calls that wait do so without holding up others."""

    def __init__(self, slots: int, workers: int, limits: JobLimits) -> None:
        self._room = JobQueue(slots, workers, limits)
        self._bells: dict[int | JobName, asyncio.Event] = {}
        self._controllers: dict[int, Any] = {}
        """Slot -> handle of Train's controller."""
        self._groups: dict[int, Any] = {}
        """Slot -> placement group of its workers."""
        self._released = asyncio.Event()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    # The driver's side

    async def offer(self, task: Task) -> None:
        self._room.offer(task, time.monotonic())
        self._ring()

    async def follow(self, name: JobName, seen: int) -> JobUpdate | SetupError:
        """What came in after the first ``seen`` reports: waits for something."""

        def probe() -> JobUpdate | SetupError | None:
            return self._room.refusal() or self._room.news(name, seen)

        while True:
            news: JobUpdate | SetupError | None = await self._wait(name, probe, 60.0)
            if news is not None:
                return news

    async def hold(self) -> None:
        self._released.clear()

    async def stand_by(self) -> None:
        """Waits from ``hold`` to ``release``."""
        await self._released.wait()

    async def release(self) -> None:
        self._released.set()

    async def forget(self, name: JobName) -> None:
        self._room.forget(name)
        self._ring()

    async def perform(self, task: Task) -> Outcome | SetupError:
        """Offers a task and waits for its outcome."""
        await self.offer(task)
        name, seen = (task.kind, task.key), 0
        while True:
            news = await self.follow(name, seen)
            if isinstance(news, SetupError):
                return news
            notes, outcome = news
            if outcome is not None:
                await self.forget(name)
                return outcome
            seen += len(notes)

    async def judge(self, name: JobName, attempt: int, number: int, stop: bool) -> None:
        self._room.judge(name, attempt, number, stop)
        self._ring()

    async def interrupt(self) -> None:
        self._room.interrupt(time.monotonic())
        self._ring()

    async def close(self) -> None:
        self._room.close(time.monotonic())
        self._ring()

    async def state(self) -> tuple[int, SetupError | None]:
        """How many slots are warm, and why none ever will be."""
        return sum(box.warm for box in self._room.boxes), self._room.refusal()

    async def processes(self) -> tuple[list[Any], list[Any]]:
        """Train's controllers, and the placement groups of the workers they started."""
        return list(self._controllers.values()), list(self._groups.values())

    # The side of Train's controllers

    async def controlled(self, slot: int, controller: Any) -> None:
        self._controllers[slot] = controller

    async def placed(self, slot: int, group: Any) -> None:
        self._groups[slot] = group

    async def gone(self, slot: int) -> None:
        group = self._groups.pop(slot, None)
        if group is not None:
            self._room.gone(slot, group.id.hex(), time.monotonic())
            self._ring()

    async def trouble(self, slot: int, reason: str) -> None:
        self._room.trouble(slot, reason)
        self._ring()

    # The workers' side

    async def join(self, slot: int, group: str) -> None:
        self._room.join(slot, group, time.monotonic())
        self._ring()

    async def refuse(self, slot: int, refusal: SetupError) -> None:
        self._room.refuse(slot, refusal)
        self._ring()

    async def set_up(self, slot: int, group: str, rank: int) -> None:
        self._room.set_up(slot, group, rank, time.monotonic())
        self._ring()

    async def next_task(
        self, slot: int, group: str, last: AttemptName | None, timeout_s: float
    ) -> Task | Literal["closed"] | None:
        def probe() -> Task | Literal["closed"] | None:
            task = self._room.current(slot, group, last)
            return "closed" if task is None and self._room.closed else task

        return await self._wait(slot, probe, timeout_s)

    async def report(self, slot: int, group: str, attempt: AttemptName, number: int, report: Report) -> None:
        self._room.report(slot, group, attempt, number, report)
        self._ring()

    async def verdict(self, slot: int, group: str, attempt: AttemptName, number: int, timeout_s: float) -> bool | None:
        return await self._wait(slot, lambda: self._room.verdict(slot, group, attempt, number), timeout_s)

    async def watch(self, slot: int, group: str, attempt: AttemptName, timeout_s: float) -> bool:
        """Whether the task shall end: waits for it."""
        return await self._wait(slot, lambda: self._room.interrupted(slot, group, attempt) or None, timeout_s) or False

    async def end(self, slot: int, group: str, rank: int, attempt: AttemptName, ending: Outcome) -> None:
        self._room.end(slot, group, rank, attempt, ending, time.monotonic())
        self._ring()

    async def settled(self, slot: int, group: str, attempt: AttemptName, timeout_s: float) -> bool:
        return await self._wait(slot, lambda: self._room.settled(slot, group, attempt) or None, timeout_s) or False

    async def give_up(self, slot: int, group: str, attempt: AttemptName) -> None:
        self._room.give_up(slot, group, attempt, time.monotonic())
        self._ring()

    async def lost(self, slot: int, group: str, attempt: AttemptName, reason: str) -> None:
        self._room.lost(slot, group, attempt, reason)

    # Inside

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self._room.tick(time.monotonic())
            self._ring()

    def _ring(self) -> None:
        names: list[int | JobName] = [*self._room.touched_slots, *self._room.touched_tasks]
        for name in names:
            bell = self._bells.pop(name, None)
            if bell is not None:
                bell.set()
        self._room.touched_slots.clear()
        self._room.touched_tasks.clear()

    async def _wait(self, name: int | JobName, probe: Callable[[], Answer | None], timeout_s: float) -> Answer | None:
        """What ``probe`` has to say, asked again whenever the slot or task is touched; None after the timeout."""
        until = time.monotonic() + timeout_s
        while (answer := probe()) is None:
            left = until - time.monotonic()
            if left <= 0:
                return None
            try:
                await asyncio.wait_for(self._bells.setdefault(name, asyncio.Event()).wait(), left)
            except TimeoutError:
                return None
        return answer

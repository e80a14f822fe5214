"""The worker's side of a slot: takes task after task from the mailbox and gives each to the runner.

Imports no Ray: the mailbox actor's handle and ``ray.get`` are handed in by ``sweeper.slots``.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from sweeper.execution.job_queue import AttemptName, JobLimits, SetupError
from sweeper.records import Outcome, Report, Task

POLL_S = 10.0
"""Longest wait of one call to the mailbox."""
FAILURE_PATIENCE_S = 10.0
"""How long a rank that failed waits for the others to fail as well before the group is replaced."""


class Stopped(Exception):
    """The verdict on a report was to stop. The runner lets it pass."""


class Interrupted(Exception):
    """Raised by the runner, after it has written a checkpoint, because ``Channel.interrupted`` was true."""


class ProcessesNeeded(Exception):
    """Raised by the runner of one rank while the others wait for it in a collective: the group's processes are replaced
    and the task goes on from its checkpoint."""


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """Where a runner runs."""

    rank: int
    world_size: int
    """torch.distributed is initialised when it is larger than 1."""
    local_rank: int
    device: str
    """For instance ``cpu`` or ``cuda:0``."""
    slot: int


class Runner(Protocol):
    """Does tasks, one at a time; built once per worker process.

    On several workers every rank gets every task, and the ranks must agree among themselves on when they saw
    ``channel.interrupted()`` (a local event that the ranks do not see at the same step).
    """

    def __call__(self, task: Task, channel: Channel) -> dict[str, Any]: ...


MakeRunner = Callable[[WorkerContext], Runner]
"""Picklable (a module's function, or ``functools.partial`` of one). Raises ValueError or OSError about bad input."""


class Channel:
    """What a runner may say and ask while it does a task."""

    def __init__(self, worker: Worker, task: Task) -> None:
        self._worker = worker
        self._folder = task.payload.get("folder")
        self._reports = 0
        self._sent: Any = None
        self.attempt: AttemptName = (task.kind, task.key, task.attempt)
        self.interrupted_s: float | None = None
        self.seen_s = time.monotonic()

    def report(self, report: Report) -> None:
        """To be called by every rank after each evaluation; what rank 0 says counts.

        Returns at once, unless the report says ``rung: True``: then it waits for the verdict, which is the same on all
        ranks, and raises ``Stopped`` if that is to stop.
        """
        self.alive()
        number, self._reports = self._reports, self._reports + 1
        worker, desk, here = self._worker, self._worker.desk, self._worker.here
        self.flush()
        if worker.context.rank == 0:
            self._sent = desk.report.remote(*here, self.attempt, number, report)
        stop = None if report.get("rung") is True else False
        while stop is None:
            stop = worker.get(desk.verdict.remote(*here, self.attempt, number, worker.verdict_poll_s))
            self.alive()
        if stop:
            raise Stopped

    def interrupted(self) -> bool:
        """Whether to write a checkpoint and raise ``Interrupted``. Cheap: to be asked at every step."""
        self.alive()
        return self.interrupted_s is not None

    def alive(self) -> None:
        """Says that work goes on: to be called within long preparations and evaluations."""
        self.seen_s = time.monotonic()

    def flush(self) -> None:
        """Waits until the last report has arrived: the calls of one caller may overtake each other on an actor."""
        if self._sent is not None:
            self._worker.get(self._sent)
            self._sent = None

    def log(self, line: str) -> None:
        """Appends a line to ``log.txt`` in the folder that the task's payload names."""
        if self._folder is None:
            raise ValueError("channel.log needs `folder` in the task's payload")
        rank = f"[rank {self._worker.context.rank}] " if self._worker.context.world_size > 1 else ""
        with (Path(self._folder) / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{rank}{line}\n")


class Worker:
    """One rank of a slot's group, from the start of its process to the closing of the slot."""

    def __init__(
        self, context: WorkerContext, group: str, desk: Any, get: Callable[[Any], Any], limits: JobLimits
    ) -> None:
        self.context = context
        self.desk = desk
        self.get = get
        self.here = (context.slot, group)
        self.verdict_poll_s = min(POLL_S, limits.stall_s / 4)
        self._limits = limits
        self._channel: Channel | None = None
        self._begun: SimpleQueue[Channel] = SimpleQueue()

    def serve(self, make_runner: MakeRunner) -> None:
        """Returns when the slot is closed."""
        self.get(self.desk.join.remote(*self.here))
        try:
            runner = make_runner(self.context)
        except Exception as error:
            refusal = SetupError(
                reason=_one_line(error, name=not isinstance(error, ValueError)),
                user=isinstance(error, ValueError | OSError),
                traceback=traceback.format_exc(),
            )
            self.get(self.desk.refuse.remote(self.context.slot, refusal))
            return
        self.get(self.desk.set_up.remote(*self.here, self.context.rank))
        for look in (self._listen, self._watch):
            threading.Thread(target=look, daemon=True, name=look.__name__).start()
        last: AttemptName | None = None
        while True:
            task = self.get(self.desk.next_task.remote(*self.here, last, POLL_S))
            if task == "closed":
                return
            if task is not None:
                last = (task.kind, task.key, task.attempt)
                self._do(runner, task)

    def _do(self, runner: Runner, task: Task) -> None:
        """Runs one task and says how it ended. Does not return if the process is to be replaced."""
        channel = self._channel = Channel(self, task)
        self._begun.put(channel)
        try:
            ending = Outcome(kind="complete", result=runner(task, channel))
        except Stopped:
            ending = Outcome(kind="stopped")
        except Interrupted:
            ending = Outcome(kind="interrupted")
        except Exception as error:
            if _worth_another_process(error):
                self.get(self.desk.lost.remote(*self.here, channel.attempt, _one_line(error)))
                os._exit(1)
            ending = Outcome(kind="failed", reason=_one_line(error), traceback=traceback.format_exc())
        channel.flush()
        self._channel = None
        self.get(self.desk.end.remote(*self.here, self.context.rank, channel.attempt, ending))
        if ending.kind == "failed":
            self._after_failure(channel.attempt)

    def _after_failure(self, attempt: AttemptName) -> None:
        if self.context.world_size > 1 and not self.get(
            self.desk.settled.remote(*self.here, attempt, FAILURE_PATIENCE_S)
        ):
            # The other ranks may wait for this one in a collective for half an hour.
            self.get(self.desk.give_up.remote(*self.here, attempt))
            os._exit(1)
        gc.collect()
        if self.context.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def _listen(self) -> None:
        """Passes interruptions on to the channel."""
        while True:
            channel = self._begun.get()
            while self._channel is channel:
                if self.get(self.desk.watch.remote(*self.here, channel.attempt, POLL_S)):
                    channel.interrupted_s = time.monotonic()
                    break

    def _watch(self) -> None:
        """Ends the process when its task hangs, or does not end after an interruption."""
        stall_s, grace_s = self._limits.stall_s, self._limits.grace_s
        while True:
            time.sleep(min(1.0, stall_s / 4, grace_s / 4))
            channel = self._channel
            if channel is None:
                continue
            now = time.monotonic()
            if now - channel.seen_s > stall_s:
                reason = f"no sign of life for {stall_s:g} s"
            elif channel.interrupted_s is not None and now - channel.interrupted_s > grace_s:
                reason = f"did not stop within {grace_s:g} s"
            else:
                continue
            self.get(self.desk.lost.remote(*self.here, channel.attempt, reason))
            os._exit(1)


def _one_line(error: Exception, *, name: bool = True) -> str:
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text}" if name else text


def _worth_another_process(error: Exception) -> bool:
    """Whether the process (its CUDA context, or its connection to a rank that died) is what is broken."""
    if isinstance(error, ProcessesNeeded):
        return True
    if type(error).__name__ == "OutOfMemoryError":
        return False
    text = str(error)
    signs = ("CUDA error", "CUDNN_STATUS", "NCCL", "gloo/transport", "Connection closed by peer")
    return any(sign in text for sign in signs)

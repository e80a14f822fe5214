"""The worker's side of a slot: takes job after job from the dispatcher and gives each to the runner.

Imports no Ray: ``sweeper.execution.slots`` passes the dispatcher's handle and ``ray.get``.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

from sweeper.execution.job_queue import JobLimits
from sweeper.execution.messages import SetupError, SetupErrorKind, WorkerAddress
from sweeper.jobs import AttemptName, Job, JobResult, Outcome
from trainables.activity import LOGGER
from trainables.files import storage_problem
from trainables.records import Report

POLL_S = 10.0
"""Longest wait of one call to the dispatcher, in seconds."""
FAILURE_PATIENCE_S = 10.0
"""Seconds that a failed rank waits for the others to fail as well before the group is replaced."""
ACTIVITY_S = 1.0
"""Least seconds between two messages about the activity of a process."""
HEARTBEAT_S = 5.0
"""Seconds between the heartbeats of a process; less if ``stall_s`` is short."""
LONG_OPERATION_S = 3600.0
"""Longest duration in seconds of a single call without reports (loading weights, writing a checkpoint, compiling)."""


class JobStopped(Exception):
    """Raised by ``Channel.report`` when the scheduler stops the trial. Runners must not catch it."""


class JobInterrupted(Exception):
    """Raised by the runner, after it has written a checkpoint, because ``Channel.interrupted`` was true."""


class GroupReplacementNeeded(Exception):
    """Raised by the runner of one rank while the other ranks wait in a collective.

    The group's processes are replaced, and the job goes on from its checkpoint. This does not count as one of its
    retries.
    """


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """Rank, device and slot of a runner."""

    rank: int
    world_size: int
    """Number of workers; torch.distributed is initialised if it is larger than 1."""
    local_rank: int
    device: str
    """For instance ``cpu`` or ``cuda:0``."""
    device_share: float = 1.0
    """Share of a GPU's memory that this worker may use."""
    slot: int


class Runner(Protocol):
    """Runs jobs, one at a time; built once per worker process.

    With several workers every rank gets every job. The ranks must agree among themselves on the step at which they act
    on ``channel.interrupted()``, a local event that they see at different steps.
    """

    def __call__(self, job: Job, channel: Channel) -> JobResult: ...


MakeRunner = Callable[[WorkerContext], Runner]
"""Function that builds a runner; picklable (a module's function, or ``functools.partial`` of one).

It raises ValueError or OSError for bad input.
"""


class Channel:
    """Connection of a runner to the driver while it runs a job."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self._worker = worker
        self._log_folder = job.log_folder
        self._reports = 0
        self._sent_report: Any = None
        self.attempt = job.attempt_name
        self.interrupted_s: float | None = None
        self._progress_s = time.monotonic()
        self._long_operation_s: float | None = None

    def report(self, report: Report) -> None:
        """Send a report. To be called by every rank after each evaluation; rank 0's report counts.

        Returns at once, unless the report is at a rung: then it waits for the decision, which is the same on all ranks.

        Raises:
            JobStopped: the decision is to stop.
        """
        self.heartbeat()
        number, self._reports = self._reports, self._reports + 1
        worker, dispatcher, address = self._worker, self._worker.dispatcher, self._worker.address
        self.flush()
        if worker.context.rank == 0:
            self._sent_report = dispatcher.report.remote(*address, self.attempt, number, report)
        stop = None if report.rung else False
        while stop is None:
            stop = worker.get(dispatcher.decision.remote(*address, self.attempt, number, worker.decision_poll_s))
            self.heartbeat()
        if stop:
            raise JobStopped

    def interrupted(self) -> bool:
        """Return whether to write a checkpoint and raise JobInterrupted. Cheap: to be called at every step."""
        self.heartbeat()
        return self.interrupted_s is not None

    def heartbeat(self) -> None:
        """Note that the job makes progress. To be called within long preparations and evaluations."""
        self._progress_s = time.monotonic()

    @contextmanager
    def long_operation(self, what: str) -> Iterator[None]:
        """Context around an operation ``what`` that takes long without visible progress.

        Inside it the job does not count as hanging while the process itself is alive, up to ``LONG_OPERATION_S``.
        """
        self._long_operation_s = time.monotonic()
        try:
            yield
        finally:
            self._long_operation_s = None
            self.heartbeat()

    def idle_s(self) -> float:
        """Return the seconds since the job last made progress."""
        now, began_s = time.monotonic(), self._long_operation_s
        if began_s is not None and now - began_s < LONG_OPERATION_S:
            return 0.0
        return now - self._progress_s

    def flush(self) -> None:
        """Wait until the last report has arrived: the calls of one caller may overtake each other on an actor."""
        if self._sent_report is not None:
            self._worker.get(self._sent_report)
            self._sent_report = None

    def log_stacks(self) -> None:
        """Append the stacks of all threads to ``log.txt``, if the job has a log and the disk accepts them."""
        if self._log_folder is not None:
            with suppress(OSError), (self._log_folder / "log.txt").open("a", encoding="utf-8") as file:
                file.write("replaced because it hung; the threads were here:\n")
                file.flush()
                faulthandler.dump_traceback(file)

    def log(self, line: str) -> None:
        """Append a line to ``log.txt`` of the job.

        Raises:
            ValueError: the job has no log.
        """
        if self._log_folder is None:
            raise ValueError("this job has no log")
        rank = f"[rank {self._worker.context.rank}] " if self._worker.context.world_size > 1 else ""
        with (self._log_folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{rank}{line}\n")


class Worker:
    """One rank of a slot's group, from the start of its process to the closing of the slot."""

    def __init__(
        self, context: WorkerContext, group: str, dispatcher: Any, get: Callable[[Any], Any], limits: JobLimits
    ) -> None:
        self.context = context
        self.dispatcher = dispatcher
        self.get = get
        self.address = (context.slot, group)
        self._place = WorkerAddress(slot=context.slot, group=group, rank=context.rank, node=platform.node())
        self.decision_poll_s = min(POLL_S, limits.stall_s / 4)
        self._limits = limits
        self._channel: Channel | None = None
        self._begun: SimpleQueue[Channel] = SimpleQueue()

    def worker_loop(self, make_runner: MakeRunner, actor: Any = None) -> None:
        """Run jobs until the slot is closed.

        Args:
            actor: handle of this process, by which it is killed if it hangs.
        """
        self.get(self.dispatcher.worker_started.remote(self._place, actor))
        threading.Thread(target=self._send_heartbeats, daemon=True, name="heartbeats").start()
        if self.context.rank == 0:
            logger = logging.getLogger(LOGGER)
            logger.setLevel(logging.INFO)
            logger.propagate = False
            logger.addHandler(_ActivityHandler(self.dispatcher))
        try:
            runner = make_runner(self.context)
        except Exception as error:
            if _out_of_memory(error) or _needs_new_process(error):
                self.get(self.dispatcher.setup_process_failing.remote(*self.address, _one_line(error)))
                os._exit(1)
            self.get(self.dispatcher.setup_failed.remote(self.context.slot, _setup_error(error)))
            return
        self.get(self.dispatcher.worker_ready.remote(*self.address, self.context.rank))
        threading.Thread(target=self._interrupt_listener, daemon=True, name="interruptions").start()
        last: AttemptName | None = None
        while True:
            job = self.get(self.dispatcher.next_job.remote(*self.address, last, POLL_S))
            if job == "closed":
                return
            if job is not None:
                last = job.attempt_name
                self._run_job(runner, job)

    def _run_job(self, runner: Runner, job: Job) -> None:
        """Run one job and send its outcome. Does not return if the process is to be replaced."""
        channel = self._channel = Channel(self, job)
        self._begun.put(channel)
        try:
            rank_outcome = Outcome(kind="complete", result=runner(job, channel))
        except JobStopped:
            rank_outcome = Outcome(kind="stopped")
        except JobInterrupted:
            rank_outcome = Outcome(kind="interrupted")
        except Exception as error:
            if _needs_new_process(error):
                counts = not isinstance(error, GroupReplacementNeeded)
                self.get(
                    self.dispatcher.worker_failing.remote(*self.address, channel.attempt, _one_line(error), counts)
                )
                os._exit(1)
            problem = storage_problem(error)
            rank_outcome = Outcome(
                kind="failed" if problem is None else "storage",
                reason=_one_line(error) if problem is None else problem,
                traceback=traceback.format_exc(),
            )
        channel.flush()
        self._channel = None
        self.get(self.dispatcher.end.remote(*self.address, self.context.rank, channel.attempt, rank_outcome))
        if rank_outcome.kind in ("failed", "storage"):
            self._after_failure(channel.attempt)

    def _after_failure(self, attempt: AttemptName) -> None:
        if self.context.world_size > 1 and not self.get(
            self.dispatcher.all_ranks_done.remote(*self.address, attempt, FAILURE_PATIENCE_S)
        ):
            # The other ranks may wait for this one in a collective for half an hour.
            self.get(self.dispatcher.abandon_group.remote(*self.address, attempt))
            os._exit(1)
        gc.collect()
        if self.context.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def _interrupt_listener(self) -> None:
        """Pass interruptions on to the channel."""
        while True:
            channel = self._begun.get()
            while self._channel is channel:
                if self.get(self.dispatcher.wait_for_interruption.remote(*self.address, channel.attempt, POLL_S)):
                    channel.interrupted_s = time.monotonic()
                    break

    def _send_heartbeats(self) -> None:
        """Tell the queue that this process is alive, and when its job last made progress.

        If the queue has replaced this process, the stacks of all threads are written to the job's log, to show where it
        hung, and the process ends; the driver kills a process that cannot do that itself.
        """
        while True:
            channel = self._channel
            attempt, idle_s = (None, 0.0) if channel is None else (channel.attempt, channel.idle_s())
            try:
                belongs = self.get(self.dispatcher.heartbeat.remote(self._place, attempt, idle_s))
            except (
                Exception
            ):  # an error of Ray, which is not imported here: the driver has ended, and the queue with it
                return
            if not belongs:
                if channel is not None:
                    channel.log_stacks()
                os._exit(1)
            time.sleep(min(HEARTBEAT_S, self._limits.stall_s / 4))


class _ActivityHandler(logging.Handler):
    """Tells the dispatcher the present activity, once a second at most; does not wait for an answer."""

    def __init__(self, dispatcher: Any) -> None:
        super().__init__()
        self._dispatcher, self._sent_s = dispatcher, -ACTIVITY_S

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._sent_s >= ACTIVITY_S:
            self._sent_s = time.monotonic()
            with suppress(Exception):  # an error of Ray, which is not imported here: the driver has ended
                self._dispatcher.busy_with.remote(record.getMessage())


def _setup_error(error: Exception) -> SetupError:
    """Return the reason why a runner cannot be built."""
    problem = storage_problem(error)
    kind: SetupErrorKind = "input" if isinstance(error, ValueError | OSError) else "internal"
    if problem is not None:
        kind, reason = "storage", problem
    else:
        reason = _one_line(error, name=not isinstance(error, ValueError))
    return SetupError(reason=reason, kind=kind, traceback=traceback.format_exc())


def _one_line(error: Exception, *, name: bool = True) -> str:
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text}" if name else text


def _needs_new_process(error: Exception) -> bool:
    """Return whether the process is broken: its CUDA context, or its connection to a rank that died."""
    if isinstance(error, GroupReplacementNeeded) or type(error).__name__ == "AcceleratorError":
        return True
    if type(error).__name__ == "OutOfMemoryError":
        return False
    text = str(error)
    signs = (
        "CUDA error",
        "CUDA driver error",
        "cusolver error",
        "CUBLAS_STATUS",
        "CUDNN_STATUS",
        "NCCL",
        "gloo/transport",
        "Connection closed by peer",
    )
    return any(sign in text for sign in signs)


def _out_of_memory(error: Exception) -> bool:
    """Return whether the memory of the device or the host ran out: it may be free for another process."""
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "OutOfMemory"):
        return True  # PyTorch's, and trainables.memory's: not even one image fits beside the memory of other processes
    return "can't allocate memory" in str(error)  # RuntimeError of PyTorch's allocator on the CPU

"""Runners for the tests of slots: what a job does is said in the job."""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from sweeper.execution.worker import Channel, JobInterrupted, Runner, WorkerContext
from sweeper.jobs import Job, Outcome, TrainJob
from trainables.records import Report

LONG_S = 14.0


@dataclass(frozen=True, kw_only=True)
class ScriptedJob(Job):
    """A measurement that does the function named in ``do``."""

    do: str
    folder: Path = Path()

    @property
    def log_folder(self) -> Path | None:
        return self.folder if self.folder != Path() else None


@dataclass(frozen=True, kw_only=True)
class ScriptedTrial(TrainJob):
    """A trial that does the function named in ``do``."""

    do: str = "epochs"
    folder: Path = Path()
    parameters: dict[str, Any]
    seed: int = 0
    rungs: tuple[float, ...] = ()
    epochs: int = 1
    waits: bool = False
    """Whether each report waits for a decision."""
    pause_after: int | None = None
    """The epoch after which the first attempt hangs."""


def scripted_trial(do: str, **settings: Any) -> ScriptedTrial:
    """Return a trial whose key is set by ``TrialScheduler``."""
    return ScriptedTrial(key=0, do=do, parameters={}, **settings)


@dataclass(frozen=True, kw_only=True)
class EpochReport(Report):
    """A report that says who sent it."""

    attempt: int
    pid: int


def make(context: WorkerContext) -> Runner:
    """Return a runner that does the function named in the job."""
    actions = {
        "epochs": epochs,
        "fail": fail,
        "wait": wait,
        "hang_once": hang_once,
        "stop_once": stop_once,
        "hold_the_interpreter_once": hold_the_interpreter_once,
        "take_long": take_long,
        "full_disk": full_disk,
        "sum": add,
        "one_fails": one_fails,
    }

    def run(job: Any, channel: Channel) -> Any:
        return actions[job.do](context, job, channel) | {"pid": os.getpid(), "rank": context.rank}

    return run


def make_badly(context: WorkerContext) -> Runner:
    raise ValueError("no image in /nowhere; give a folder with images")


def make_on_slot_0(context: WorkerContext) -> Runner:
    """Memory runs out on every slot but 0, which takes long to be set up."""
    if context.slot > 0:
        raise MemoryError("the GPU of this slot is full")
    time.sleep(LONG_S)
    return make(context)


def make_without_memory(context: WorkerContext) -> Runner:
    raise MemoryError("every GPU is full")


def epochs(context: WorkerContext, job: ScriptedTrial, channel: Channel) -> dict[str, Any]:
    """Counts epochs, going on from what an earlier attempt left in the folder."""
    state = job.folder / "epoch"
    done = int(state.read_text()) if state.exists() else 0
    for epoch in range(done + 1, job.epochs + 1):
        if context.rank == 0:
            state.write_text(str(epoch))
        channel.report(
            EpochReport(
                step=epoch,
                steps=job.epochs,
                epoch=epoch,
                epochs=job.epochs,
                progress=epoch / job.epochs,
                rung=job.waits,
                values={},
                train_s=0.0,
                evaluation_s=0.0,
                time_s=time.time(),
                attempt=job.attempt,
                pid=os.getpid(),
            )
        )
        if job.pause_after == epoch and job.attempt == 1:
            time.sleep(600)
    return {"epochs": job.epochs, "resumed_from": done}


def fail(context: WorkerContext, job: Job, channel: Channel) -> dict[str, Any]:
    raise ArithmeticError("the loss is nan\nat step 3")


def wait(context: WorkerContext, job: ScriptedJob, channel: Channel) -> dict[str, Any]:
    """Works until it is interrupted."""
    channel.log("begun")
    while not channel.interrupted():
        time.sleep(0.01)
    (job.folder / "checkpoint").write_text("saved")
    raise JobInterrupted


def hang_once(context: WorkerContext, job: Job, channel: Channel) -> dict[str, Any]:
    if job.attempt == 1:
        time.sleep(600)
    return {}


def stop_once(context: WorkerContext, job: Job, channel: Channel) -> dict[str, Any]:
    if job.attempt == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)  # another thread may take the signal: this one would go on for a moment
    return {}


def hold_the_interpreter_once(context: WorkerContext, job: Job, channel: Channel) -> dict[str, Any]:
    """No other thread of the process runs while this expression is matched: for ever."""
    if job.attempt == 1:
        re.match("(a+)+$", "a" * 60 + "b")
    return {}


def take_long(context: WorkerContext, job: Job, channel: Channel) -> dict[str, Any]:
    with channel.long_operation("writing a large checkpoint"):
        time.sleep(LONG_S)
    return {}


def full_disk(context: WorkerContext, job: Job, channel: Channel) -> dict[str, Any]:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/checkpoint.pt")


def add(context: WorkerContext, job: Job, channel: Channel) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    total = torch.tensor([context.rank + 1.0])
    dist.all_reduce(total)
    return {"sum": total.item(), "world_size": context.world_size}


def one_fails(context: WorkerContext, job: Job, channel: Channel) -> dict[str, Any]:
    """Rank 1 raises while rank 0 waits for it in a collective."""
    if context.rank == 1:
        raise ArithmeticError("only here")
    return add(context, job, channel)


class ListedTrials:
    """A source of given trials that keeps what it is told; also the search that ``run_trials`` waits for.

    Tests share slots, which never see one key twice: keys are counted on, and kept here from 0.
    """

    _first_keys = count(step=1000)

    def __init__(self, trials: list[ScriptedTrial]) -> None:
        self._first_key = next(self._first_keys)
        self._waiting = [replace(trial, key=self._first_key + index) for index, trial in enumerate(trials)]
        self.reports: dict[int, list[EpochReport]] = {}
        self.outcomes: dict[int, Outcome] = {}

    @property
    def scheduler(self) -> ListedTrials:
        return self

    def index(self, key: int) -> int:
        """Return the position of a trial in the list."""
        return key - self._first_key

    def next_job(self) -> Job | None:
        return self._waiting.pop(0) if self._waiting else None

    def exhausted(self) -> bool:
        return not self._waiting

    def on_report(self, key: int, report: Any) -> bool:
        self.reports.setdefault(self.index(key), []).append(report)
        return False

    def on_end(self, key: int, outcome: Outcome) -> None:
        assert self.index(key) not in self.outcomes, f"trial {key} ended twice"
        self.outcomes[self.index(key)] = outcome

    def on_tick(self) -> None:
        pass


@contextmanager
def patience(seconds: float, what: str) -> Iterator[Any]:
    """Yields a function that raises once the time is over: for loops that wait for something to become true."""
    until = time.monotonic() + seconds

    def again() -> bool:
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.05)
        return True

    yield again

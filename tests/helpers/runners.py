"""Runners for the tests of slots: what a task does is said in its payload."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeper.execution.worker import Channel, Interrupted, Runner, WorkerContext
from sweeper.records import Outcome, Report, Task


def make(context: WorkerContext) -> Runner:
    """A runner that does the function named in the payload."""
    actions = {"epochs": epochs, "fail": fail, "wait": wait, "hang_once": hang_once, "sum": add, "one_fails": one_fails}

    def run(task: Task, channel: Channel) -> dict[str, Any]:
        return actions[task.payload["do"]](context, task, channel) | {"pid": os.getpid(), "rank": context.rank}

    return run


def make_badly(context: WorkerContext) -> Runner:
    raise ValueError("no image in /nowhere; give a folder with images")


def epochs(context: WorkerContext, task: Task, channel: Channel) -> dict[str, Any]:
    """Counts epochs, going on from what an earlier attempt left in the folder."""
    state = Path(task.payload["folder"]) / "epoch"
    done = int(state.read_text()) if state.exists() else 0
    for epoch in range(done + 1, task.payload["epochs"] + 1):
        if context.rank == 0:
            state.write_text(str(epoch))
        rung = task.payload.get("rungs", False)
        channel.report({"step": epoch, "rung": rung, "attempt": task.attempt, "pid": os.getpid()})
        if task.payload.get("pause_after") == epoch and task.attempt == 1:
            time.sleep(600)
    return {"epochs": task.payload["epochs"], "resumed_from": done}


def fail(context: WorkerContext, task: Task, channel: Channel) -> dict[str, Any]:
    raise ArithmeticError("the loss is nan\nat step 3")


def wait(context: WorkerContext, task: Task, channel: Channel) -> dict[str, Any]:
    """Works until it is interrupted."""
    folder = Path(task.payload["folder"])
    channel.log("begun")
    while not channel.interrupted():
        time.sleep(0.01)
    (folder / "checkpoint").write_text("saved")
    raise Interrupted


def hang_once(context: WorkerContext, task: Task, channel: Channel) -> dict[str, Any]:
    if task.attempt == 1:
        time.sleep(600)
    return {}


def add(context: WorkerContext, task: Task, channel: Channel) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    total = torch.tensor([context.rank + 1.0])
    dist.all_reduce(total)
    return {"sum": total.item(), "world_size": context.world_size}


def one_fails(context: WorkerContext, task: Task, channel: Channel) -> dict[str, Any]:
    """Rank 1 raises while rank 0 waits for it in a collective."""
    if context.rank == 1:
        raise ArithmeticError("only here")
    return add(context, task, channel)


class TrialScheduler:
    """A source of given payloads that keeps what it is told."""

    def __init__(self, payloads: list[dict[str, Any]]) -> None:
        self._waiting = [Task(kind="train", key=key, attempt=1, payload=p) for key, p in enumerate(payloads)]
        self.reports: dict[int, list[Report]] = {}
        self.outcomes: dict[int, Outcome] = {}

    def next_task(self) -> Task | None:
        return self._waiting.pop(0) if self._waiting else None

    def exhausted(self) -> bool:
        return not self._waiting

    def on_report(self, key: int, report: Report) -> bool:
        self.reports.setdefault(key, []).append(report)
        return False

    def on_end(self, key: int, outcome: Outcome) -> None:
        assert key not in self.outcomes, f"trial {key} ended twice"
        self.outcomes[key] = outcome

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

"""The driver's side of tracking: each event of a sweep appears in MLflow exactly once, even if processes die.

The driver's ``Tracker`` only appends events to the sweep's outbox. Another process (``sender``) sends the events in
order, so that neither MLflow's import (5 s) nor an absent server delays the sweep. All records can be sent again: a run
is searched for by its tags before it is created, metrics carry the event's time, the rest is overwritten.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sweeper.front.rendering.table import markdown, rows
from sweeper.records import Front, FrontPoint, TrialRecord
from sweeper.tracking.events import (
    Event,
    FrontMember,
    FrontUpdated,
    HypervolumeChanged,
    MeasuredPoint,
    SweepEnded,
    SweepStarted,
    TrialEnded,
    TrialReported,
    TrialStarted,
)
from sweeper.tracking.moved import bring_home
from sweeper.tracking.outbox import Cursor, Outbox
from sweeper.tracking.runs import find_runs, find_store
from trainables.records import Point, Report

_RESTART_S = 10.0
_SENDER_CLOSE_S = 10.0
"""Seconds for the sender's present request."""

_logger = logging.getLogger(__name__)


class Tracker:
    """The driver's side. No method raises an error into the sweep, and only ``flush`` waits for MLflow, up to its
    timeout.

    Events already in the outbox are not added again, so a resumed sweep may repeat all events.
    """

    def __init__(self, folder: Path, tracking_uri: str | None, storage: Path, sweep_name: str, sweep_id: str) -> None:
        """Prepare to track a sweep.

        Args:
            folder: folder of the sweep.

        Raises:
            UserError: MLflow cannot use the tracking URI.
        """
        self._store = find_store(storage, tracking_uri)
        self.moved = bring_home(self._store)
        """A line for the user if the storage was moved or copied; None otherwise."""
        self._folder = folder.resolve()
        self._name = sweep_name
        self._sweep_id = sweep_id
        self._outbox = Outbox(folder)
        self._sender: subprocess.Popen[bytes] | None = None
        self._sender_started = -_RESTART_S
        self._lost: str | None = None
        self._open: set[int] = set()
        self._reports: set[tuple[int, int]] = set()
        self._ended: set[int] = set()
        self._hypervolumes: dict[int, float] = {}
        """Number of finished trials -> hypervolume."""
        self._front: FrontUpdated | None = None
        self._sender_lock = threading.Lock()  # events come from several threads
        self._outbox.mend()
        for entry in self._outbox.read():
            self._remember(entry.event)

    @property
    def shown_uri(self) -> str:
        """Return the URI of the store, without a password."""
        return self._store.shown_uri

    def _remember(self, event: Event) -> None:
        match event:
            case TrialStarted():
                self._open.add(event.trial)
            case TrialReported():
                self._reports.add((event.trial, event.report.step))
            case TrialEnded():
                self._ended.add(event.record.number)
                self._open.discard(event.record.number)
            case HypervolumeChanged():
                self._hypervolumes[event.finished] = event.hypervolume
            case FrontUpdated():
                self._front = event
            case SweepEnded():
                self._open.clear()

    def _add(self, event: Event) -> None:
        try:
            self._outbox.append(event)
        except OSError as error:
            self._lost = f"{self._outbox.path}: {error}; MLflow will miss the events until then"
            _logger.error("%s", self._lost)
            return
        self._remember(event)
        self._wake(b"\n")

    def sweep_started(self, spec_resolved: dict[str, Any], tags: dict[str, str]) -> None:
        """Record the start or a resume of the sweep.

        Args:
            tags: commit, versions and digests, for the parent run.
        """
        self._add(SweepStarted(spec=spec_resolved, tags={"mlflow.user": _user(), **tags}))

    def trial_started(
        self, number: int, parameters: dict[str, Any], seed: int, slot: int | None, tags: dict[str, str]
    ) -> None:
        """Record the start of a trial or of a further attempt."""
        if number not in self._ended:
            tags = {"mlflow.user": _user(), **tags}
            self._add(TrialStarted(trial=number, parameters=parameters, seed=seed, slot=slot, tags=tags))

    def trial_reported(self, number: int, report: Report) -> None:
        """Record a report after an evaluation; a step that a later attempt repeats is the same step."""
        if (number, report.step) not in self._reports:
            self._add(TrialReported(trial=number, report=report))

    def trial_ended(self, record: TrialRecord, costs: Mapping[str, float] = MappingProxyType({})) -> None:
        """Record the end of a trial that is complete, stopped or failed.

        Args:
            costs: further metrics by name.
        """
        if record.number not in self._ended:
            self._add(TrialEnded(record=record, costs=dict(costs)))

    def front_updated(self, front: Front) -> None:
        """Record a front whose files were written to ``<folder>/front``. Only the newest front is uploaded."""
        event = FrontUpdated(
            note=markdown(front, limit=6500),
            members=_members(front),
            table=rows(front),
            tests=tuple(
                MeasuredPoint(
                    trial=point.trial,
                    point=Point(weights=point.weights, strength=point.strength, values=point.values),
                )
                for point in front.points
                if point.trial is not None and point.values
            ),
        )
        self.hypervolume_changed(front)
        if event != self._front:
            self._add(event)

    def hypervolume_changed(self, front: Front) -> None:
        """Record the hypervolume after a finished trial, whether or not the front's files were written."""
        if self._hypervolumes.get(front.finished) != front.hypervolume:
            self._add(HypervolumeChanged(finished=front.finished, hypervolume=front.hypervolume))

    def sweep_ended(self, state: str, costs: Mapping[str, float] = MappingProxyType({})) -> None:
        """Record the end of a session; trials that have not ended are shown as interrupted.

        Args:
            state: ``complete``, ``failed`` or ``interrupted``.
            costs: costs of the sweep so far, further metrics by name.
        """
        self._add(SweepEnded(state=state, open=tuple(sorted(self._open)), costs=dict(costs)))

    def look_again(self) -> bool:
        """Have ``flush`` wait until the runs of the store were read again: it may have lost what it had.

        Returns:
            Whether there are events to send.
        """
        cursor = self._outbox.cursor()
        offset = cursor.offset if cursor.uri == self._store.shown_uri else 0
        # The sender sends the newest front once more, and then notes that no front waits.
        self._outbox.save_cursor(Cursor(uri=self._store.shown_uri, offset=offset, front_waits=True))
        return self._outbox.size() > 0

    def flush(self, timeout_s: float, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until MLflow has all events; return False if it does not at the timeout (see ``problem``)."""
        deadline = time.monotonic() + timeout_s
        self._wake(b"f")
        while not self._all_sent():
            if time.monotonic() > deadline or give_up():
                return False
            time.sleep(0.05)
            if self._sender is None or self._sender.poll() is not None:
                self._wake(b"f")
        return True

    def _all_sent(self) -> bool:
        cursor = self._outbox.cursor()
        same_store = cursor.uri == self._store.shown_uri
        return same_store and cursor.offset >= self._outbox.size() and not cursor.front_waits

    def problem(self) -> str | None:
        """Return a line about the records that MLflow lacks, and the reason; None if it lacks nothing."""
        cursor, refused = self._outbox.cursor(), self._folder / "tracking.rejected.jsonl"
        if cursor.problem:
            return f"MLflow at {self._store.shown_uri}: {cursor.problem}; nothing is lost, it is tried again"
        if self._lost is None and refused.exists():
            return f"MLflow at {self._store.shown_uri} refused an event: see {refused}"
        return self._lost

    def run_links(self) -> dict[str, str]:
        """Return name -> address of each page; empty if no server is known (see ``sweeper ui``)."""
        runs = find_runs(self._folder)
        return runs.links(self._store.shown_uri) if runs and self._store.is_server else {}

    def close(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """End the sender; events it has not sent stay in the outbox for the next sender."""
        if self._sender is None:
            return
        assert self._sender.stdin is not None
        with contextlib.suppress(OSError):
            self._sender.stdin.close()
        deadline = time.monotonic() + _SENDER_CLOSE_S
        while self._sender.poll() is None and time.monotonic() < deadline and not give_up():
            time.sleep(0.02)
        if self._sender.poll() is None:
            self._sender.kill()
            self._sender.wait()
        self._sender = None

    def _wake(self, message: bytes) -> None:
        with self._sender_lock:
            self._wake_locked(message)

    def _wake_locked(self, message: bytes) -> None:
        try:
            if self._sender is None or self._sender.poll() is not None:
                if time.monotonic() - self._sender_started < _RESTART_S:
                    return
                self._start_sender()
            assert self._sender is not None and self._sender.stdin is not None
            os.write(self._sender.stdin.fileno(), message)
        except OSError as error:
            # A full pipe (the sender is awake anyway) or a sender that just died (the next event starts another).
            _logger.info("MLflow sender: %s", error)

    def _start_sender(self) -> None:
        self._sender_started = time.monotonic()
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        with (self._folder / "tracking.log").open("ab") as log:
            # A session of its own: the terminal's Ctrl-C is for the driver, which tells the sender when to end.
            self._sender = subprocess.Popen(
                [sys.executable, "-m", "sweeper.tracking.sender"], stdin=subprocess.PIPE, stdout=log, stderr=log,
                cwd=self._folder, env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
            )  # fmt: skip
        assert self._sender.stdin is not None
        settings = {"uri": self._store.uri, "artifacts": self._store.artifacts, "name": self._name}
        settings |= {"folder": self._folder, "sweep_id": self._sweep_id}
        os.write(self._sender.stdin.fileno(), json.dumps(settings, default=str).encode() + b"\n")
        os.set_blocking(self._sender.stdin.fileno(), False)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _members(front: Front) -> tuple[FrontMember, ...]:
    """Return for each trial on the front the member that represents it.

    It is the knee, or else a member with a name, or else the strongest.
    """
    goals = [goal.metric for goal in front.goals]
    by_trial: dict[int, list[FrontPoint]] = {}
    for point in front.points:
        if point.member and point.trial is not None:
            by_trial.setdefault(point.trial, []).append(point)
    members = []
    for number, points in by_trial.items():
        first = max(points, key=lambda point: (point.name == "knee", point.name is not None, point.strength))
        others = [f"{point.name} at {point.strength:g}" for point in points if point.name and point is not first]
        members.append(
            FrontMember(
                trial=number,
                name="; ".join([first.name or "member", *others]),
                strength=first.strength,
                validation={goal: first.validation[goal] for goal in goals},
                test={goal: first.values[goal] for goal in goals} if first.values else {},
            )
        )
    return tuple(members)

"""The sender of tracking: reads a sweep's outbox and sends it to MLflow, in its own process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import sys
import time
from dataclasses import replace
from pathlib import Path

from sweeper.secrets import Redacting, without_secrets
from sweeper.tracking.events import FrontUpdated, SweepEnded
from sweeper.tracking.outbox import Cursor, Entry, Outbox
from sweeper.tracking.projection import Projection, mlflow_environment
from sweeper.tracking.runs import Store

_FRONT_EVERY_S = 15.0
"""Least seconds between uploads of the front."""
_GATHER_S = 0.3
_GATHER_MOST_S = 2.0
_RETRY_S = (0.5, 30.0)
_BATCH = 500

_logger = logging.getLogger(__name__)


class _Sender:
    """Moves events from the outbox to a projection, in order."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.outbox = Outbox(projection.folder)
        self.cursor = self.outbox.cursor()
        if self.cursor.uri != projection.store.shown_uri:
            self.cursor = Cursor(uri=projection.store.shown_uri)
        self.single_until = 0
        """Offset behind a batch that MLflow refused; its events are sent one at a time."""
        self.refused_at = -1
        """Offset of the newest batch that MLflow refused."""
        self.front: FrontUpdated | None = None
        self.front_sent_s = -_FRONT_EVERY_S
        self.hurry = False
        self.full = False
        """Whether the last step left events behind."""

    def step(self) -> bool:
        """Send the next events; return whether there may be more. Errors are MLflow's."""
        if self.projection.client is None:
            self._connect()
        single = self.cursor.offset < self.single_until
        entries = self.outbox.read(self.cursor.offset, 1 if single else _BATCH)
        events = [entry.event for entry in entries]
        self.full = len(entries) == _BATCH
        try:
            self.projection.send(events)
        except Exception as error:
            if not entries or not self.projection.refuses(error):
                raise
            if single and self.refused_at == self.cursor.offset:
                # Refused twice, the second time after MLflow's runs were read again: it must not block the others.
                self._set_aside(entries[0], error)
                return True
            self.single_until, self.refused_at = max(self.single_until, entries[-1].end), self.cursor.offset
            raise
        if entries:
            self.front = next((event for event in reversed(events) if isinstance(event, FrontUpdated)), self.front)
            if any(isinstance(event, SweepEnded) for event in events):
                self.hurry = True
                self.projection.disconnect()  # search runs again: a request answered too late may have left a duplicate
            self._save(offset=entries[-1].end)
            return True
        if self.front is not None and (self.hurry or time.monotonic() - self.front_sent_s >= _FRONT_EVERY_S):
            self.projection.send_front(self.front)
            self.front, self.front_sent_s = None, time.monotonic()
        if self.cursor.problem or self.cursor.front_waits != (self.front is not None):
            self._save()
        return False

    def failed(self, error: Exception) -> None:
        """Note an outage; the next step connects again and reads MLflow's runs."""
        self.projection.disconnect()
        _logger.warning("%s", error, exc_info=error)
        reason = f"{type(error).__name__}: {self.projection.store.problem(error)}"
        if isinstance(error, ModuleNotFoundError):
            reason += f"; install {error.name} where sweeper is, or name another driver: postgresql+psycopg2://..."
        with contextlib.suppress(OSError):  # a full disk: the problem is saved at the next outage
            self._save(problem=reason)

    def _connect(self) -> None:
        self.projection.connect()
        sent = [entry.event for entry in self.outbox.read() if entry.end <= self.cursor.offset]
        if self.projection.lacks(sent):
            self.cursor = replace(self.cursor, offset=0)
        # The end of the last sender may have interrupted an upload: the newest front is sent once more.
        self.front = next((event for event in reversed(sent) if isinstance(event, FrontUpdated)), None)

    def _set_aside(self, entry: Entry, error: Exception) -> None:
        said = without_secrets(str(error), self.projection.store.uri)
        _logger.error("refused by MLflow, set aside in tracking.rejected.jsonl: %s", said)
        with (self.projection.folder / "tracking.rejected.jsonl").open("a") as file:
            file.write(json.dumps({"error": said, "event": entry.line}) + "\n")
        self._save(offset=entry.end)

    def _save(self, offset: int | None = None, problem: str | None = None) -> None:
        waits, offset = self.front is not None, self.cursor.offset if offset is None else offset
        self.cursor = replace(self.cursor, offset=offset, problem=problem, front_waits=waits)
        self.outbox.save_cursor(self.cursor)


class _Wakes:
    """Messages of the driver on standard input: a newline for each event, ``f`` to hurry; its end ends the sender."""

    def __init__(self) -> None:
        self.ended = False

    def wait(self, timeout_s: float | None) -> bytes:
        """Return the messages, after at most ``timeout_s`` seconds."""
        if not select.select([0], [], [], timeout_s)[0]:
            return b""
        message = os.read(0, 65536)
        self.ended = not message
        return message

    def hurry_within(self, timeout_s: float) -> bool:
        """Wait; return True, and early, when asked to hurry or to end."""
        deadline = time.monotonic() + timeout_s
        while not self.ended and (rest := deadline - time.monotonic()) > 0:
            if b"f" in self.wait(rest):
                return True
        return self.ended


def _serve(sender: _Sender, wakes: _Wakes) -> None:
    retry_s = _RETRY_S[0]
    while not wakes.ended:
        began_s = time.monotonic()
        try:
            more = sender.step()
        except Exception as error:
            sender.failed(error)
            if wakes.hurry_within(retry_s):
                sender.hurry = True
            retry_s = min(2 * retry_s, _RETRY_S[1])
            continue
        retry_s = _RETRY_S[0]
        if more:
            # MLflow takes a call per trial, with any number of metrics: in a fast sweep, the sender gathers events for
            # as long as the last calls took.
            took_s = time.monotonic() - began_s
            if not sender.hurry and not sender.full and wakes.hurry_within(min(took_s, _GATHER_MOST_S)):
                sender.hurry = True
            continue
        sender.hurry = False
        message = wakes.wait(None if sender.front is None else 1.0)
        sender.hurry = b"f" in message or (bool(message) and wakes.hurry_within(_GATHER_S))


def main() -> None:
    """Serve the sweep that the first line of standard input describes, until standard input is closed."""
    os.nice(5)
    text = b""
    while not text.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return
        text += byte
    settings = json.loads(text)
    artifacts = Path(settings["artifacts"]) if settings["artifacts"] else None
    _log_without_secrets(settings["uri"])
    folder, wakes = Path(settings["folder"]), _Wakes()
    with (folder / "tracking.lock").open("a") as lock:
        while not wakes.ended:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # the sender of a killed driver is about to end
                wakes.wait(0.2)
        wakes.wait(None)
        store = Store(uri=settings["uri"], artifacts=artifacts)
        with mlflow_environment():
            _serve(_Sender(Projection(folder, settings["name"], settings["sweep_id"], store)), wakes)


def _log_without_secrets(uri: str) -> None:
    """Log warnings to standard error; errors of MLflow's repeat the address of the store with its password."""
    handler = logging.StreamHandler()
    handler.setFormatter(Redacting("%(asctime)s %(name)s %(levelname)s %(message)s", uri))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    os.environ["MLFLOW_CONFIGURE_LOGGING"] = "false"  # MLflow's messages take the way of all others
    sys.excepthook = lambda kind, error, trace: _logger.error("the sender ends", exc_info=(kind, error, trace))


if __name__ == "__main__":
    main()

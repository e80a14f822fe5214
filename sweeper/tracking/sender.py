"""The sending side of tracking: reads a sweep's outbox and tells MLflow, in a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import logging
import os
import select
import time
from dataclasses import replace
from pathlib import Path

from sweeper.tracking.outbox import Cursor, Event, Outbox
from sweeper.tracking.projection import Projection, mlflow_environment
from sweeper.tracking.runs import Store

_FRONT_EVERY_S = 15.0
"""The interactive front is 5 MB: not after every trial of a fast sweep."""
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
        self.one_by_one_until = 0
        """Offset behind events of which MLflow refused one."""
        self.refused_at = -1
        self.front: Event | None = None
        self.front_sent_s = -_FRONT_EVERY_S
        self.hurry = False
        self.full = False
        """Whether the last step left events behind."""

    def step(self) -> bool:
        """Sends the next events; returns whether there may be more. Raises whatever MLflow raises."""
        if self.projection.client is None:
            self._connect()
        alone = self.cursor.offset < self.one_by_one_until
        read = self.outbox.read(self.cursor.offset, 1 if alone else _BATCH)
        events = [event for event, _ in read]
        self.full = len(read) == _BATCH
        try:
            self.projection.send(events)
        except Exception as error:
            if not read or not self.projection.refuses(error):
                raise
            if alone and self.refused_at == self.cursor.offset:
                # Refused twice, the second time by an MLflow just looked at anew: it must not hold up the others.
                self._set_aside(*read[0], error)
                return True
            self.one_by_one_until, self.refused_at = max(self.one_by_one_until, read[-1][1]), self.cursor.offset
            raise
        if read:
            self.front = next((event for event in reversed(events) if event["kind"] == "front"), self.front)
            if any(event["kind"] == "sweep_end" for event in events):
                self.hurry = True
                self.projection.disconnect()  # look once more: a request answered too late may have left a twin
            self._save(offset=read[-1][1])
            return True
        if self.front is not None and (self.hurry or time.monotonic() - self.front_sent_s >= _FRONT_EVERY_S):
            self.projection.send_front(self.front)
            self.front, self.front_sent_s = None, time.monotonic()
        if self.cursor.problem or self.cursor.front_waits != (self.front is not None):
            self._save()
        return False

    def failed(self, error: Exception) -> None:
        """Remembers an outage; the next step connects anew and looks at what MLflow has."""
        self.projection.disconnect()
        _logger.warning("%s", error, exc_info=error)
        self._save(problem=f"{type(error).__name__}: {error}".splitlines()[0][:300])

    def _connect(self) -> None:
        self.projection.connect()
        told = [event for event, offset in self.outbox.read() if offset <= self.cursor.offset]
        if self.projection.lacks(told):
            self.cursor = replace(self.cursor, offset=0)
        # An upload may have been cut short by whatever ended the last sender: the newest front is sent once more.
        self.front = next((event for event in reversed(told) if event["kind"] == "front"), None)

    def _set_aside(self, event: Event, offset: int, error: Exception) -> None:
        _logger.error("refused by MLflow, set aside in tracking.rejected.jsonl: %s", error)
        with (self.projection.folder / "tracking.rejected.jsonl").open("a") as file:
            file.write(json.dumps({"error": str(error), "event": event}) + "\n")
        self._save(offset=offset)

    def _save(self, offset: int | None = None, problem: str | None = None) -> None:
        waits, offset = self.front is not None, self.cursor.offset if offset is None else offset
        self.cursor = replace(self.cursor, offset=offset, problem=problem, front_waits=waits)
        self.outbox.save_cursor(self.cursor)


class _Wakes:
    """What the driver writes to our standard input: newlines at events, ``f`` to hurry; its end is our end."""

    def __init__(self) -> None:
        self.ended = False

    def wait(self, timeout_s: float | None) -> bytes:
        """Returns what came, after at most ``timeout_s``."""
        if not select.select([0], [], [], timeout_s)[0]:
            return b""
        message = os.read(0, 65536)
        self.ended = not message
        return message

    def hurry_within(self, timeout_s: float) -> bool:
        """Waits; returns early, and True, when asked to hurry (or to end)."""
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
            # MLflow is told in calls per trial, however much they say: where a sweep is fast, as long as the last ones
            # took is waited for more to say in the next.
            took_s = time.monotonic() - began_s
            if not sender.hurry and not sender.full and wakes.hurry_within(min(took_s, _GATHER_MOST_S)):
                sender.hurry = True
            continue
        sender.hurry = False
        message = wakes.wait(None if sender.front is None else 1.0)
        sender.hurry = b"f" in message or (bool(message) and wakes.hurry_within(_GATHER_S))


def main() -> None:
    """Serves the sweep described by the first line of standard input until that is closed."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    os.nice(5)
    text = b""
    while not text.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return
        text += byte
    settings = json.loads(text)
    artifacts = Path(settings["artifacts"]) if settings["artifacts"] else None
    folder, wakes = Path(settings["folder"]), _Wakes()
    with (folder / "tracking.lock").open("a") as lock:
        while not wakes.ended:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # the sender of a killed driver is about to end
                wakes.wait(0.2)
        with contextlib.suppress(ImportError):  # said when it is needed
            importlib.import_module("mlflow")  # takes seconds, while the sweep's workers start
        wakes.wait(None)
        store = Store(uri=settings["uri"], artifacts=artifacts)
        with mlflow_environment():
            _serve(_Sender(Projection(folder, settings["name"], settings["sweep_id"], store)), wakes)


if __name__ == "__main__":
    main()

"""What waits to be sent to MLflow: events as JSON lines on disk, and how far they were sent.

One process appends (the driver), one reads (the sender of ``tracking``). An event counts once its line is complete and
on disk; a line torn by a kill was never acknowledged and is cut off when the outbox is opened again for appending.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """How far a store has been told."""

    uri: str | None = None
    """The store that was told; another store starts from the first event."""
    offset: int = 0
    """Bytes of the outbox that were sent."""
    front_waits: bool = False
    """The newest front's files are still to be uploaded."""
    problem: str | None = None
    """Why nothing can be sent just now."""


class Outbox:
    """The event lines of one sweep, ``<folder>/tracking.jsonl``, and their cursor, ``<folder>/tracking.cursor``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tracking.jsonl"
        self._cursor_path = folder / "tracking.cursor"
        self._lock = threading.Lock()

    def mend(self) -> None:
        """Cuts off a torn last line. Only for the process that appends."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            text = file.read()
            if not text.endswith(b"\n"):
                file.truncate(text.rfind(b"\n") + 1)

    def append(self, event: Event) -> None:
        """Adds one event with the time of now and returns when it is on disk. Raises OSError."""
        line = json.dumps({"time": int(time.time() * 1000), **event}, default=str) + "\n"
        with self._lock, self.path.open("ab") as file:
            start = file.tell()
            try:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # A full disk may take half a line; the next event must not be glued to it.
                os.ftruncate(file.fileno(), start)
                raise

    def size(self) -> int:
        """Bytes of complete and torn lines."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self, offset: int = 0, limit: int | None = None) -> list[tuple[Event, int]]:
        """Returns up to ``limit`` events from ``offset``, each with the offset behind it; stops at a torn line."""
        events: list[tuple[Event, int]] = []
        if not self.path.exists():
            return events
        with self.path.open("rb") as file:
            file.seek(offset)
            while limit is None or len(events) < limit:
                line = file.readline()
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                events.append((_parse(line), offset))
        return events

    def cursor(self) -> Cursor:
        """The cursor as last saved; at the start where there is none."""
        try:
            return Cursor(**json.loads(self._cursor_path.read_text()))
        except FileNotFoundError:
            return Cursor()

    def save_cursor(self, cursor: Cursor) -> None:
        """Replaces the cursor in one step."""
        replace_text(self._cursor_path, json.dumps(asdict(cursor)))


def _parse(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    # Kept, so that the sender reports the line it cannot understand.
    return event if isinstance(event, dict) else {"kind": "unreadable", "line": line.decode(errors="replace")}


def replace_text(path: Path, text: str) -> None:
    """Writes ``path`` so that a reader sees the old or the new text, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)

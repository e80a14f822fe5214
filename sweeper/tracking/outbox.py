"""What waits to be sent to MLflow: events as JSON lines on disk, and how far they were sent.

One process appends (the driver), one reads (the sender of ``tracking``). An event counts once its line is complete and
on disk; a line torn by a kill was never acknowledged and is cut off when the outbox is opened again for appending.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.storage.files import read_if_whole, replace_text
from sweeper.tracking.events import Event, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A complete line of the outbox."""

    event: Event
    line: dict[str, Any]
    """The event as it stands on disk."""
    end: int
    """Offset in bytes behind the line."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Which part of the outbox a store has been sent."""

    uri: str | None = None
    """Of the store; another store starts from the first event."""
    offset: int = 0
    """Bytes of the outbox that were sent."""
    front_waits: bool = False
    """Whether the newest front's files are still to be uploaded."""
    problem: str | None = None
    """Why nothing can be sent now."""


class Outbox:
    """The event lines of one sweep, ``<folder>/tracking.jsonl``, and their cursor, ``<folder>/tracking.cursor``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tracking.jsonl"
        self._cursor_path = folder / "tracking.cursor"
        self._lock = threading.Lock()

    def mend(self) -> None:
        """Cut off a torn last line. Only for the process that appends."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            text = file.read()
            if not text.endswith(b"\n"):
                file.truncate(text.rfind(b"\n") + 1)

    def append(self, event: Event) -> None:
        """Add one event; it is on disk when this returns. Raise OSError."""
        line = json.dumps(to_json(event), default=str) + "\n"
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
        """Return the bytes of complete and torn lines."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self, offset: int = 0, limit: int | None = None) -> list[Entry]:
        """Return up to ``limit`` entries from ``offset`` on; a torn line ends them."""
        entries: list[Entry] = []
        if not self.path.exists():
            return entries
        with self.path.open("rb") as file:
            file.seek(offset)
            while limit is None or len(entries) < limit:
                text = file.readline()
                if not text.endswith(b"\n"):
                    break
                offset += len(text)
                line = _parse(text)
                entries.append(Entry(event=from_json(line), line=line, end=offset))
        return entries

    def cursor(self) -> Cursor:
        """Return the cursor as last saved; at the start where there is none, and where the file is damaged."""
        saved = read_if_whole(self._cursor_path)
        if saved is None or not isinstance(saved.get("offset", 0), int):
            return Cursor()
        try:
            return Cursor(**saved)
        except TypeError:
            return Cursor()

    def save_cursor(self, cursor: Cursor) -> None:
        """Replace the cursor in one step."""
        replace_text(self._cursor_path, json.dumps(asdict(cursor)))


def _parse(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    # Kept, so that the sender reports the line that nobody can read.
    return line if isinstance(line, dict) else {"kind": "unreadable", "line": text.decode(errors="replace")}

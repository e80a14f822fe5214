"""The outbox of tracking: events as JSON lines on disk, and how many of them were sent to MLflow.

One process appends (the driver), one reads (the sender of ``tracking``). An event counts when its line is complete and
on disk. A line that a kill has left incomplete was never acknowledged and is removed when the outbox is opened again
for appending.
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
    """The event as stored on disk."""
    end: int
    """Offset in bytes behind the line."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The part of the outbox that a store has received."""

    uri: str | None = None
    """URI of the store; another store starts from the first event."""
    offset: int = 0
    """Number of bytes of the outbox that were sent."""
    front_waits: bool = False
    """Whether the newest front's files have not been uploaded yet."""
    problem: str | None = None
    """Reason why nothing can be sent now; None if there is none."""


class Outbox:
    """The event lines of one sweep, ``<folder>/tracking.jsonl``, and their cursor, ``<folder>/tracking.cursor``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tracking.jsonl"
        self._cursor_path = folder / "tracking.cursor"
        self._lock = threading.Lock()

    def mend(self) -> None:
        """Remove an incomplete last line. Only the process that appends may call this."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            text = file.read()
            if not text.endswith(b"\n"):
                file.truncate(text.rfind(b"\n") + 1)

    def append(self, event: Event) -> None:
        """Add one event; it is on disk when this returns.

        Raises:
            OSError: the disk fails.
        """
        line = json.dumps(to_json(event), default=str) + "\n"
        with self._lock, self.path.open("ab") as file:
            start = file.tell()
            try:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # A full disk may accept half a line; the next event must not be appended to it.
                os.ftruncate(file.fileno(), start)
                raise

    def size(self) -> int:
        """Return the size of the outbox in bytes, including an incomplete last line."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self, offset: int = 0, limit: int | None = None) -> list[Entry]:
        """Return up to ``limit`` entries from ``offset`` on; an incomplete line ends them."""
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
        """Return the last saved cursor; one at the start if there is none or the file is damaged."""
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
    # Kept, so that the sender reports the unreadable line.
    return line if isinstance(line, dict) else {"kind": "unreadable", "line": text.decode(errors="replace")}

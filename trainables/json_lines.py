"""Records as JSON lines on disk, which survive a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record; it is on disk when this returns. A line that a kill has cut off is ended first.

    Raise OSError, with the path, where the disk does not take it: nothing of the line is left then.
    """
    line = json.dumps(record).encode() + b"\n"
    try:
        with path.open("ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end > 0:
                file.seek(end - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            try:
                rest = memoryview(line)
                while rest:  # a disk that is getting full takes a part
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records in order; none where there is no file. Lines that a kill has cut off or that are damaged do
    not count."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    records: list[dict[str, Any]] = []
    for line in content.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records

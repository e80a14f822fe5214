"""Records as JSON lines on disk, which survive a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record; it is on disk when this returns. An incomplete last line, left by a kill, is ended first.

    Raises:
        OSError: the disk fails; the error names the path, and no part of the line is left.
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
                while rest:  # a disk that is getting full accepts a part
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records in order; empty if there is no file. Incomplete and damaged lines are skipped."""
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

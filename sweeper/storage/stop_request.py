"""A request to stop the session of a sweep, from any machine that sees its folder: ``sweeper stop NAME``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sweeper.storage.files import replace_text

STOP_FILE = "stop.request"
LOOK_S = 1.0
"""Seconds between looks for a request."""


def request_stop(folder: Path) -> None:
    """Ask the process that runs the sweep in a folder to stop as after SIGTERM."""
    replace_text(folder / STOP_FILE, "stop\n")


def withdraw_request(folder: Path) -> None:
    """Remove a request: it holds for the session to which it was made."""
    (folder / STOP_FILE).unlink(missing_ok=True)


class StopRequests:
    """Context manager: calls ``stop`` once, on a thread, when a request appears."""

    def __init__(self, folder: Path, stop: Callable[[], object]) -> None:
        self._path, self._stop = folder / STOP_FILE, stop
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="requests to stop")

    def __enter__(self) -> StopRequests:
        withdraw_request(self._path.parent)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            withdraw_request(self._path.parent)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            with suppress(OSError):  # the storage is away: a signal still stops the sweep
                if self._path.exists():
                    self._stop()
                    return

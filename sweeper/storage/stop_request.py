"""A request to stop the session of a sweep, from any machine that sees its folder: ``sweeper stop NAME``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from sweeper.errors import UnavailableError
from sweeper.storage.files import replace_text
from sweeper.storage.sweep_folder import SweepFolder

STOP_FILE = "stop.request"
LOOK_S, LOOK_IN_BUCKET_S = 1.0, 10.0
"""Seconds between looks for a request; each look into a bucket has a price."""


def request_stop(folder: SweepFolder) -> None:
    """Ask the process that runs a sweep to stop as after SIGTERM."""
    if folder.remote is None:
        replace_text(folder.path / STOP_FILE, "stop\n")
    else:
        folder.remote.bucket.write(f"{folder.name}/{STOP_FILE}", b"stop\n")


def withdraw_request(folder: SweepFolder) -> None:
    """Remove a request: it holds for the session to which it was made."""
    if folder.remote is None:
        (folder.path / STOP_FILE).unlink(missing_ok=True)
    else:
        folder.remote.bucket.remove([f"{folder.name}/{STOP_FILE}"])


def _is_requested(folder: SweepFolder) -> bool:
    if folder.remote is None:
        return (folder.path / STOP_FILE).exists()
    return folder.remote.bucket.stamp(f"{folder.name}/{STOP_FILE}") is not None


class StopRequests:
    """Context manager: calls ``stop`` once, on a thread, when a request appears."""

    def __init__(self, folder: SweepFolder, stop: Callable[[], object]) -> None:
        self._folder, self._stop = folder, stop
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="requests to stop")

    def __enter__(self) -> StopRequests:
        withdraw_request(self._folder)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError, UnavailableError):
            withdraw_request(self._folder)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S if self._folder.remote is None else LOOK_IN_BUCKET_S):
            with suppress(OSError, UnavailableError):  # the storage is away: a signal still stops the sweep
                if _is_requested(self._folder):
                    self._stop()
                    return

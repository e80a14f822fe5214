"""The files of the front, kept fresh while a sweep runs without holding it up."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from sweeper.front.correlation import correlations
from sweeper.front.report.table import table
from sweeper.records import Front

SHARE_OF_TIME = 0.05
"""At most this share of the driver's time goes into drawing; picture and page take about a second."""


class FrontFiles:
    """Builds and draws the newest front on a thread of its own, then tells ``written``."""

    def __init__(self, folder: Path, written: Callable[[Front], None]) -> None:
        self._folder, self._written = folder, written
        self._newest: Callable[[], Front] | None = None
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._draw, daemon=True, name="front files")
        self._thread.start()

    def offer(self, build: Callable[[], Front]) -> None:
        """Returns at once; a newer front replaces one that still waits."""
        self._newest = build
        self._wake.set()

    def write(self, front: Front) -> None:
        """Draws this one now."""
        self.close()
        write_front(front, self._folder)
        self._written(front)

    def close(self) -> None:
        """Lets a drawing under way finish; one that waits is dropped."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _draw(self) -> None:
        # Takes seconds: better while slots warm up than at the first trials' ends.
        import matplotlib.figure  # noqa: F401
        import plotly.subplots  # noqa: F401

        while True:
            self._wake.wait()
            self._wake.clear()
            build, self._newest = self._newest, None
            if self._closed:
                return
            if build is None:
                continue
            started_s = time.monotonic()
            front = build()
            write_front(front, self._folder)
            self._written(front)
            pause_until = time.monotonic() + (time.monotonic() - started_s) * (1 / SHARE_OF_TIME - 1)
            while not self._closed and time.monotonic() < pause_until:
                time.sleep(0.2)


def write_front(front: Front, folder: Path) -> None:
    """Writes front.json, front.csv, front.png, front.html and proxy.json (rank correlations of the search goal with
    the test sets) into ``folder``, each replaced in one step.

    Takes about a second (several the first time, when matplotlib and plotly are imported). Raises OSError.
    """
    from sweeper.front.report.html import page
    from sweeper.front.report.plot import picture

    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("front.json", table(front, "json").encode()),
        ("front.csv", table(front, "csv").encode()),
        ("front.png", picture(front)),
        ("front.html", page(front).encode()),
        ("proxy.json", (json.dumps([asdict(one) for one in correlations(front)], indent=2) + "\n").encode()),
    ):
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)

"""The files of the front, kept fresh while a sweep runs without holding it up."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import UnavailableError
from sweeper.front.correlation import correlations
from sweeper.front.rendering.concept import shown_points
from sweeper.front.rendering.table import table
from sweeper.records import Front, PointName
from sweeper.storage.files import write_bytes, write_text

if TYPE_CHECKING:
    from trainables.evaluation.retrieved import Retrieved

SHARE_OF_TIME = 0.05
"""At most this share of the driver's time goes into drawing; plot and HTML page take about a second."""


_logger = logging.getLogger(__name__)


class FrontFiles:
    """Builds and draws the newest front on its own thread, then calls ``written``."""

    def __init__(self, folder: Path, written: Callable[[Front], None]) -> None:
        self._folder, self._written = folder, written
        self._newest: Callable[[], Front] | None = None
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._draw, daemon=True, name="front files")
        self._thread.start()

    def offer(self, build: Callable[[], Front]) -> None:
        """Return at once; a newer front replaces one that still waits."""
        self._newest = build
        self._wake.set()

    def close(self) -> None:
        """Let a drawing under way finish; a front that waits is dropped. To be called once."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _draw(self) -> None:
        # These imports take seconds: better while slots warm up than when the first trials end.
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
            try:
                front = build()
                write_front(front, self._folder)
                self._written(front)
            except (OSError, UnavailableError):
                # The last front of the session is drawn by the sweep itself, which says so if it cannot be written.
                _logger.warning("the front cannot be written now", exc_info=True)
            pause_until = time.monotonic() + (time.monotonic() - started_s) * (1 / SHARE_OF_TIME - 1)
            while not self._closed and time.monotonic() < pause_until:
                time.sleep(0.2)


def write_front(front: Front, folder: Path, retrieved_path: Callable[[PointName], Path] | None = None) -> None:
    """Write front.json, front.csv, front.png, strip.png, curves.png, front.html and proxy.json into ``folder``, each
    replaced in one step; concept.png where retrievals are drawn. proxy.json has rank correlations of the search goal
    with the test sets.

    ``retrieved_path``: where what is drawn of a point's retrievals lies, if its task draws them.

    Takes about a second (several the first time, when matplotlib and plotly are imported). Raise OSError.
    """
    from sweeper.front.rendering.concept import concept
    from sweeper.front.rendering.curves import curves
    from sweeper.front.rendering.html import html_page
    from sweeper.front.rendering.plot import plot
    from sweeper.front.rendering.strip import strip

    rank_correlations = [asdict(correlation) for correlation in correlations(front)]
    write_text(folder / "front.json", table(front, "json"))
    write_text(folder / "front.csv", table(front, "csv"))
    write_bytes(folder / "front.png", plot(front))
    write_bytes(folder / "strip.png", strip(front))
    over_strength = curves(front)
    if over_strength is not None:
        write_bytes(folder / "curves.png", over_strength)
    drawn = None if retrieved_path is None else concept(front, _retrieved(front, retrieved_path))
    if drawn is not None:
        write_bytes(folder / "concept.png", drawn)
    write_text(folder / "front.html", html_page(front, over_strength, drawn))
    write_text(folder / "proxy.json", json.dumps(rank_correlations, indent=2) + "\n")


def _retrieved(front: Front, path_of: Callable[[PointName], Path]) -> dict[PointName, Retrieved]:
    """Return what is drawn of retrievals, of the points that have such a file."""
    from trainables.evaluation.retrieved import Retrieved

    found = {}
    for point in shown_points(front):
        path = path_of(point.point_name)
        if path.exists():
            found[point.point_name] = Retrieved.read(path)
    return found

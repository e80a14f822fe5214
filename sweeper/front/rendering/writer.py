"""The files of the front, kept up to date while a sweep runs, without delaying it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from sweeper.errors import UnavailableError
from sweeper.front.correlation import correlations
from sweeper.front.rendering.concept import shown_points
from sweeper.front.rendering.table import table
from sweeper.records import Front, PointName
from sweeper.storage.files import write_bytes, write_text

if TYPE_CHECKING:
    from sweeper.front.search_state import SearchState
    from trainables.evaluation.retrieved import Retrieved

    Build = Callable[[], tuple[Front, SearchState]]

SHARE_OF_TIME = 0.05
"""Largest share of the driver's time for drawing; all files take about a second."""
PAGE_EVERY_S = 10.0
"""Least seconds between two pages while trials report; the page reloads itself every 15 s."""

Which = Literal["front", "strip", "curves", "concept"]
PICTURES: tuple[Which, ...] = get_args(Which)

_logger = logging.getLogger(__name__)


class FrontFiles:
    """Builds and draws the newest front on its own thread, then calls ``written``."""

    def __init__(self, folder: Path, written: Callable[[Front], None]) -> None:
        self._folder, self._written = folder, written
        self._newest: Build | None = None
        self._newest_page: Build | None = None
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._draw, daemon=True, name="front files")
        self._thread.start()

    def offer(self, build: Build) -> None:
        """Have all files written; return at once. A newer front replaces a waiting one."""
        self._newest = build
        self._wake.set()

    def offer_page(self, build: Build) -> None:
        """Have only the page written, at most every ``PAGE_EVERY_S``; ``written`` is not called."""
        self._newest_page = build
        self._wake.set()

    def close(self) -> None:
        """Let the present drawing finish; a waiting front is dropped. To be called once."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _draw(self) -> None:
        front_from_s = page_from_s = 0.0
        while not self._closed:
            now_s = time.monotonic()
            if self._newest is not None and now_s >= front_from_s:
                build, self._newest, self._newest_page = self._newest, None, None
                self._attempt(build, whole=True)
            elif self._newest_page is not None and now_s >= page_from_s:
                build, self._newest_page = self._newest_page, None
                self._attempt(build, whole=False)
            else:
                waits = self._newest is not None or self._newest_page is not None
                self._wake.wait(0.2 if waits else None)
                self._wake.clear()
                continue
            end_s = time.monotonic()
            front_from_s = end_s + (end_s - now_s) * (1 / SHARE_OF_TIME - 1)
            page_from_s = max(front_from_s, end_s + PAGE_EVERY_S)

    def _attempt(self, build: Build, *, whole: bool) -> None:
        try:
            front, search = build()
            if whole:
                write_front(front, self._folder, search=search)
                self._written(front)
            else:
                write_page(front, self._folder, search)
        except (OSError, UnavailableError):
            # The sweep itself draws the last front of the session and reports if it cannot be written.
            _logger.warning("the front cannot be written now", exc_info=True)


def write_front(
    front: Front,
    folder: Path,
    retrieved_path: Callable[[PointName], Path] | None = None,
    search: SearchState | None = None,
) -> None:
    """Write all files of the front into ``folder``, each replaced in one step.

    They are front.json, front.csv, front.png, strip.png, curves.png, front.html and proxy.json (rank correlations of
    the search goal with the test sets), and concept.png if retrievals are drawn. This takes about a second (several the
    first time, when matplotlib is imported).

    Args:
        retrieved_path: returns the file of a point's retrievals, if its task draws them.
        search: the study behind the front, for further panels of the page.

    Raises:
        OSError: a file cannot be written.
    """
    rank_correlations = [asdict(correlation) for correlation in correlations(front)]
    write_text(folder / "front.json", table(front, "json"))
    write_text(folder / "front.csv", table(front, "csv"))
    for which in PICTURES:
        drawn = picture(front, which, retrieved_path)
        if drawn is not None:
            write_bytes(folder / f"{which}.png", drawn)
    write_page(front, folder, search)
    write_text(folder / "proxy.json", json.dumps(rank_correlations, indent=2) + "\n")


def picture(front: Front, which: Which, retrieved_path: Callable[[PointName], Path] | None = None) -> bytes | None:
    """Return a picture of the front as PNG; None if nothing was measured that it would show.

    Args:
        retrieved_path: returns the file of a point's retrievals, if its task draws them.
    """
    if which == "front":
        from sweeper.front.rendering.plot import plot

        return plot(front)
    if which == "strip":
        from sweeper.front.rendering.strip import strip

        return strip(front)
    if which == "curves":
        from sweeper.front.rendering.curves import curves

        return curves(front)
    from sweeper.front.rendering.concept import concept

    return None if retrieved_path is None else concept(front, _retrieved(front, retrieved_path))


def write_page(front: Front, folder: Path, search: SearchState | None) -> None:
    """Write front.html with the pictures in ``folder``; takes some hundredths of a second.

    Raises:
        OSError: the file cannot be written.
    """
    from sweeper.front.rendering.page.page import html_page

    over_strength, drawn = (_bytes(folder / name) for name in ("curves.png", "concept.png"))
    write_text(folder / "front.html", html_page(front, search, over_strength=over_strength, drawn=drawn))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _retrieved(front: Front, path_of: Callable[[PointName], Path]) -> dict[PointName, Retrieved]:
    """Return the retrievals of the points that have a file of them."""
    from trainables.evaluation.retrieved import Retrieved

    found = {}
    for point in shown_points(front):
        path = path_of(point.point_name)
        if path.exists():
            found[point.point_name] = Retrieved.read(path)
    return found

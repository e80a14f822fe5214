"""The live view of a sweep as lines that fit a terminal of any size. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from sweeper.layout import cut

EPOCH_WIDTH = 9
"""Width of ``starting``, and of ``12.3/100``."""
BAR_WIDTH = 30
SHORTEST_BAR = 6
SHORTEST_NAME = 8
FEWEST_RUNNING = 3
"""Least number of running trials in the view, even in a low terminal."""


@dataclass(frozen=True)
class Line:
    text: str
    style: str = ""
    """Style for rich: a colour, ``bold`` or ``dim``."""


@dataclass(frozen=True)
class RunningTrial:
    number: int
    epoch: str
    goals: tuple[str, ...]
    """Goals with three decimals; empty before the first report."""
    about: str
    """Parameters of the trial."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Content of the live view."""

    name: str
    finished: int
    """Number of finished trials of the search."""
    planned: int
    failed: int
    time: str
    """Time since the session began, and the remaining time."""
    activity: str | None
    """Activity that the sweep waits for."""
    cost: str | None
    floor: str | None
    """Text about the noise floor."""
    goals: tuple[str, ...]
    """Short names of the goals."""
    running: Sequence[RunningTrial] = ()
    best: Sequence[str] = ()
    failures: Sequence[str] = field(default=())


def frame(shown: Snapshot, width: int, height: int) -> list[Line]:
    """Return at most ``height`` lines of at most ``width`` characters.

    In a low terminal, lines about the best points and failures are left out first, then running trials.
    """
    head = [_head(shown, width)]
    for text in (shown.activity, shown.cost, shown.floor):
        head += [Line(line, "dim") for line in textwrap.wrap(text or "", width, subsequent_indent="  ")]
    failures = [Line(cut(text, width), "red") for text in shown.failures]
    best = [Line(cut(f"  {text}", width), "green") for text in shown.best]
    if best:
        best.insert(0, Line(cut("best so far (validation)", width), "dim"))
    running_height = 1 + min(len(shown.running), FEWEST_RUNNING) + 1 if shown.running else 0
    below = [*best, *failures][: max(0, height - len(head) - running_height)]
    running = _running(shown, width, height - len(head) - len(below))
    return [*head, *running, *below][:height]


def _head(shown: Snapshot, width: int) -> Line:
    """Return name, bar, trials and time; the bar gets shorter first, then the name."""
    failed = f", {shown.failed} failed" if shown.failed else ""
    rest = f"{shown.finished} of {shown.planned} trials{failed}  {shown.time}"
    room = width - len(rest) - 2
    bar_width = min(BAR_WIDTH, room - min(len(shown.name), 2 * SHORTEST_NAME) - 2)
    if bar_width < SHORTEST_BAR:
        return Line(cut(f"{cut(shown.name, room)}  {rest}" if room >= SHORTEST_NAME else rest, width), "bold")
    full = bar_width * min(shown.finished, shown.planned) // max(1, shown.planned)
    name = cut(shown.name, room - bar_width - 2)
    return Line(f"{name}  {'━' * full}{'╌' * (bar_width - full)}  {rest}", "bold")


def _running(shown: Snapshot, width: int, height: int) -> list[Line]:
    """Return the running trials as a table of at most ``height`` lines with fixed columns."""
    if not shown.running:
        return []
    widths = (5, EPOCH_WIDTH, *(max(5, len(name)) for name in shown.goals))

    def row(*cells: str) -> str:
        fixed = "  ".join(cell.ljust(room) for cell, room in zip(cells, widths, strict=False))
        return cut(f"{fixed}  {cells[-1]}", width).rstrip()

    lines = [Line(row("trial", "epoch", *shown.goals, "parameters"), "dim")]
    rows = height - 1 if len(shown.running) < height else height - 2
    for trial in shown.running[: max(0, rows)]:
        goals = trial.goals or ("",) * len(shown.goals)
        lines.append(Line(row(str(trial.number), trial.epoch, *goals, trial.about)))
    left_out = len(shown.running) - max(0, rows)
    return [*lines, Line(f"... and {left_out} more running", "dim")] if left_out > 0 else lines

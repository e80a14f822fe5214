"""What the terminal shows while a sweep runs: a live view, or plain lines where nobody can watch one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from sweeper.front.rendering.style import label
from sweeper.records import Front, TrialRecord
from sweeper.spec.quantities import duration
from trainables.records import Goals, Report, goal_values

if TYPE_CHECKING:
    from rich.console import RenderableType

_REFRESH_S = 0.25
_EPOCH_LINE_S = 30.0
"""Where lines are plain, a trial's epochs are told no more often than this."""
_COST_LINE_S = 60.0
"""Where lines are plain, so often is told what the sweep costs."""
_BEST = 5
_FAILURES = 3


class Progress:
    """Everything goes to standard error. In a terminal ``tick`` redraws; elsewhere every event is one line."""

    def __init__(
        self, name: str, trials: int, goals: Goals, *, finished: int = 0, stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """``finished``: trials of an earlier run of the same sweep; they do not count for the ETA."""
        self._goals = goals
        self._name, self._trials, self._before, self._clock = name, trials, finished, clock
        self._stream = stream or sys.stderr
        self._start_s = self._drawn_s = clock()
        self._finished = finished
        self._failed = 0
        self._running: dict[int, _Running] = {}
        self._best: list[str] = []
        self._failures: list[str] = []
        self._cost: Callable[[], str] | None = None
        self._left_s: Callable[[], float | None] | None = None
        self._floor: Callable[[], str | None] = lambda: None
        self._floor_told: str | None = None
        self._cost_told_s = self._start_s
        self._live: Any = None
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._live = self._open()

    def line(self, text: str) -> None:
        """Says something once, above the live view."""
        with suppress(OSError):  # nobody reads it any more: a closed terminal, a pipe without a reader
            if self._live is None:
                self._stream.write(f"[{_clock_time(self._clock() - self._start_s)}] {text}\n")
                self._stream.flush()
            else:
                from rich.text import Text

                self._live.console.print(Text(text))

    def charge(self, cost: Callable[[], str], left_s: Callable[[], float | None]) -> None:
        """From now on ``cost`` is asked what the sweep has taken and will take, ``left_s`` for the seconds left, which
        it may not know."""
        self._cost, self._left_s = cost, left_s

    def watch_floor(self, floor: Callable[[], str | None]) -> None:
        """From now on ``floor`` is asked for a line about the noise floor; None: not known."""
        self._floor = floor

    def search_ended(self, trials: int) -> None:
        """The search has only so many trials, fewer than were planned."""
        self._trials = trials

    def trial_started(
        self, number: int, parameters: dict[str, Any], slot: int | None = None, tries: str | None = None
    ) -> None:
        """At the start and at every further attempt.

        ``tries``: what it tries, for one of the search's first points.
        """
        about = describe(parameters) + ("" if tries is None else f" ({tries})")
        self._running[number] = _Running(about, self._clock())
        if self._live is None:
            self.line(f"trial {number} started: {about}" + ("" if slot is None else f" (slot {slot})"))

    def trial_reported(self, number: int, report: Report) -> None:
        """After an evaluation."""
        running = self._running.setdefault(number, _Running("", self._clock()))
        running.report = report
        if self._live is None and self._clock() - running.told_s >= _EPOCH_LINE_S:
            running.told_s = self._clock()
            self.line(f"trial {number}: {_epoch(report)}, {self._goals_text(report.values)}")

    def trial_ended(self, record: TrialRecord) -> None:
        """Complete, stopped or failed."""
        self._running.pop(record.number, None)
        self._finished += record.confirms is None
        took = "" if record.duration_s is None else f" in {duration(record.duration_s)}"
        if record.state == "complete":
            text = f"trial {record.number} complete{took}: {self._goals_text(record.values or {})}"
        else:
            text = f"trial {record.number} {record.state}{took}: {record.reason or 'no reason given'}"
        if record.state == "failed":
            self._failed += 1
            self._failures = [*self._failures, text][-_FAILURES:]
        if self._live is None:
            of = f"{self._finished} of {self._trials}" if record.confirms is None else f"trial {record.confirms} again"
            self.line(f"{text} ({of}, {self._eta()})")

    def front_updated(self, front: Front) -> None:
        """The best points so far."""
        members = [point for point in front.points if point.member]
        named = [point for point in members if point.name]
        shown = (named + [point for point in members if not point.name])[:_BEST]
        best = [f"{label(point)}: {self._goals_text(point.validation)}" for point in shown]
        if self._live is None and best != self._best:
            knee = next((point for point in members if point.name == "knee"), None)
            about = "" if knee is None else f", knee {self._goals_text(knee.validation)}"
            self.line(f"front: {_count(len(members), 'point')}, hypervolume {front.hypervolume:.4f}{about}")
        self._best = best

    def tick(self) -> None:
        """Redraws the live view, or says what the sweep costs, if it is time; call it often."""
        if self._live is None and self._cost is not None and self._clock() - self._cost_told_s >= _COST_LINE_S:
            self._cost_told_s = self._clock()
            self.line(f"cost: {self._cost()}")
            floor = self._floor()
            if floor is not None and floor != self._floor_told:
                self._floor_told = floor
                self.line(floor)
        if self._live is not None and self._clock() - self._drawn_s >= _REFRESH_S:
            self._drawn_s = self._clock()
            with suppress(OSError):
                self._live.update(self._view(), refresh=True)

    def close(self) -> None:
        """Leave the last view standing. To be called once."""
        if self._live is not None:
            with suppress(OSError):
                self._live.update(self._view(), refresh=True)
                self._live.stop()
            self._live = None

    def _goals_text(self, values: Mapping[str, float]) -> str:
        shown = (goal for goal in self._goals if goal.metric in values)
        return ", ".join(f"{goal.short} {values[goal.metric]:.3f}" for goal in shown)

    def _eta(self) -> str:
        left_s = None if self._left_s is None else self._left_s()
        if left_s is not None:
            if left_s <= 0:
                return "all done" if self._finished >= self._trials else "nothing left"
            return f"about {duration(left_s)} left"
        done, left = self._finished - self._before, self._trials - self._finished
        elapsed_s = self._clock() - self._start_s
        if left <= 0:
            return "all done"
        return f"about {duration(elapsed_s / done * left)} left" if done > 0 else "time left unknown"

    def _open(self) -> Any:
        from rich.console import Console
        from rich.live import Live

        # Standard output is for data: it must neither be captured nor moved to standard error.
        live = Live(
            self._view(), console=Console(file=self._stream), auto_refresh=False, redirect_stdout=False,
            redirect_stderr=self._stream is sys.stderr,
        )  # fmt: skip
        live.start()
        return live

    def _view(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        failed = f", {self._failed} failed" if self._failed else ""
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(self._name, style="bold"),
            ProgressBar(total=max(1, self._trials), completed=self._finished, width=30),
            Text(f"{self._finished} of {self._trials} trials{failed}"),
            Text(f"{_clock_time(self._clock() - self._start_s)}, {self._eta()}", style="dim"),
        )
        parts: list[RenderableType] = [head]
        if self._cost is not None:
            parts.append(Text(f"cost: {self._cost()}", style="dim"))
        if (floor := self._floor()) is not None:
            parts.append(Text(floor, style="dim"))
        if self._running:
            table = Table(box=None, pad_edge=False, header_style="dim")
            for column in ("trial", "epoch", *(goal.short for goal in self._goals), "parameters"):
                table.add_column(column, no_wrap=True, overflow="ellipsis")
            for number, running in sorted(self._running.items()):
                table.add_row(str(number), *running.cells(self._goals), Text(running.about))
            parts.append(table)
        if self._best:
            parts.append(Text("best so far (validation)", style="dim"))
            parts += [Text(f"  {text}", style="green") for text in self._best]
        parts += [Text(text, style="red", no_wrap=True, overflow="ellipsis") for text in self._failures]
        return Group(*parts)


class _Running:
    def __init__(self, about: str, now_s: float) -> None:
        self.about = about
        self.report: Report | None = None
        self.told_s = now_s

    def cells(self, goals: Goals) -> tuple[str, str, str]:
        if self.report is None:
            return "starting", "", ""
        first, second = goal_values(self.report.values, goals)
        return f"{self.report.epoch:.3g}/{self.report.epochs}", f"{first:.3f}", f"{second:.3f}"


def describe(parameters: dict[str, Any]) -> str:
    """``kto visual beta=0.12 learning_rate=2e-05``: objective and scope first, what does not apply left out."""
    words = [str(parameters[key]) for key in ("objective", "tune") if key in parameters]
    for key, value in parameters.items():
        if key not in ("objective", "tune") and value is not None:
            words.append(f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}")
    return " ".join(words)


def _epoch(report: Report) -> str:
    return f"epoch {report.epoch:.3g} of {report.epochs}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"

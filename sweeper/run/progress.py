"""Output in the terminal while a sweep runs: a live view, or plain lines if standard error is not a terminal.

Its own thread writes to the terminal: a blocked terminal (Ctrl-S, a full pipe) does not delay the sweep, and the view
goes on while the sweep waits in a call of Ray.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sweeper.front.rendering.style import label
from sweeper.records import Front, TrialRecord
from sweeper.run.view import RunningTrial, Snapshot, frame
from sweeper.spec.quantities import duration
from trainables.records import Goals, Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_REFRESH_S = 0.25
_EPOCH_LINE_S = 30.0
"""Plain lines: least seconds between two lines about the epochs of a trial."""
_COST_LINE_S = 60.0
"""Plain lines: seconds between two lines about the cost of the sweep."""
_ACTIVITY_LINE_S = 10.0
"""Plain lines: seconds between two lines about the present activity while no trial runs."""
_FLUSH_S = 2.0
"""Seconds for writing the last lines, if the terminal accepts them."""
_BEST = 5
_FAILURES = 3


def append_to_log(log: Path, text: str) -> None:
    """Append a text to the log of a sweep, with the time before each line."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError), log.open("a", encoding="utf-8") as file:  # the sweep tells of a full disk
        file.writelines(f"{now} {line}\n" for line in text.splitlines())


class Progress:
    """The progress output. Everything goes to standard error: a redrawn view in a terminal, else a line for each event.

    A context manager: inside it a thread writes, and the last view remains. Outside it the calling thread writes lines.
    All methods may be called from any thread.
    """

    def __init__(
        self, name: str, trials: int, goals: Goals, *, finished: int = 0, stream: TextIO | None = None,
        log: Path | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Prepare the output.

        Args:
            name: of the sweep.
            trials: planned number of trials.
            finished: number of trials of earlier sessions; they do not count for the ETA.
            log: file to which all plain lines are appended too, with date and time.
        """
        self._goals = goals
        self._name, self._trials, self._before, self._clock = name, trials, finished, clock
        self._stream, self._log = stream or sys.stderr, log
        self._start_s = self._sampled_s = clock()
        self._finished = finished
        self._failed = 0
        self._running: dict[int, _Running] = {}
        self._best: list[str] = []
        self._failures: list[str] = []
        self._activity: _Activity | None = None
        self._cost: Callable[[], str] | None = None
        self._left_s: Callable[[], float | None] | None = None
        self._floor: Callable[[], str | None] = lambda: None
        self._sampled = _Sampled()
        self._floor_told: str | None = None
        self._cost_told_s = self._start_s
        self._lock = threading.RLock()
        """Protects all attributes above."""
        self._lines: deque[str] = deque()
        """Lines to be written."""
        self._writing = threading.Lock()
        self._wake, self._closed = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._is_live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._thread = threading.Thread(target=self._keep_writing, daemon=True, name="progress")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._activity, self._sampled = None, _Sampled(left_s=0.0)  # its cost is reported below
        self._closed = True
        self._wake.set()
        assert self._thread is not None, "it was entered"
        self._thread.join(_FLUSH_S)

    def freeze(self) -> None:
        """Write nothing more, and leave no incomplete frame: this process is about to end."""
        self._writing.acquire(timeout=_REFRESH_S)

    def line(self, text: str) -> None:
        """Write a line once, above the live view."""
        self._append_to_log(text)
        with self._lock:
            self._lines.append(text if self._is_live else f"[{_clock_time(self._elapsed_s())}] {text}")
        self._wake.set()
        if self._thread is None:
            self._write_lines()

    def _plain_line(self, text: str) -> None:
        """Write a line about what the live view shows by itself: there it is written to the log only."""
        if self._is_live:
            self._append_to_log(text)
        else:
            self.line(text)

    def _append_to_log(self, text: str) -> None:
        if self._log is not None:
            append_to_log(self._log, text)

    def charge(self, cost: Callable[[], str], left_s: Callable[[], float | None]) -> None:
        """Have ``tick`` call functions about the cost of the sweep.

        Args:
            cost: returns a text about the cost so far and in the end.
            left_s: returns the remaining seconds; None if not known.
        """
        self._cost, self._left_s = cost, left_s

    def watch_floor(self, floor: Callable[[], str | None]) -> None:
        """Have ``tick`` call ``floor`` for a line about the noise floor; None if not known."""
        self._floor = floor

    def wait_for(self, what: str, total: int | None = None, unit: str = "") -> None:
        """Show from now on, while no trial runs, an activity that the sweep waits for, and its duration.

        Args:
            what: the activity.
            total: number of the steps that ``step`` counts.
            unit: noun for these steps.
        """
        with self._lock:
            self._activity = _Activity(what, total, unit, self._clock())
        self._plain_line(self._activity.text(self._clock()))

    def step(self, done: int) -> None:
        """Show how many steps of the present activity are done."""
        with self._lock:
            if self._activity is not None:
                self._activity.done = done

    def detail(self, text: str | None) -> None:
        """Show a detail of the present activity."""
        with self._lock:
            if self._activity is not None:
                self._activity.detail = text

    def searching(self) -> None:
        """Show from now on that trials run and that the sweep waits for nothing else."""
        with self._lock:
            self._activity = None

    def stopping(self, grace_s: float) -> None:
        """Show that the sweep was asked to stop, and what happens to its present activity."""
        with self._lock:
            activity, running = self._activity, bool(self._running)
        what = "running trials write a checkpoint"
        if activity is not None and not running:
            what = f"{activity.what} ends, and its results so far are kept"
        self.line(f"stopping: {what}, within {grace_s:g} s (again: end at once)")

    def search_ended(self, trials: int) -> None:
        """Show that the search has only ``trials`` trials, fewer than planned."""
        with self._lock:
            self._trials = trials

    def trial_started(
        self, number: int, parameters: dict[str, Any], slot: int | None = None, tries: str | None = None
    ) -> None:
        """Show the start of a trial or of a further attempt.

        Args:
            tries: description, for one of the search's first points.
        """
        about = describe(parameters) + ("" if tries is None else f" ({tries})")
        with self._lock:
            self._running[number] = _Running(about, self._clock())
        self._plain_line(f"trial {number} started: {about}" + ("" if slot is None else f" (slot {slot})"))

    def trial_reported(self, number: int, report: Report) -> None:
        """Show a trial's report after an evaluation."""
        with self._lock:
            running = self._running.setdefault(number, _Running("", self._clock()))
            running.report = report
            tell = self._clock() - running.told_s >= _EPOCH_LINE_S
            if tell:
                running.told_s = self._clock()
        if tell:
            self._plain_line(f"trial {number}: {_epoch(report)}, {self._goals_text(report.values)}")

    def trial_ended(self, record: TrialRecord) -> None:
        """Show the end of a trial that is complete, stopped or failed."""
        took = "" if record.duration_s is None else f" in {duration(record.duration_s)}"
        if record.state == "complete":
            text = f"trial {record.number} complete{took}: {self._goals_text(record.values or {})}"
        else:
            text = f"trial {record.number} {record.state}{took}: {record.reason or 'no reason given'}"
        with self._lock:
            self._running.pop(record.number, None)
            self._finished += record.confirms is None
            if record.confirms is not None and self._activity is not None:
                self._activity.done += 1
            if record.state == "failed":
                self._failed += 1
                self._failures = [*self._failures, text][-_FAILURES:]
            of = f"{self._finished} of {self._trials}" if record.confirms is None else f"trial {record.confirms} again"
        if not self._is_live:
            self._sample()
        self._plain_line(f"{text} ({of}{self._left()})")

    def front_updated(self, front: Front) -> None:
        """Show the best points so far."""
        members = [point for point in front.points if point.member]
        named = [point for point in members if point.name]
        shown = (named + [point for point in members if not point.name])[:_BEST]
        best = [f"{label(point)}: {self._goals_text(point.validation)}" for point in shown]
        with self._lock:
            changed, self._best = best != self._best, best
        if changed:
            knee = next((point for point in members if point.name == "knee"), None)
            about = "" if knee is None else f", knee {self._goals_text(knee.validation)}"
            self._plain_line(f"front: {_count(len(members), 'point')}, hypervolume {front.hypervolume:.4f}{about}")

    def tick(self) -> None:
        """Update cost and remaining time of the view; to be called often, on the sweep's own thread."""
        if self._clock() - self._sampled_s >= _REFRESH_S:
            self._sample()
            if self._thread is None:
                self._tell_plainly()

    def _sample(self) -> None:
        """Call the functions that may only be called on the sweep's own thread."""
        self._sampled_s = self._clock()
        sampled = _Sampled(
            cost=None if self._cost is None else self._cost(),
            left_s=None if self._left_s is None else self._left_s(),
            floor=self._floor(),
        )
        with self._lock:
            self._sampled = sampled

    def _tell_plainly(self) -> None:
        """Plain lines: write the present activity and the cost when their time has come."""
        now_s, lines = self._clock(), list[str]()
        with self._lock:
            activity, sampled = self._activity, self._sampled
            if activity is not None and now_s - activity.told_s >= _ACTIVITY_LINE_S:
                activity.told_s = now_s
                lines.append(activity.text(now_s))
            if sampled.cost is not None and now_s - self._cost_told_s >= _COST_LINE_S:
                self._cost_told_s = now_s
                lines.append(f"cost: {sampled.cost}")
                if sampled.floor is not None and sampled.floor != self._floor_told:
                    self._floor_told = sampled.floor
                    lines.append(sampled.floor)
        for text in lines:
            self.line(text)

    def _goals_text(self, values: Mapping[str, float]) -> str:
        shown = (goal for goal in self._goals if goal.metric in values)
        return ", ".join(f"{goal.short} {values[goal.metric]:.3f}" for goal in shown)

    def _left(self) -> str:
        """Return a text about the remaining time, from the forecast or else from the ended trials; empty if nothing is
        left.
        """
        left_s = self._sampled.left_s
        if left_s is None:
            done, left = self._finished - self._before, self._trials - self._finished
            if left > 0 and done > 0:
                left_s = self._elapsed_s() / done * left
            elif left > 0:
                return ", time left unknown"
        return "" if left_s is None or left_s <= 0 else f", about {duration(left_s)} left"

    def _elapsed_s(self) -> float:
        return self._clock() - self._start_s

    def _keep_writing(self) -> None:
        if self._is_live:
            with suppress(OSError):  # the terminal is closed
                self._live = self._open()
        while not self._closed:
            self._write_lines()
            if self._live is None:
                self._tell_plainly()
            else:
                self._draw(self._live)
            self._wake.wait(_REFRESH_S)
            self._wake.clear()
        self._write_lines()
        if self._live is not None:
            self._draw(self._live)
            with self._writing, suppress(OSError):
                self._live.stop()

    def _write_lines(self) -> None:
        with self._writing, suppress(OSError):  # the terminal is closed, or a pipe has no reader
            while self._lines:
                text = self._lines.popleft()
                if self._live is None:
                    self._stream.write(f"{text}\n")
                    self._stream.flush()
                else:
                    from rich.text import Text

                    self._live.console.print(Text(text))

    def _draw(self, live: Live) -> None:
        view = self._view(*live.console.size)
        with self._writing, suppress(OSError):
            live.update(view, refresh=True)

    def _open(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream)
        # Standard output is for data: it must neither be captured nor moved to standard error.
        live = Live(
            self._view(*console.size), console=console, auto_refresh=False, redirect_stdout=False,
            redirect_stderr=self._stream is sys.stderr,
        )  # fmt: skip
        with self._writing:
            live.start()
        return live

    def _view(self, width: int, height: int) -> RenderableType:
        """Return the view; its last line stays free, for the cursor."""
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            shown = self._snapshot()
        lines = frame(shown, width, height - 1)
        return Group(*(Text(line.text, style=line.style, no_wrap=True, overflow="crop") for line in lines))

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            name=self._name,
            finished=self._finished,
            planned=self._trials,
            failed=self._failed,
            time=f"{_clock_time(self._elapsed_s())}{self._left()}",
            activity=None if self._activity is None else self._activity.text(self._clock()),
            cost=None if self._sampled.cost is None else f"cost: {self._sampled.cost}",
            floor=self._sampled.floor,
            goals=tuple(goal.short for goal in self._goals),
            running=[running.shown(number, self._goals) for number, running in sorted(self._running.items())],
            best=self._best,
            failures=self._failures,
        )


class _Activity:
    """The activity that the sweep waits for while no trial runs."""

    def __init__(self, what: str, total: int | None, unit: str, now_s: float) -> None:
        self.what, self.total, self.unit, self.since_s, self.told_s = what, total, unit, now_s, now_s
        self.done = 0
        self.detail: str | None = None

    def text(self, now_s: float) -> str:
        """Return a text such as ``measuring on test: 3 of 9 points (20 s)``."""
        count = "" if self.total is None else f": {self.done} of {self.total} {self.unit}"
        detail = "" if self.detail is None else f", {self.detail}"
        waited_s = now_s - self.since_s
        return f"{self.what}{count}{detail}" + (f" ({duration(waited_s)})" if waited_s >= 1 else "")


class _Sampled:
    """Last results of the functions that are called on the sweep's own thread."""

    def __init__(self, cost: str | None = None, left_s: float | None = None, floor: str | None = None) -> None:
        self.cost, self.left_s, self.floor = cost, left_s, floor


class _Running:
    def __init__(self, about: str, now_s: float) -> None:
        self.about = about
        self.report: Report | None = None
        self.told_s = now_s

    def shown(self, number: int, goals: Goals) -> RunningTrial:
        if self.report is None:
            return RunningTrial(number, "starting", (), self.about)
        values = tuple(f"{self.report.values[goal.metric]:.3f}" for goal in goals)
        return RunningTrial(number, f"{self.report.epoch:.3g}/{self.report.epochs}", values, self.about)


def describe(parameters: dict[str, Any]) -> str:
    """Return a trial's parameters as text, objective and scope first: ``kto visual beta=0.12 learning_rate=2e-05``."""
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

"""What the terminal shows."""

from __future__ import annotations

import io
import re
import threading
import time
from typing import Any

import pytest

from sweeper.records import Front, FrontPoint, TrialRecord
from sweeper.run.progress import Progress, describe
from tests.helpers.goals import TYPOGRAPHIC
from tests.helpers.reports import make_report
from trainables.records import Report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def record(number: int, state: Any = "complete", reason: str | None = None) -> TrialRecord:
    values = {"clean_accuracy": 0.9, "robust_accuracy": 0.5} if state == "complete" else None
    return TrialRecord(number=number, state=state, parameters={}, seed=0, values=values, reason=reason, duration_s=12.0)


def report(epoch: float) -> Report:
    return make_report({"clean_accuracy": 0.91, "robust_accuracy": 0.42}, epoch=epoch, epochs=3)


def front() -> Front:
    knee = FrontPoint(
        trial=1, weights="last", strength=1.0, parameters={}, name="knee",
        validation={"clean_accuracy": 0.88, "robust_accuracy": 0.55},
    )  # fmt: skip
    return Front(
        sweep="demo",
        goals=TYPOGRAPHIC,
        points=(knee,),
        others=(),
        hypervolume=0.05,
        reference_point=(0.8, 0.3),
        finished=1,
        trials=4,
    )


def tell(progress: Progress, clock: Clock) -> None:
    progress.line("2 slots on 2 CPUs")
    progress.trial_started(1, {"objective": "kto", "tune": "visual", "beta": 0.123456, "rank": None}, slot=0)
    for epoch in (1, 2):
        clock.now_s += 20
        progress.trial_reported(1, report(epoch))
        progress.tick()
    progress.trial_ended(record(1))
    progress.front_updated(front())
    progress.front_updated(front())
    progress.trial_started(2, {"objective": "ipo", "tune": "transform"}, slot=1)
    progress.trial_ended(record(2, "failed", "RuntimeError: [bold]out of memory[/bold]"))
    clock.now_s += 20
    progress.tick()


def test_elsewhere_every_event_is_one_plain_line() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress("demo", 4, TYPOGRAPHIC, stream=stream, clock=clock)
    tell(progress, clock)
    assert stream.getvalue().splitlines() == [
        "[00:00] 2 slots on 2 CPUs",
        "[00:00] trial 1 started: kto visual beta=0.123 (slot 0)",
        "[00:40] trial 1: epoch 2 of 3, clean 0.910, robust 0.420",
        "[00:40] trial 1 complete in 12 s: clean 0.900, robust 0.500 (1 of 4, about 2 min left)",
        "[00:40] front: 1 point, hypervolume 0.0500, knee clean 0.880, robust 0.550",
        "[00:40] trial 2 started: ipo transform (slot 1)",
        "[00:40] trial 2 failed in 12 s: RuntimeError: [bold]out of memory[/bold] (2 of 4, about 40 s left)",
    ]


def test_a_terminal_shows_progress_running_trials_best_points_and_failures() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress("demo", 4, TYPOGRAPHIC, stream=stream, clock=clock)
    with progress:
        tell(progress, clock)
        progress.trial_started(3, {"objective": "dpo", "tune": "visual"})
    view = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "2 of 4 trials, 1 failed" in view
    assert re.search(r"3\s+starting\s+dpo visual", view)
    assert "knee: clean 0.880, robust 0.550" in view
    assert "trial 2 failed in 12 s: RuntimeError: [bold]out of memory[/bold]" in view
    last = view[view.rindex("2 of 4 trials") :]
    assert "01:00" in last and "left" not in last, "the last view says how long it took"


def shown_with(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for variable, value in {"TERM": "xterm-256color", "NO_COLOR": "", **environment}.items():
        monkeypatch.setenv(variable, value)
    stream, clock = Terminal(), Clock()
    progress = Progress("demo", 4, TYPOGRAPHIC, stream=stream, clock=clock)
    with progress:
        tell(progress, clock)
    return stream.getvalue()


def test_no_color_and_dumb_terminals_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m")
    assert colour.search(shown_with({}, monkeypatch))
    assert not colour.search(shown_with({"NO_COLOR": "1"}, monkeypatch))
    assert "\x1b" not in shown_with({"TERM": "dumb"}, monkeypatch)


def test_trials_of_an_earlier_run_do_not_count_for_the_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress("demo", 12, TYPOGRAPHIC, finished=9, stream=stream, clock=clock)
    clock.now_s += 100
    progress.trial_ended(record(9))
    assert stream.getvalue().endswith("(10 of 12, about 3 min left)\n")


def test_what_the_sweep_costs_is_told_once_a_minute_and_its_forecast_is_the_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress("demo", 4, TYPOGRAPHIC, stream=stream, clock=clock)
    progress.charge(lambda: f"{clock.now_s - 1000:g} cpu-h", lambda: 600.0 if clock.now_s > 1100 else None)
    for _ in range(13):
        clock.now_s += 10
        progress.tick()
    progress.trial_ended(record(0))
    assert stream.getvalue().splitlines() == [
        "[01:00] cost: 60 cpu-h",
        "[02:00] cost: 120 cpu-h",
        "[02:10] trial 0 complete in 12 s: clean 0.900, robust 0.500 (1 of 4, about 10 min left)",
    ]


def test_a_terminal_shows_what_the_sweep_costs() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress("demo", 4, TYPOGRAPHIC, stream=stream, clock=clock)
    progress.charge(lambda: "0.42 of 12 cpu-h at 2 CPUs; forecast 0.8 cpu-h in 25 min", lambda: 1500.0)
    clock.now_s += 1
    progress.tick()
    with progress:
        while "forecast" not in stream.getvalue():  # drawn by a thread; the test's own limit ends a wait in vain
            time.sleep(0.01)
    view = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "cost: 0.42 of 12 cpu-h at 2 CPUs; forecast 0.8 cpu-h in 25 min" in view
    assert "00:01, about 25 min left" in view


def test_parameters_in_a_few_words() -> None:
    words = describe(
        {"beta": 0.5, "tune": "transform", "objective": "dpo", "learning_rate": 2e-05, "rank": 32, "blocks": None}
    )
    assert words == "dpo transform beta=0.5 learning_rate=2e-05 rank=32"


def test_elsewhere_what_is_waited_for_is_told_every_ten_seconds_with_progress() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress("demo", 4, TYPOGRAPHIC, stream=stream, clock=clock)
    progress.wait_for("measuring on test", 3, "points")
    for second in range(1, 26):
        clock.now_s += 1
        progress.step(second // 10)
        progress.detail("scoring images: 256 of 1000" if second > 15 else None)
        progress.tick()
    progress.searching()
    clock.now_s += 60
    progress.tick()
    assert stream.getvalue().splitlines() == [
        "[00:00] measuring on test: 0 of 3 points",
        "[00:10] measuring on test: 1 of 3 points (10 s)",
        "[00:20] measuring on test: 2 of 3 points, scoring images: 256 of 1000 (20 s)",
    ]


def test_it_is_said_what_stopping_means_now() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress("demo", 4, TYPOGRAPHIC, stream=stream, clock=clock)
    progress.stopping(30.0)
    progress.wait_for("measuring on test", 3, "points")
    progress.stopping(30.0)
    progress.trial_started(7, {"objective": "dpo"})  # a member of the front that is trained again
    progress.stopping(30.0)
    writes = "running trials write a checkpoint, within 30 s (again: end at once)"
    assert [line for line in stream.getvalue().splitlines() if "stopping" in line] == [
        f"[00:00] stopping: {writes}",
        "[00:00] stopping: measuring on test ends, and its results so far are kept, within 30 s (again: end at once)",
        f"[00:00] stopping: {writes}",
    ]


def test_nothing_is_said_to_be_done_while_more_is_to_come() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress("demo", 1, TYPOGRAPHIC, stream=stream, clock=clock)
    progress.charge(lambda: "1 cpu-h", lambda: 120.0)
    progress.trial_ended(record(0))
    progress.charge(lambda: "1 cpu-h", lambda: 0.0)
    progress.trial_ended(record(1))
    assert [line.rpartition("(")[2] for line in stream.getvalue().splitlines()] == [
        "1 of 1, about 2 min left)",
        "2 of 1)",
    ]


class StuckTerminal(Terminal):
    """A terminal that takes nothing, as after Ctrl-S."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.released.wait(30)
        return super().write(text)


def test_a_terminal_that_stands_still_holds_up_nobody() -> None:
    stream, clock = StuckTerminal(), Clock()
    with Progress("demo", 4, TYPOGRAPHIC, stream=stream, clock=clock) as progress:
        for number in range(50):  # each would wait half a minute
            progress.line(f"line {number}")
            progress.trial_ended(record(number))
        assert stream.getvalue() == ""
        stream.released.set()
    assert "line 49" in stream.getvalue()

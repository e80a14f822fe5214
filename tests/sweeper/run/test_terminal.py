"""The live view in real terminals."""

from __future__ import annotations

import re
import sys

import pytest

from tests.helpers.terminal import Terminal

DRIVER = """
import sys, time
from sweeper.records import TrialRecord
from sweeper.run.progress import Progress
from sweeper.run.signals import StopSignal, end_process
from tests.helpers.goals import TYPOGRAPHIC
from tests.helpers.reports import make_report

slots, ended = int(sys.argv[1]), sys.argv[2] == "ended"
progress = Progress("typo-reduced", 64, TYPOGRAPHIC)
progress.charge(lambda: "0.42 of 12 cpu-h, at 2 CPUs; forecast 0.8 cpu-h in 25 min", lambda: 1500.0)
about = {"objective": "cross_entropy", "tune": "last_blocks", "lambda_reg": 0.316, "learning_rate": 0.00032}
with progress:
    progress.line("sweep typo-reduced: 2 slots")
    progress.wait_for("warming up", slots, "slots ready")
    time.sleep(0.6)
    progress.searching()
    for number in range(slots):
        progress.trial_started(number, about)
    time.sleep(0.3)
    progress.tick()
    values = {"clean_accuracy": 0.948, "robust_accuracy": 0.596}
    for number in range(slots):
        progress.trial_reported(number, make_report(values, epoch=1.5, epochs=3))
    time.sleep(0.6)
    progress.trial_ended(TrialRecord(number=0, state="failed", parameters={}, seed=0, reason="out of memory " * 20))
    time.sleep(0.6)
    if ended:
        for number in range(1, slots):
            progress.trial_ended(TrialRecord(number=number, state="complete", parameters={}, seed=0, values={}))
    else:
        progress.stopping(30.0)
        time.sleep(0.6)
        progress.freeze()
        end_process(130, "ended at once; go on with: sweeper resume typo-reduced")
"""


def run(columns: int, lines: int, *, slots: int = 4, how: str = "ended", **environment: str) -> Terminal:
    command = [sys.executable, "-c", DRIVER, str(slots), how]
    terminal = Terminal(command, columns=columns, lines=lines, environment=environment)
    assert terminal.wait() == (0 if how == "ended" else 130)
    return terminal


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (60, 16), (200, 50)])
def test_one_view_stays_at_the_end_and_nothing_of_those_before(columns: int, lines: int) -> None:
    terminal = run(columns, lines)
    everything = [*terminal.scrolled(), *terminal.shown()]
    assert sum("of 64 trials" in line for line in everything) == 1
    assert not any("warming up" in line or line.startswith("trial ") and "epoch" in line for line in everything)
    assert any("4 of 64 trials, 1 failed" in line for line in everything)
    assert everything[0] == "sweep typo-reduced: 2 slots", "what was said stands above the view"


@pytest.mark.parametrize(("columns", "lines", "slots"), [(80, 24, 4), (60, 16, 64), (80, 24, 64)])
def test_goals_are_whole_and_a_process_that_ends_at_once_leaves_a_whole_view(
    columns: int, lines: int, slots: int
) -> None:
    terminal = run(columns, lines, slots=slots, how="killed")
    shown = [line for line in terminal.shown() if line]
    assert shown[-1].startswith("ended at once; go on with") or columns < 66
    rows = [line for line in shown if re.match(r"\d+ +1\.5/3 +0\.948  0\.596 ", line)]
    assert rows and all(len(line) <= columns for line in rows)
    assert sum(line.startswith("trial  epoch") for line in shown) == 1
    assert ("more running" in "\n".join(shown)) == (slots == 64)
    assert any(line.startswith("stopping: running trials write a checkpoint") for line in terminal.scrolled() + shown)
    assert b"\x1b[?25h" in terminal.written, "the cursor is shown again"


def test_without_colour_nothing_is_coloured() -> None:
    colour = re.compile(rb"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m")
    assert colour.search(run(80, 24).written)
    assert not colour.search(run(80, 24, NO_COLOR="1").written)
    assert b"\x1b" not in run(80, 24, TERM="dumb").written

"""How right the time left is that a sweep tells after a tenth of its trials.

    python -m benchmarks.scheduling.time_left --runs 5 --output benchmarks/results/time_left.md

Runs `sweeper run` on a spec with several seeds and reads what a user reads: lines of standard error, with the time
left in round numbers. A ratio of 1 is right; below 1 the sweep took longer than it said.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.machine import environment, publish

_ENDED = re.compile(r"\((\d+) of (\d+)(?:, about ([\d.]+) (s|min|h) left)?\)$")
_UNIT_S = {"s": 1.0, "min": 60.0, "h": 3600.0}
_SHARES = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Told:
    """A line that told the time left."""

    ended: int
    planned: int
    left_s: float
    at_s: float
    """Since the start."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="search_spaces/reduced/typo.yaml")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows, ratios = [], []
    for seed in range(options.runs):
        told, began_s, took_s = run(options.spec, options.trials, seed)
        of_run = []
        for share in _SHARES:
            line = next((line for line in told if line.ended >= share * line.planned), None)
            of_run.append(None if line is None else line.left_s / (took_s - line.at_s))
        ratios.append(of_run)
        rows.append(
            f"| {seed} | {began_s:.0f} s | {took_s:.0f} s | " + " | ".join(_text(ratio) for ratio in of_run) + " |"
        )
        print(rows[-1], flush=True)
    medians = [statistics.median(r for r in column if r is not None) for column in zip(*ratios, strict=True)]
    lines = [
        f"# The time left that `sweeper run {options.spec} --trials {options.trials}` tells",
        "",
        "Told over actual time left, when this share of the trials has ended. 1 is right; below 1 it took longer.",
        "",
        "| seed | first trial after | took | " + " | ".join(f"{100 * share:.0f} %" for share in _SHARES) + " |",
        "| --- |" + " --- |" * (2 + len(_SHARES)),
        *rows,
        "| median | | | " + " | ".join(map(_text, medians)) + " |",
        "",
        environment("ray", "torch"),
    ]
    publish("\n".join(lines) + "\n", options.output)


def _text(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def run(spec: str, trials: int, seed: int) -> tuple[list[Told], float, float]:
    """Return what a sweep told, and the seconds until its first trial began and until it ended."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("sweeper")), "run", spec, "--trials", str(trials)]
        command += ["--set", f"search.seed={seed}", "--storage", folder]
        started_s, told, began_s = time.monotonic(), list[Told](), 0.0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if "] trial 0 started" in line:
                began_s = time.monotonic() - started_s
            found = _ENDED.search(line.rstrip())
            if found is not None and found[3] is not None:
                left_s = float(found[3]) * _UNIT_S[found[4]]
                told.append(Told(int(found[1]), int(found[2]), left_s, time.monotonic() - started_s))
        if process.wait() != 0:
            raise SystemExit(f"the sweep ended with {process.returncode}")
        return told, began_s, time.monotonic() - started_s


if __name__ == "__main__":
    main()

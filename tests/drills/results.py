"""One record per drill, as a line, in a file and in a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Result:
    drill: str
    seed: int
    slots: int
    outcome: str
    """``ok``, ``failed`` or ``skipped``."""
    moments: list[tuple[str, float]] = field(default_factory=list)
    """(phase, seconds since the first driver began) of each harm."""
    exit_codes: list[int | None] = field(default_factory=list)
    """Of each driver."""
    took_s: float = 0.0
    """All drivers together."""
    cost_s: float = 0.0
    """Beyond the undisturbed sweep."""
    redone_steps: int | None = None
    """Training steps done again; None where no trial was running."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def line(self) -> str:
        moments = ", ".join(f"{phase} {moment_s:.1f} s" for phase, moment_s in self.moments) or "-"
        codes = " ".join(str(code) for code in self.exit_codes) or "-"
        steps = "-" if self.redone_steps is None else str(self.redone_steps)
        said = f"{self.outcome:8} {self.drill} seed {self.seed}, {self.slots} slot(s): {moments}; exit {codes}; "
        said += f"cost {self.cost_s:.0f} s, {steps} steps redone"
        problems = [f"    PROBLEM {problem}" for problem in self.problems]
        return "\n".join([said, *problems, *(f"    {note}" for note in self.notes)])


def append(path: Path, result: Result) -> None:
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def table(results: Sequence[Result]) -> str:
    """Return a table in Markdown: a row per drill."""
    rows = ["| drill | times | ok | skipped | worst cost in s | most steps redone |", "|---|---|---|---|---|---|"]
    for drill in dict.fromkeys(result.drill for result in results):
        of_drill = [result for result in results if result.drill == drill]
        done = [result for result in of_drill if result.outcome != "skipped"]
        ok = sum(result.outcome == "ok" for result in done)
        cost = f"{max(result.cost_s for result in done):.0f}" if done else "-"
        steps = max((result.redone_steps for result in done if result.redone_steps is not None), default=None)
        skipped = len(of_drill) - len(done)
        rows.append(f"| {drill} | {len(done)} | {ok} | {skipped} | {cost} | {'-' if steps is None else steps} |")
    return "\n".join(rows)

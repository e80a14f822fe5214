"""What `sweeper run` says last: what failed, what it cost, where the front lies, which commands come next."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from sweeper.run.sweep import SweepResult
from sweeper.run.usage import read_usage
from sweeper.search.study import read_trials
from sweeper.spec.quantities import parse_budget
from sweeper.storage.sweep_folder import SweepFolder


def summary_lines(folder: SweepFolder, ending: SweepResult, where: str) -> list[str]:
    """Lines for standard error; ``where`` is the ``--storage`` that the commands need, or nothing."""
    program = _program()
    lines = list(ending.failures)
    spec = folder.spec()
    budget = None if spec.limits.budget is None else parse_budget(spec.limits.budget)
    lines.append(f"cost:        {read_usage(folder).line(read_trials(folder, spec), budget)}")
    if ending.tracking_problem is not None:
        lines.append(f"{ending.tracking_problem}; `{program} resume {folder.name}{where}` sends the rest")
    if ending.state != "complete":
        why = "too many trials failed" if ending.state == "failed" else "stopped"
        return [*lines, f"{why}; go on with: {program} resume {folder.name}{where}"]
    if ending.unfinished_work is not None:
        command = f"{program} resume {folder.name}{ending.unfinished_work.options}{where}"
        lines.append(f"{ending.unfinished_work.reason}; go on with: {command}")
    lines.append(f"front:       {folder.front_path}/front.png, .html, .json, .csv")
    if ending.front is not None and any(point.member for point in ending.front.points):
        lines.append(f"export:      {program} export {folder.name} DIR --pick knee{where}")
    else:
        lines.append("no trial is better than the untouched model within the floors: there is nothing to export")
    return [*lines, f"open MLflow: {program} ui {folder.name}{where}"]


def _program() -> str:
    """How this command was called, where it is not on the path (an environment that is not activated)."""
    called = Path(sys.argv[0])
    if shutil.which("sweeper") is not None or called.name != "sweeper":
        return "sweeper"
    return os.path.relpath(called)

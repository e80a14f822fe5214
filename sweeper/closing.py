"""What `sweeper run` says last: what failed, where the front lies, which commands come next."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from sweeper.folder import SweepFolder
from sweeper.sweep import Ending


def closing_lines(folder: SweepFolder, ending: Ending, where: str) -> list[str]:
    """Lines for standard error; ``where`` is the ``--storage`` that the commands need, or nothing."""
    program = _program()
    lines = list(ending.failures)
    if ending.tracking_problem is not None:
        lines.append(f"{ending.tracking_problem}; `{program} resume {folder.name}{where}` sends the rest")
    if ending.state != "complete":
        why = "too many trials failed" if ending.state == "failed" else "stopped"
        return [*lines, f"{why}; go on with: {program} resume {folder.name}{where}"]
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

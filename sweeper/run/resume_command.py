"""The command with which a sweep goes on, as it can be pasted into a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from sweeper.storage.sweep_folder import SweepFolder


def resume_command(folder: SweepFolder, options: str = "") -> str:
    """Return ``sweeper resume NAME`` with the storage that it needs; ``options``: with a space before each."""
    return f"{program()} resume {shlex.quote(folder.name)}{options}{storage_option(folder.storage)}"


def storage_option(storage: Path) -> str:
    """Return the ``--storage`` that commands need to find a sweep, with a space before it, or nothing."""
    return "" if storage == Path("sweeps").absolute() else f" --storage {shlex.quote(str(storage))}"


def program() -> str:
    """Return how this command was called, where it is not on the path (an environment that is not activated)."""
    called = Path(sys.argv[0])
    if shutil.which("sweeper") is not None or called.name != "sweeper":
        return "sweeper"
    return shlex.quote(os.path.relpath(called))

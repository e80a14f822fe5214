"""A fresh environment outside the clone, with a wheel of this checkout in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.paths import ROOT

FREE_BYTES = 8e9
"""What an environment takes at most: torch alone is 3 GB where it is not linked from uv's cache."""


class CheckError(Exception):
    """Something that a release needs does not hold."""


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Run a command in a folder without a clone; return what it prints. Raise CheckError where it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"SWEEPER_STORAGE": str(folder / "sweeps"), "NO_COLOR": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise CheckError(
            f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout


def wheel_of_this_checkout(folder: Path) -> Path:
    """Build a wheel into a folder; return its path."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def fresh_environment(
    folder: Path, packages: Sequence[str | Path], constraints: Path | None, python: str = sys.executable
) -> Path:
    """Make an environment in ``folder`` with uv and install packages into it; return its ``bin``.

    Raise CheckError where there is too little room, or the packages do not go together.
    """
    if shutil.disk_usage(folder.parent).free < FREE_BYTES:
        raise CheckError(f"less than {FREE_BYTES / 1e9:g} GB are free below {folder.parent}")
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        raise CheckError("uv is not installed; `make test` once installs it into .venv")
    run([uv, "venv", "--quiet", "--python", python, folder], folder.parent)
    constrained = ["--constraint", constraints] if constraints is not None else []
    run(
        [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *constrained, *packages], folder.parent
    )
    return folder / "bin"

"""The library of faults.c around a driver: writes that fail, a clock that jumps."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from tests.drills.drill import Scene, Skipped
from tests.drills.sweeps import Place

_SOURCE = Path(__file__).with_name("faults.c")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What a drill switches."""

    flag: Path
    """While it exists, writes fail."""
    clock: Path
    """Seconds that are added to the wall clock."""

    def begin(self) -> None:
        self.flag.touch()

    def end(self) -> None:
        self.flag.unlink(missing_ok=True)

    def jump(self, seconds: int) -> None:
        part = self.clock.with_suffix(".new")
        part.write_text(str(seconds))
        part.replace(self.clock)


def with_faults(scene: Scene, place: Place, *, under: Path, errno: int) -> tuple[Place, Faults]:
    """Return ``place`` with the library loaded; writes below ``under`` can fail. Raise Skipped without a compiler."""
    folder = place.logs / "own" / scene.sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    library = _library(place.logs)
    faults = Faults(flag=folder / "flag", clock=folder / "clock")
    variables = {
        "LD_PRELOAD": str(library), "FAULTS_FLAG": str(faults.flag), "FAULTS_CLOCK": str(faults.clock),
        "FAULTS_UNDER": str(under), "FAULTS_ERRNO": str(errno),
    }  # fmt: skip
    return replace(place, environment={**place.environment, **variables}), faults


def _library(folder: Path) -> Path:
    library = folder / "faults.so"
    if library.exists():
        return library
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Skipped("there is no C compiler")
    part = library.with_suffix(".new")
    made = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(part), str(_SOURCE), "-ldl"], capture_output=True, text=True
    )
    if made.returncode != 0:
        raise Skipped(f"faults.c cannot be compiled here: {made.stderr.strip()[:200]}")
    part.replace(library)
    return library

"""A disk that takes nothing more, a real one: one line, exit code 3, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli.main import app
from tests.helpers.finished_sweep import finished_sweep
from tests.paths import ROOT


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a sweep called demo."""
    home = tmp_path_factory.mktemp("home")
    finished_sweep(home)
    return home / "sweeps"


@pytest.fixture
def full(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """The same on a disk without any space left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        (disk / "sweeps").mkdir()
        shutil.copytree(finished / "demo", disk / "sweeps" / "demo")
        with (disk / "fill").open("wb", buffering=0) as fill:
            for block in (b"\0" * 65536, b"\0"):
                try:
                    while fill.write(block):
                        pass
                except OSError:
                    continue
        yield disk / "sweeps"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def sweeper(*arguments: str, storage: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweeper.cli.main import main; main()"
    command = [sys.executable, "-c", script, *arguments, "--storage", str(storage)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "MLFLOW_"))}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.drill
def test_a_full_disk_is_one_line(full: Path, tmp_path: Path) -> None:
    resumed = sweeper("resume", "demo", "--trials", "9", storage=full, cwd=tmp_path)
    assert resumed.returncode == 3 and resumed.stderr.count("\n") == 1
    assert "No space left on device; then go on with: sweeper resume demo --storage" in resumed.stderr
    begun = sweeper("run", str(ROOT / "search_spaces" / "quickstart.yaml"), storage=full, cwd=tmp_path)
    assert (begun.returncode, begun.stderr.count("\n")) == (3, 1) and "No space left on device" in begun.stderr
    exported = sweeper("export", "demo", str(full / "out"), "--pick", "1", "--no-register", storage=full, cwd=tmp_path)
    assert (exported.returncode, exported.stderr.count("\n")) == (3, 1) and "No space left" in exported.stderr
    plotted = sweeper("front", "demo", "--plot", str(full / "front.png"), storage=full, cwd=tmp_path)
    assert plotted.returncode == 2 and f"--plot {full}/front.png: No space left on device" in plotted.stderr
    for command in (["list"], ["status", "demo"], ["trials", "demo"], ["show", "demo", "0"], ["front", "demo"]):
        read = CliRunner().invoke(app, [*command, "--storage", str(full)])
        assert read.exit_code == 0, "what only reads works"


def test_a_sweep_can_be_deleted_to_make_room(full: Path, tmp_path: Path) -> None:
    done = sweeper("delete", "demo", "--yes", storage=full, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(full.iterdir()) == []

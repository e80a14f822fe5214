"""Commands in messages are copied into shells: they are quoted, and name the storage that they need."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from sweeper.cli.tables import wrapped
from sweeper.commands import command
from sweeper.run.sweep import Options, resume_command
from sweeper.storage.sweep_folder import SweepFolder


def test_the_storage_is_named_unless_a_command_takes_it_anyway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    here, other = tmp_path / "sweeps", tmp_path / "my sweeps #1; ls"
    assert command("resume", "demo", storage=here) == "sweeper resume demo"
    said = command("resume", "demo", storage=other)
    assert shlex.split(said) == ["sweeper", "resume", "demo", "--storage", str(other)]
    monkeypatch.setenv("SWEEPER_STORAGE", str(other))
    assert f"--storage {here}" in command("resume", "demo", storage=here), "another shell may not have the variable"
    assert "--storage" in command("resume", "demo", storage=other)
    assert shlex.split(command("run", "my spec.yaml")) == ["sweeper", "run", "my spec.yaml"]


def test_a_sweep_goes_on_where_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = SweepFolder(tmp_path / "sweeps", "demo")
    options = Options(gpus=4, address="head:6379", tracking_uri="https://me:secret@tracker/x y")
    assert resume_command(folder, options, "--budget", "3gpu-h") == (
        "sweeper resume demo --budget 3gpu-h --gpus 4 --address head:6379 --tracking-uri 'https://tracker/x y'"
    )
    assert resume_command(folder, Options()) == "sweeper resume demo"


def test_a_command_is_not_broken_into_lines() -> None:
    long = f"`sweeper run SPEC --set {'x' * 80} --name demo-2`"
    assert wrapped(f"{'word ' * 20}{long} {'word ' * 20}").count(long) == 1


def test_the_storage_is_named_where_the_working_folder_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert command("resume", "demo", storage=tmp_path) == f"sweeper resume demo --storage {tmp_path}"

"""What ``sweeper slurm`` writes and refuses. That the script works is shown on a real Slurm: ``make clusters``."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.spec.spec import load_spec
from sweeper.submission.run_options import RunOptions
from sweeper.submission.slurm import Allocation, _slurm_time, slurm_script
from tests.paths import ROOT

SPEC = str(ROOT / "search_spaces" / "quickstart.yaml")


def script(*options: str, spec: str = SPEC) -> str:
    done = CliRunner().invoke(app, ["slurm", spec, *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def options_of(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.partition("=")[::2] for line in lines)


def is_bash(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0


def test_gpus_are_of_all_nodes_and_the_driver_takes_what_the_allocation_has(tmp_path: Path) -> None:
    text = script("--nodes", "2", "--gpus", "16", "--time", "26h30m", "--storage", str(tmp_path / "my sweeps"))
    asked = options_of(text)
    assert (asked["nodes"], asked["gpus-per-node"], asked["time"]) == ("2", "8", "1-02:30:00")
    assert asked["cpus-per-task"] == "10", "one CPU for each of eight trials, and two"
    assert asked["signal"] == "B:USR1@120" and "requeue" in asked and "no-kill" not in asked
    [driver] = [line for line in text.splitlines() if line.startswith("sweeper run ")]
    words = shlex.split(driver)
    assert words[words.index("--storage") + 1] == str(tmp_path / "my sweeps")
    assert "--resume" in words and "--gpus" not in words
    assert is_bash(text)


def test_a_sweep_on_cpus_says_so(tmp_path: Path) -> None:
    text = script("--cpus", "4", "--sbatch=--partition=long", "--storage", str(tmp_path))
    assert options_of(text)["partition"] == "long" and "gpus-per-node" not in options_of(text)
    [driver] = [line for line in text.splitlines() if line.startswith("sweeper run ")]
    assert shlex.split(driver)[-3:] == ["--gpus", "0", "&"]


@pytest.mark.parametrize("kind", ["apptainer", "enroot"])
def test_a_container_sees_storage_spec_and_what_is_mounted(kind: str, tmp_path: Path) -> None:
    text = script(
        "--gpus", "1", f"--{kind}", "sweeper.sif", "--mount", str(tmp_path / "more"), "--storage", str(tmp_path / "s")
    )
    assert str(tmp_path / "more") in text and str(ROOT / "search_spaces") in text and str(tmp_path / "s") in text
    assert is_bash(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nodes", "3", "--gpus", "16"], "every node of an allocation has the same number of GPUs; give a multiple"),
        ([], "--cpus: give the number of CPUs of a node, or --gpus for a sweep on GPUs"),
        (["--gpus", "1", "--time", "90s"], "an allocation of 90 s is too short; give at least 4m"),
        (["--gpus", "1", "--set", "resources.gpus_per_worker=4"], "no trial fits on a node of"),
        (["--gpus", "1", "--venv", "/nowhere"], "there is no bin/sweeper in it"),
        (["--gpus", "1", "--venv", ".", "--enroot", "x"], "give one of them"),
        (["--gpus", "1", "--mount", "/data"], "--mount is for a container"),
        (["--gpus", "1", "--tracking-uri", "http://me:hidden@host"], "can read a password on a command line"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        script(*options, "--storage", str(tmp_path))
    assert "hidden" not in str(refused.value)


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=12))
def test_values_of_options_reach_the_driver_as_they_are(value: str) -> None:
    run: dict[str, Any] = {"spec": "/a b/spec.yaml", "name": "x", "storage": Path("/s"), "changes": [f"name={value}"]}
    allocation = Allocation(nodes=1, gpus=1, cpus_per_node=None, time_s=3600.0)
    text = slurm_script(RunOptions(**run), load_spec(SPEC), allocation, Path("/venv"), "test")
    [driver] = [line for line in text.splitlines() if line.startswith("sweeper run ")]
    words = shlex.split(driver)
    assert words[words.index("--set") + 1] == f"name={value}"
    assert f"--set {shlex.quote(f'name={value}')} " in driver, "the shell changes nothing in it"


@given(st.integers(60, 10**6))
def test_slurm_never_gets_a_shorter_time(seconds: int) -> None:
    text = _slurm_time(seconds)
    days, _, rest = text.rpartition("-")
    hours, minutes, _ = map(int, rest.split(":"))
    written_s = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60
    assert seconds <= written_s < seconds + 60

"""Commands that look at a sweep again and again, and the one that removes it."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.run.progress import Progress
from sweeper.storage.stop_request import LOOK_S, StopRequests, request_stop
from sweeper.storage.sweep_folder import SweepFolder
from tests.paths import ROOT


@pytest.fixture
def early(tmp_path: Path) -> SweepFolder:
    """A sweep whose trial 10 has not ended."""
    shutil.copytree(ROOT / "tests" / "sweeper" / "storage" / "early_sweep", tmp_path / "early")
    return SweepFolder(tmp_path, "early")


def started(folder: SweepFolder, *arguments: str) -> subprocess.Popen[str]:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweeper.cli.main import main; main()"
    command = [sys.executable, "-c", script, *arguments, "--storage", str(folder.storage)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_log_is_followed_until_its_trial_runs_no_more(early: SweepFolder) -> None:
    log = early.trial(10).path / "log.txt"
    log.write_text("first\n")
    with early.lease.hold():
        process = started(early, "logs", "early", "10", "-f")
        assert process.stdout is not None and process.stdout.readline() == "first\n"
        with log.open("a") as more:
            more.write("second\n")
        assert process.stdout.readline() == "second\n"
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_status_is_watched_until_the_sweep_runs_no_more(early: SweepFolder) -> None:
    with early.lease.hold():
        process = started(early, "status", "early", "--watch")
        assert process.stdout is not None and process.stdout.readline().startswith("early: running, by process ")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert "early: unfinished" in out and "go on with: sweeper resume early --storage " in out


def test_a_sweep_that_runs_is_not_deleted(early: SweepFolder) -> None:
    arguments = ["delete", "early", "--yes", "--storage", str(early.storage)]
    with early.lease.hold():
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, UserError) and "is being run by process" in str(done.exception)
        assert early.exists()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert list(early.storage.iterdir()) == []
    for name in ("early", "../early", "."):
        done = CliRunner().invoke(app, ["delete", name, "--yes", "--storage", str(early.storage)])
        assert isinstance(done.exception, UserError) and f"no sweep {name!r}" in str(done.exception)


def test_a_sweep_is_stopped_from_anywhere_that_sees_its_storage(early: SweepFolder) -> None:
    asked = threading.Event()
    lease = early.lease.hold()
    with StopRequests(early, asked.set):
        process = started(early, "stop", "early")
        assert asked.wait(60)
        lease.release()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    first, last = err.splitlines()
    assert "is run by process" in first
    assert last.startswith("sweep early has stopped; go on with: sweeper resume early --storage ")
    assert not (early.path / "stop.request").exists()
    again = CliRunner().invoke(app, ["stop", "early", "--storage", str(early.storage)])
    assert again.exit_code == 0 and "sweep early does not run" in again.stderr


def test_a_request_of_an_earlier_session_does_not_stop_the_next_one(early: SweepFolder) -> None:
    asked = threading.Event()
    request_stop(early)
    with StopRequests(early, asked.set):
        assert not asked.wait(2.5 * LOOK_S)


def test_the_log_of_a_sweep_has_the_lines_of_all_its_sessions(early: SweepFolder) -> None:
    said = CliRunner().invoke(app, ["logs", "early", "--storage", str(early.storage)])
    assert isinstance(said.exception, UserError) and "sweep early has no log yet" in str(said.exception)
    for session in ("first", "second"):
        progress = Progress("early", 3, early.spec().task_goals(), stream=io.StringIO(), log=early.log_path)
        progress.line(f"{session} session")
    said = CliRunner().invoke(app, ["logs", "early", "--storage", str(early.storage)])
    assert [line[20:] for line in said.stdout.splitlines()] == ["first session", "second session"]

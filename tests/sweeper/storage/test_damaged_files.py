"""Any file of a sweep may be empty, torn, garbage or no file: one message, and the other sweeps are shown as ever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UnavailableError, UserError
from sweeper.run.budget import Usage
from sweeper.run.usage_file import read_usage
from sweeper.storage.sweep_folder import SweepFolder, names
from sweeper.tracking.outbox import Cursor, Outbox
from sweeper.tracking.runs import find_runs
from tests.paths import ROOT

EARLY = ROOT / "tests" / "sweeper" / "storage" / "early_sweep"
READ_OF_SWEEP = ["sweep.json", "spec.resolved.json", "untouched.json", "study.db", "test.jsonl", "confirm.json"]
READ_OF_SWEEP += ["usage.json", "lease.json", "lease.lock"]
READ_OF_TRIAL = ["attempt", "metrics.jsonl", "trial.json", "result.json", "log.txt"]
DAMAGES = ("empty", "half", "garbage", "folder")
NEEDED = ("sweep.json", "spec.resolved.json", "untouched.json", "study.db")
VIEWS = (["status", "bad"], ["trials", "bad"], ["show", "bad", "0"], ["front", "bad"], ["logs", "bad", "0"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the sweeps ``bad`` and ``good``, both whole so far."""
    storage = tmp_path_factory.mktemp("sweeps")
    shutil.copytree(EARLY, storage / "bad")
    (storage / "bad" / "lease.json").write_text(json.dumps({"host": "h", "pid": 7, "since_s": 1.7e9}) + "\n")
    (storage / "bad" / "lease.lock").write_text("")
    (storage / "bad" / "tracking.cursor").write_text(json.dumps({"uri": "sqlite:///x", "offset": 12}))
    runs = {"uri": "sqlite:///x", "experiment_id": "1", "sweep_id": "s", "parent": "p", "trials": {"0": "r"}}
    (storage / "bad" / "tracking.runs.json").write_text(json.dumps(runs))
    (storage / "bad" / "trials" / "00000" / "log.txt").write_text("a line\n")
    # The other sweep is small: it is listed again and again.
    SweepFolder(storage, "good").create(SweepFolder(storage, "bad").spec(), "")
    return storage


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "garbage":
        middle = max(0, len(content) // 2 - 32)
        path.write_bytes(content[:middle] + bytes(range(192, 256)) + content[middle + 64 :])
    else:
        path.write_bytes(content[: len(content) // 2] if how == "half" else b"")


def view(storage: Path, *arguments: str) -> tuple[int, str, str]:
    """Return exit code, output and messages of a command. Any other exception than the two errors is raised."""
    done = CliRunner().invoke(app, [*arguments, "--storage", str(storage)])
    if isinstance(done.exception, UserError):
        return 2, done.stdout, str(done.exception)
    if isinstance(done.exception, UnavailableError):
        return 3, done.stdout, str(done.exception)
    if done.exception is not None:
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", READ_OF_SWEEP)
def test_a_damaged_file_is_one_message(name: str, how: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "bad" / name, how)
    code, listed, messages = view(tmp_path, "list", "--format", "json")
    rows = {row["name"]: row for row in json.loads(listed)}
    assert code == 0 and rows["good"]["state"] == "unfinished"
    codes = {arguments[0]: view(tmp_path, *arguments)[0] for arguments in VIEWS}
    if rows["bad"]["state"] == "unreadable":
        assert name in NEEDED or how == "folder"
        assert messages.count("\n") == 1 and messages.startswith("bad: ") and name in messages
        assert codes["status"] in (2, 3)
    else:
        assert set(codes.values()) == {0} and messages == ""
    if name in NEEDED and how == "empty" and name != "sweep.json":
        assert rows["bad"]["state"] == "unreadable" and f"{name} is empty; restore it from a backup" in messages


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", READ_OF_TRIAL)
def test_a_damaged_file_of_a_trial_is_one_message(name: str, how: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "bad" / "trials" / "00000" / name, how)
    for arguments in (["show", "bad", "0"], ["show", "bad", "0", "--spec"], ["logs", "bad", "0"]):
        view(tmp_path, *arguments)


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_files_that_are_not_looked_at_are_no_news(how: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for path in [path for path in (tmp_path / "bad").rglob("*") if path.is_file()]:
        if path.name not in READ_OF_SWEEP and not (path.parent.name == "00000" and path.name in READ_OF_TRIAL):
            damage(path, how)
    for arguments in (["list"], *VIEWS):
        assert view(tmp_path, *arguments)[0] == 0


def test_what_can_be_made_anew_counts_as_absent(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    folder = SweepFolder(tmp_path, "bad")
    assert read_usage(folder) != Usage() and folder.confirmations() and find_runs(folder.path) is not None
    assert Outbox(folder.path).cursor().offset == 12
    for content in (b"", b"\0" * 40, b'{"goes": [', b"\xff\xfe\xfd", b"[]", b"7", b"{}", b'{"goes": 3, "points": 3}'):
        for name in ("usage.json", "confirm.json", "tracking.cursor", "tracking.runs.json", "lease.json"):
            (folder.path / name).write_bytes(content)
        assert read_usage(folder) == Usage() and folder.confirmations() == {} and find_runs(folder.path) is None
        assert Outbox(folder.path).cursor() == Cursor()
        assert folder.lease.holder() is None
        with folder.lease.hold():
            pass


def test_what_is_needed_is_named_with_what_to_do(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    folder = SweepFolder(tmp_path, "bad")
    for name, read in (
        ("spec.resolved.json", folder.spec),
        ("sweep.json", lambda: folder.sweep_id),
        ("sweep.json", lambda: folder.warm_start),
        ("untouched.json", folder.untouched),
    ):
        before = (folder.path / name).read_bytes()
        for content, problem in (
            (b"", "is empty; restore it from a backup"),
            (b"\0\0\0\0", "is empty"),
            (b'{"a"', "is not JSON: Expecting"),
            (b"\xff\xff", "is not JSON: "),
            (b"[1]", "holds no JSON object"),
        ):
            (folder.path / name).write_bytes(content)
            with pytest.raises(UserError, match=f"{name} {problem}"):
                read()
        (folder.path / name).write_bytes(before)
    (folder.path / "untouched.json").write_text("{}")
    with pytest.raises(UserError, match="untouched.json is not a record of an untouched model.*or delete it"):
        folder.untouched()
    (folder.path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="sweep.json does not say which sweep this is"):
        _ = folder.sweep_id
    (folder.path / "sweep.json").unlink()
    with pytest.raises(UserError, match="sweep.json is missing"):
        _ = folder.sweep_id
    assert names(tmp_path) == ["good", "bad"], "sorted behind those whose time is known"


def test_lines_that_are_no_measurement_are_left_out(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    folder = SweepFolder(tmp_path, "bad")
    before, path = folder.measurements(), folder.path / "test.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(before) == len(lines) > 2
    path.write_bytes(b"\xff\xfe\n" + b"7\n{}\nnull\n" + b"".join(lines[:-1]) + lines[-1][:40])
    assert list(folder.measurements().items()) == list(before.items())[:-1]
    folder.append_measurement(list(before)[-1], list(before.values())[-1])
    assert folder.measurements() == before


@pytest.mark.parametrize("name", ["usage.json", "confirm.json", "sweep.json", "spec.resolved.json", "untouched.json"])
def test_a_storage_that_fails_is_not_taken_for_a_missing_file(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    read_bytes = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.parent.name == "bad" and path.name == name:
            raise OSError(5, os.strerror(5), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    code, listed, messages = view(tmp_path, "list", "--format", "json")
    assert code == 0 and [row["name"] for row in json.loads(listed)][-2:] in (["bad", "good"], ["good", "bad"])
    if name == "sweep.json":  # needed by whoever runs it only
        with pytest.raises(UnavailableError, match="sweep.json cannot be read: Input/output error"):
            _ = SweepFolder(tmp_path, "bad").sweep_id
    else:
        assert messages == f"bad: {tmp_path}/bad/{name} cannot be read: Input/output error\n"
        assert view(tmp_path, "status", "bad")[0] == 3


def test_a_file_is_replaced_or_stays(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    folder = SweepFolder(tmp_path, "bad")
    before = (folder.path / "usage.json").read_bytes()
    synced: list[int] = []
    fsync = os.fsync

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="usage.json cannot be written: No space left"):
        patch.setattr(os, "fsync", full)
        folder.write_json("usage.json", {})
    assert synced and fsync is os.fsync
    assert (folder.path / "usage.json").read_bytes() == before
    assert not list(folder.path.glob(".*"))
    shutil.rmtree(folder.path)
    with pytest.raises(OSError, match="usage.json cannot be written: No such file or directory"):
        folder.write_json("usage.json", {})
    assert not folder.path.exists(), "a sweep that was removed does not come back as a folder"


@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_sweep_of_another_user_is_named_with_its_owner(mode: int, whole: Path, tmp_path: Path) -> None:
    """In a process without root's right to read everything."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can give a folder away")
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    bad = tmp_path / "bad"
    os.chown(bad, 65534, 65534)
    bad.chmod(mode)
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sweeper.cli.main import main; main()"
    rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]

    def said(*arguments: str) -> tuple[int, str, str]:
        command = [*rights, sys.executable, "-c", script, *arguments, "--storage", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    try:
        code, _, err = said("resume", "bad")
        assert code == 3 and err.startswith("sweep 'bad' belongs to ") and f"and {bad} may not be written to" in err
        code, out, err = said("list", "--format", "json")
        states = {row["name"]: row["state"] for row in json.loads(out)}
        assert code == 0 and states == {"good": "unfinished", "bad": "unreadable" if mode == 0 else "unfinished"}
        assert err.startswith("bad: sweep 'bad' belongs to ") if mode == 0 else err == ""
    finally:
        bad.chmod(0o755)

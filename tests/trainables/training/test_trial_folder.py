"""The files of a trial: damaged, cut off, on a disk that is full or fails; and trials that go on with what is left."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.reports import make_report
from tests.helpers.tiny import parameters
from tests.trainables.training.test_trial import make_context, one_thread, tensors, without_times
from trainables.context.trial_context import TrialContext
from trainables.files import StorageError
from trainables.records import Report, TrialResult
from trainables.training.hooks import Hooks
from trainables.training.trial import run_trial
from trainables.training.trial_folder import CheckpointUnreadable, Superseded, TrialFolder

assert one_thread  # a fixture

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "halved": lambda content: content[: len(content) // 2],
    "garbage": lambda content: os.urandom(len(content)),
    "garbage in the middle": lambda content: (
        content[: len(content) // 2] + b"?" * 64 + content[len(content) // 2 + 64 :]
    ),
    "zeros at the end": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    """A trial saves as often as the disk is quick enough."""
    return make_context(tmp_path_factory.mktemp("folder"), "vit", checkpoint_every_s=1e-6)


@pytest.fixture(scope="module")
def whole(context: TrialContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialResult, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return run_trial(context, parameters(), seed=5, folder=TrialFolder(folder)), folder


class Killed(BaseException):
    pass


def killed_at(context: TrialContext, step: int, folder: Path) -> Path:
    def die(report: Report) -> None:
        if report.step == step:
            raise Killed

    with pytest.raises(Killed):
        run_trial(context, parameters(), seed=5, folder=TrialFolder(folder), hooks=Hooks(report=die))
    return folder


def damage(path: Path, how: str) -> None:
    path.write_bytes(DAMAGES[how](path.read_bytes()))


def state(value: float = 0.5) -> dict[str, Any]:
    return {
        "policy": {"w": torch.full((2000,), value)},
        "step": 3,
        "times_s": {"train_s": value},
        "lists": [1, (2, None)],
    }


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_begins_the_trial_again(
    how: str, context: TrialContext, whole: tuple[TrialResult, Path], tmp_path: Path
) -> None:
    folder, lines, steps = killed_at(context, 8, tmp_path / "trial"), list[str](), list[list[int]]()
    damage(folder / "checkpoint.pt", how)
    files = TrialFolder(folder, attempt=2)
    hooks = Hooks(log=lines.append, report=lambda report: steps.append(list(files.reports())))
    result = run_trial(context, parameters(), seed=5, folder=files, hooks=hooks)
    assert without_times(result) == without_times(whole[0])
    assert all(torch.equal(value, tensors(folder)[name]) for name, value in tensors(whole[1]).items())
    (line,) = lines
    assert line.startswith("checkpoint.pt cannot be read (")
    assert line.endswith("): the trial begins again; the file is kept as checkpoint.pt.unreadable")
    assert (folder / "checkpoint.pt.unreadable").exists() and not (folder / "checkpoint.pt").exists()
    assert steps == [[4], [4, 8]], "the trial is no further than it is now"
    assert [json.loads(text)["step"] for text in (folder / "metrics.jsonl").read_text().splitlines()] == [4, 8, 4, 8]


def test_a_checkpoint_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    torch.save(state(), tmp_path / "checkpoint.pt")
    loaded = folder.load_checkpoint()
    assert loaded is not None and loaded["step"] == 3
    folder.save_checkpoint(state(1e-310))  # a denormal: its digits depend on the thread
    loaded = folder.load_checkpoint()
    assert loaded is not None and set(loaded) == set(state()) and loaded["times_s"] == {"train_s": 1e-310}
    torch.save([1], tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointUnreadable, match="not a checkpoint of a trial"):
        folder.load_checkpoint()


@pytest.mark.parametrize("how", ["empty", "halved", "garbage"])
@pytest.mark.parametrize("checkpoint", ["kept", "gone"])
def test_a_damaged_result_is_made_again(
    how: str, checkpoint: str, context: TrialContext, whole: tuple[TrialResult, Path], tmp_path: Path
) -> None:
    folder = killed_at(context, 8, tmp_path / "trial")
    if checkpoint == "gone":
        (folder / "checkpoint.pt").unlink()
    (folder / "result.json").write_bytes(DAMAGES[how]((whole[1] / "result.json").read_bytes()))
    assert TrialFolder(folder).result() is None
    result = run_trial(context, parameters(), seed=5, folder=TrialFolder(folder, attempt=2))
    assert without_times(result) == without_times(whole[0])
    assert TrialFolder(folder).result() == result and list(TrialFolder(folder).reports()) == [4, 8]


def test_damaged_weights_are_a_storage_error(whole: tuple[TrialResult, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path, content = tmp_path / "weights.safetensors", (whole[1] / "weights.safetensors").read_bytes()
    assert (
        oct(path.parent.stat().st_mode)
        and oct((whole[1] / "weights.safetensors").stat().st_mode)[-3:]
        == oct((whole[1] / "result.json").stat().st_mode)[-3:]
    ), "as readable as the other files"
    for how in DAMAGES:
        path.write_bytes(DAMAGES[how](content))
        with pytest.raises(StorageError, match=f"^{path} cannot be read: [^\n]+$"):
            TrialFolder(tmp_path).weights("last")
    path.unlink()
    with pytest.raises(StorageError, match="cannot be read: No such file"):
        TrialFolder(tmp_path).weights("last")
    path.write_bytes(content)
    save_file(load_file(path), path)  # as earlier versions wrote it, and any other reader reads it
    expected = TrialFolder(whole[1]).weights("averaged")
    assert all(torch.equal(value, expected[name]) for name, value in TrialFolder(tmp_path).weights("averaged").items())


@pytest.mark.parametrize("content", [b"", b"\0\0", b"2x", "²".encode(), b"-1", b"9" * 5000])
def test_a_damaged_attempt_file_never_lets_a_number_be_used_twice(content: bytes, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, attempt=3)
    (tmp_path / "attempt").write_bytes(content)
    (tmp_path / "micro_batch_size").write_bytes(content)
    assert folder.last_attempt() == 0 and folder.micro_batch_size() is None
    folder.append_report(make_report())
    assert folder.last_attempt() == 3
    with pytest.raises(Superseded):
        TrialFolder(tmp_path, attempt=2).claim()
    TrialFolder(tmp_path, attempt=4).claim()
    assert folder.last_attempt() == 4


def test_sizes_of_micro_batches_never_rise(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    sizes = []
    for size in (8, 4, 6, 2):
        folder.save_micro_batch_size(size)
        sizes.append(folder.micro_batch_size())
    assert sizes == [8, 4, 4, 2]


def test_lines_that_are_no_reports_are_left_out(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    folder.append_report(make_report())
    whole_line = json.loads((tmp_path / "metrics.jsonl").read_text())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for line in (
            {"step": 4},
            {},
            {**whole_line, "step": "x"},
            {**whole_line, "train_s": None},
            {"epoch": 1, "epochs": 0},
        ):
            file.write(json.dumps(line) + "\n")
    assert len(folder.reports()) == 1


@pytest.mark.parametrize("name", ["attempt", "metrics.jsonl", "result.json", "checkpoint.pt", "micro_batch_size"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES], ids=errno.errorcode.get)
def test_a_file_that_the_disk_does_not_give_is_not_absent(
    name: str, number: int, context: TrialContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = killed_at(context, 4, tmp_path / "trial")
    really = Path.open

    def failing(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if path.name == name and mode == "rb":
            raise OSError(number, os.strerror(number), str(path))
        return really(path, mode, *arguments, **options)

    (folder / "micro_batch_size").write_text("4")
    (folder / "result.json").write_text("{}")
    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(StorageError, match=f"{name} cannot be read: {os.strerror(number)}"):
        run_trial(context, parameters(), seed=5, folder=TrialFolder(folder, attempt=2))
    monkeypatch.undo()
    assert (folder / "checkpoint.pt").exists() and not (folder / "checkpoint.pt.unreadable").exists()


def test_a_full_disk_leaves_the_old_files_and_no_halves(tmp_path: Path) -> None:
    """In a process of its own, in which no file may grow above a limit."""
    script = """
import resource, sys
from pathlib import Path
import torch
from tests.helpers.reports import make_report
from tests.trainables.training.test_trial_folder import state
from trainables.files import StorageError
from trainables.records import TrialResult
from trainables.training.trial_folder import TrialFolder

path = Path(sys.argv[1])
folder = TrialFolder(path)
folder.claim()
folder.save_checkpoint(state())
folder.append_report(make_report())
before = {file.name: file.read_bytes() for file in path.iterdir()}
result = TrialResult(values={}, points=(), epochs=1, train_s=0.0, evaluation_s=0.0)
limit = (path / "metrics.jsonl").stat().st_size + 9
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
writes = {
    "checkpoint.pt": lambda: folder.save_checkpoint(state(0.7)),
    "metrics.jsonl": lambda: folder.append_report(make_report()),
    "weights.safetensors": lambda: folder.finish(result, {"last.w": torch.ones(1000)}),
}
for name, write in writes.items():
    try:
        write()
        raise SystemExit(f"{name} was written")
    except StorageError as error:
        expected = f"{path / name} cannot be written: File too large"
        assert str(error).replace(f"{path / name}: File", "File") in (expected, "File too large"), error
        assert str(path / name) in str(error)
after = {file.name: file.read_bytes() for file in path.iterdir()}
assert after == before, sorted(after)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for write in (lambda: folder.save_micro_batch_size(12), lambda: TrialFolder(path, attempt=12).claim()):
    try:
        write()
        raise SystemExit("was written")
    except StorageError:
        pass
assert {file.name: file.read_bytes() for file in path.iterdir()} == before
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert run.returncode == 0, run.stderr


def test_a_disk_that_fills_ends_a_trial_with_a_storage_error(
    context: TrialContext, whole: tuple[TrialResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the background writer too; the next attempt goes on from what is whole."""
    really = os.fsync

    def full(descriptor: int) -> None:
        if "checkpoint" in os.readlink(f"/proc/self/fd/{descriptor}") and (tmp_path / "metrics.jsonl").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"checkpoint\.pt cannot be written: No space left on device"):
        run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path))
    monkeypatch.undo()
    # Whether training reaches the second milestone depends on how fast the background writer fails.
    assert list(TrialFolder(tmp_path).reports()) in ([4], [4, 8])
    result = run_trial(context, parameters(), seed=5, folder=TrialFolder(tmp_path, attempt=2))
    assert without_times(result) == without_times(whole[0])


def test_an_attempt_removes_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.pt.123.part").write_bytes(b"half")
    TrialFolder(tmp_path).claim()
    assert {path.name for path in tmp_path.iterdir()} == {"attempt"}


@pytest.mark.parametrize("start", ["dies before it begins", "cannot be started"])
def test_a_checkpoint_is_written_though_no_thread_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """Where memory runs out, a new thread may end before its first line, and nobody is told (CPython 3.11)."""
    from trainables.training import checkpoint

    def no_thread(function: object, arguments: tuple[object, ...]) -> int:
        if start == "cannot be started":
            raise RuntimeError("can't start new thread")
        return 0

    monkeypatch.setattr(checkpoint._thread, "start_new_thread", no_thread)
    monkeypatch.setattr(checkpoint, "START_S", 0.05)
    folder = TrialFolder(tmp_path)
    folder.claim()
    writer = checkpoint.CheckpointWriter(folder)
    for step in (1, 2):
        writer.save({"step": step})
    writer.wait()
    state = folder.load_checkpoint()
    assert state is not None and state["step"] == 2

"""A sweep comes into being in one step, with its lease, and nobody removes another's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sweeper.errors import UnavailableError, UserError
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder, create_under_free_name, names
from tests.paths import ROOT

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"
HEAD = f"""
import os, sys, time
from pathlib import Path
from sweeper.errors import UserError
from sweeper.spec.spec import load_spec
from sweeper.storage.sweep_folder import SweepFolder, create_under_free_name
storage = Path(sys.argv[1])
spec = load_spec({str(QUICKSTART)!r}, ["name=demo"])
folder = SweepFolder(storage, "demo")
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def start_line():
    say("ready")
    sys.stdin.readline()
"""
CROWD = 20
FORKED = f"""
start, started = os.pipe()
end, ended = os.pipe()
def wait_for_end():
    os.read(end, 1)
def child():
    os.close(started), os.close(ended)
    os.read(start, 1)
    try:
        body()
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)
children = []
for _ in range({CROWD}):
    children.append(os.fork())
    if children[-1] == 0:
        child()
os.close(started)  # all begin at once
sys.stdin.readline()
os.close(ended)
sys.exit(max(os.waitpid(child, 0)[1] for child in children) != 0)
"""


@pytest.fixture(scope="module")
def spec() -> Spec:
    return load_spec(QUICKSTART, ["name=demo"])


def begin(script: str, storage: Path, count: int) -> list[subprocess.Popen[str]]:
    """Return processes that are all about to begin; ``go`` lets one go on."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.PIPE}
    command = [sys.executable, "-c", HEAD + script, str(storage)]
    processes = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(count)]
    for process in processes:
        assert line_of(process) == "ready"
    return processes


def crowd(body: str, storage: Path) -> subprocess.Popen[str]:
    """Return a process whose ``CROWD`` children, forked once everything is imported, begin ``body`` at once."""
    code = f"def body():\n    global folder\n{textwrap.indent(body, '    ')}\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", HEAD + code + FORKED, str(storage)], cwd=ROOT, text=True, **pipes)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def check_whole(folder: SweepFolder, spec: Spec) -> None:
    assert folder.spec() == spec and folder.sweep_id and not folder.lease.is_held()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "lease.lock",
        "spec.resolved.json",
        "spec.yaml",
        "sweep.json",
    ]


def test_of_twenty_that_create_one_name_one_succeeds(tmp_path: Path, spec: Spec) -> None:
    storage = tmp_path / "sweeps"
    process = crowd(
        """
try:
    lease = folder.create_and_hold(spec, "text")
except UserError as error:
    say("refused", error)
else:
    say("created", folder.sweep_id, os.getpid())
    wait_for_end()
    lease.release()
""",
        storage,
    )
    said = [line_of(process) for _ in range(CROWD)]
    created = [line.split() for line in said if line.startswith("created")]
    assert len(created) == 1, said
    assert sum(line.startswith("refused a sweep 'demo' exists in") for line in said) == CROWD - 1, said
    folder = SweepFolder(storage, "demo")
    assert folder.lease.is_held() and str(folder.lease.holder()).startswith(f"process {created[0][2]} ")
    assert created[0][1] == folder.sweep_id
    go(process)
    assert process.wait(timeout=60) == 0, process.communicate()[1]
    check_whole(folder, spec)
    assert [path.name for path in storage.iterdir()] == ["demo"]


def test_twenty_that_create_and_cannot_start_leave_nothing(tmp_path: Path) -> None:
    """Each removes what it made, again and again, and never what another made."""
    storage = tmp_path / "sweeps"
    process = crowd(
        """
created = 0
for _ in range(15):
    folder = SweepFolder(storage, "demo")
    try:
        with folder.create_and_hold(spec, "text") as lease:
            mine = folder.sweep_id
            time.sleep(0.01)
            assert folder.sweep_id == mine and folder.spec() == spec, "another's cleanup came by"
            folder.remove_unstarted(lease)
            created += 1
    except UserError:
        pass
say(created)
""",
        storage,
    )
    said, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors
    assert len(said.splitlines()) == CROWD and sum(map(int, said.splitlines())) > 0
    assert not storage.exists() or list(storage.iterdir()) == []


def test_a_creator_held_up_before_its_rename_loses(tmp_path: Path, spec: Spec) -> None:
    script = """
rename = os.rename
def held_up(source, target):
    if str(source).endswith(".new"):
        start_line()
    rename(source, target)
os.rename = held_up
try:
    with folder.create_and_hold(spec, "text") as lease:
        print("created")
except UserError as error:
    print("refused", error)
"""
    held_up = begin(script, tmp_path, 1)[0]  # beyond its tests
    folder = SweepFolder(tmp_path, "demo")
    with folder.create_and_hold(spec, "text") as lease:
        folder.write_json("study.db", {})
        before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.name != "lease.json"}
        go(held_up)
        assert line_of(held_up).startswith("refused a sweep 'demo' exists in")
        assert held_up.wait(timeout=30) == 0
        assert lease.is_current()
        assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_twenty_with_the_next_free_name_get_twenty_names(tmp_path: Path) -> None:
    process = crowd(
        """
folder, named, lease = create_under_free_name(storage, spec, "text")
assert folder.spec() == named and named.name == folder.name
say(folder.name)
wait_for_end()
""",
        tmp_path,
    )
    said = {line_of(process) for _ in range(CROWD)}
    assert said == {"demo", *(f"demo-{number}" for number in range(2, CROWD + 1))} == set(names(tmp_path))
    assert all(SweepFolder(tmp_path, name).lease.is_held() for name in said)
    go(process)
    assert process.wait(timeout=60) == 0, process.communicate()[1]
    assert not any(SweepFolder(tmp_path, name).lease.is_held() for name in said), "they ended without giving it back"


def test_what_killed_creators_leave_goes_with_the_next_create(tmp_path: Path, spec: Spec) -> None:
    script = """
import signal
def die(source, target):
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = die
start_line()
folder.create_and_hold(spec, "text")
"""
    hold = """
os.rename = lambda source, target: start_line()
folder.create_and_hold(spec, "text")
"""
    killed = begin(script, tmp_path, 1)[0]
    go(killed)
    killed.wait(timeout=30)
    alive = begin(hold, tmp_path, 1)[0]
    in_the_making = {path.name for path in tmp_path.iterdir()}
    assert len(in_the_making) == 2 and names(tmp_path) == []
    (tmp_path / f".demo.{'0' * 32}.removed" / "trials").mkdir(parents=True)
    other_machine = tmp_path / f".demo.{'1' * 32}.new"
    other_machine.mkdir()
    record = {"host": "elsewhere", "boot_id": "b", "pid": 7, "since_s": 1.7e9, "token": "t"}
    (other_machine / "lease.json").write_text(json.dumps(record))
    nameless = tmp_path / f".demo.{'2' * 32}.new"
    nameless.mkdir()
    (tmp_path / ".git").mkdir()
    folder = SweepFolder(tmp_path, "demo")
    folder.create(spec, "text")
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left & in_the_making) == 1, "the one that is alive"
    assert left - in_the_making == {"demo", ".git", other_machine.name, nameless.name}
    long_ago_s = time.time() - 7200
    for path in (other_machine / "lease.json", nameless):
        os.utime(path, (long_ago_s, long_ago_s))
    SweepFolder(tmp_path, "another").create(spec, "text")
    assert {path.name for path in tmp_path.iterdir()} - in_the_making == {"demo", "another", ".git"}
    alive.kill()
    alive.communicate()


def test_only_what_this_process_created_is_removed(tmp_path: Path, spec: Spec) -> None:
    storage = tmp_path / "sweeps"
    folder = SweepFolder(storage, "demo")
    folder.create(spec, "text")
    stranger = SweepFolder(storage, "demo")
    with stranger.lease.hold() as lease:
        stranger.remove_unstarted(lease)
        assert stranger.exists(), "resumed, not created"
    with folder.lease.hold() as lease:
        about = json.loads((folder.path / "sweep.json").read_text())
        folder.write_json("sweep.json", about | {"sweep_id": "another"})
        folder.remove_unstarted(lease)
        assert folder.exists(), "of the same name, but another"
        folder.write_json("sweep.json", about)
        folder.write_json("untouched.json", {})
        folder.remove_unstarted(lease)
        assert folder.exists(), "it has begun"


@pytest.mark.parametrize("other", [None, "cache", "mlflow.db"])
def test_a_storage_goes_with_the_sweep_it_was_made_for(other: str | None, tmp_path: Path, spec: Spec) -> None:
    storage = tmp_path / "deep" / "sweeps"
    folder = SweepFolder(storage, "demo")
    with folder.create_and_hold(spec, "text") as lease:
        if other is not None:
            (storage / other).mkdir()
        folder.remove_unstarted(lease)
    assert not folder.path.exists() and storage.exists() == (other is not None)
    if other is not None:
        assert [path.name for path in storage.iterdir()] == [other]
        with folder.create_and_hold(spec, "text") as lease:
            folder.remove_unstarted(lease)
        (storage / other).rmdir()
        assert list(storage.iterdir()) == []


def test_a_name_that_another_took_after_the_removal_is_left_alone(tmp_path: Path, spec: Spec) -> None:
    folder = SweepFolder(tmp_path, "demo")
    lost: list[str] = []
    with folder.create_and_hold(spec, "text", on_lost=lost.append) as lease:
        folder.remove_unstarted(lease)
        with SweepFolder(tmp_path, "demo").create_and_hold(spec, "text") as other:
            lease.release()
            assert other.is_current()
    assert lost == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (("spec.yaml",), "was begun by an earlier version of sweeper, which was killed.*Delete the folder, or take"),
        (("spec.yaml", "sweep.json"), "was begun by an earlier version"),
        (("dog.jpg",), "exists and is not a sweep; take another name with --name OTHER"),
        (("spec.resolved.json",), "go on with `sweeper resume demo --storage /.*`, or start another"),
        ((), None),
    ],
)
def test_what_is_in_the_place_of_a_new_sweep(
    content: tuple[str, ...], message: str | None, tmp_path: Path, spec: Spec
) -> None:
    folder = SweepFolder(tmp_path, "demo")
    folder.path.mkdir()
    for name in content:
        (folder.path / name).write_text("")
    if message is None:
        folder.create(spec, "")
        return check_whole(folder, spec)
    with pytest.raises(UserError, match=message):
        folder.create(spec, "")
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(content)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert create_under_free_name(tmp_path, spec, "")[0].name == "demo-2"


def test_a_disk_that_does_not_take_a_new_sweep_is_left_as_it_was(
    tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch, pytest.raises(UnavailableError, match="demo: No space left on device"):
        patch.setattr(os, "rename", full)
        SweepFolder(tmp_path / "sweeps", "demo").create(spec, "")
    assert list(tmp_path.iterdir()) == []


def test_partial_files_go_whole_ones_stay(tmp_path: Path, spec: Spec) -> None:
    folder = SweepFolder(tmp_path, "demo")
    folder.create(spec, "")
    partial = [
        ".usage.json.123.part",
        ".tracking.cursor.123",
        "front/.front.json.55",
        "front/.front.png.55.part",
        "answers/.untouched.csv.gz.9.part",
        "trials/00003/.checkpoint.pt.2.77",
        "trials/00003/.result.json.4.part",
        "trials/00012/.attempt.1.77",
    ]
    whole = ["tracking.jsonl", "front/front.json", "trials/00003/checkpoint.pt", "trials/00003/.note", ".hidden"]
    for name in (*partial, *whole):
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (folder.path / ".folder.12").mkdir()
    before = set(folder.path.rglob("*"))
    folder.remove_partial_files()
    assert before - set(folder.path.rglob("*")) == {folder.path / name for name in partial}
    with contextlib.suppress(UserError):
        SweepFolder(tmp_path, "nobody").remove_partial_files()

"""One process at a time runs a sweep, and none keeps the right to it longer than it lives."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper.errors import UnavailableError, UserError
from sweeper.storage.lease import Holder, Lease
from tests.paths import ROOT

RENEW_S, LEASE_S = 0.2, 1.0
ELSEWHERE = {"host": "elsewhere", "boot_id": "b", "pid": 7, "since_s": 1.7e9, "token": "t"}
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Python on a script, with the folder in ``sys.argv[1]``; what still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def begin(script: str) -> subprocess.Popen[str]:
        head = "import os, sys, time\nfrom pathlib import Path\nfrom sweeper.storage.lease import Lease\n"
        head += f"lease = Lease(Path(sys.argv[1]), 'demo', renew_s={RENEW_S}, lease_s={LEASE_S})\n"
        command = [sys.executable, "-c", head + textwrap.dedent(script), str(tmp_path)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.PIPE}
        processes.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


HOLD = """
with lease.hold():
    print("held", flush=True)
    time.sleep(60)
"""


def lease_of(folder: Path) -> Lease:
    return Lease(folder, "demo", renew_s=RENEW_S, lease_s=LEASE_S)


def held_by(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


@contextlib.contextmanager
def renewed(path: Path) -> Iterator[None]:
    """Renew ``lease.json`` as its holder on another machine does."""
    script = "import os, sys, time\nwhile True:\n    os.utime(sys.argv[1])\n    time.sleep(0.1)"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_killed_holder_holds_nothing_any_more(tmp_path: Path, start: Start) -> None:
    holder = start(HOLD)
    held_by(holder)
    assert lease_of(tmp_path).is_held() and f"process {holder.pid} on " in str(lease_of(tmp_path).holder())
    with pytest.raises(UserError, match=f"'demo' is being run by process {holder.pid} on .*; wait for it or end it"):
        lease_of(tmp_path).hold()
    holder.kill()
    holder.wait()
    assert not lease_of(tmp_path).is_held()
    began_s = time.monotonic()
    with lease_of(tmp_path).hold():
        assert time.monotonic() - began_s < 0.5 * LEASE_S
        assert lease_of(tmp_path).is_held()
    assert [path.name for path in tmp_path.iterdir()] == ["lease.lock"]


def test_a_stopped_holder_on_this_machine_keeps_it(tmp_path: Path, start: Start) -> None:
    holder = start(HOLD)
    held_by(holder)
    os.kill(holder.pid, signal.SIGSTOP)
    time.sleep(2 * LEASE_S)
    with pytest.raises(UserError, match=f"is being run by process {holder.pid}"):
        lease_of(tmp_path).hold()
    os.kill(holder.pid, signal.SIGCONT)
    time.sleep(2 * RENEW_S)
    assert holder.poll() is None


def test_a_holder_elsewhere_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(ELSEWHERE))
    with renewed(path):
        began_s = time.monotonic()
        with pytest.raises(UserError, match="is being run by process 7 on elsewhere since 2023"):
            lease_of(tmp_path).hold()
        assert time.monotonic() - began_s < LEASE_S
        assert lease_of(tmp_path).is_held()
    began_s = time.monotonic()
    with lease_of(tmp_path).hold() as held:
        assert LEASE_S <= time.monotonic() - began_s < 3 * LEASE_S
        assert held.is_current() and json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lock_that_a_server_keeps_for_a_dead_machine_does_not_hold_it(tmp_path: Path, start: Start) -> None:
    locker = start("""
        import fcntl
        lock = open(sys.argv[1] + "/lease.lock", "a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("held", flush=True)
        time.sleep(60)
    """)
    held_by(locker)
    with pytest.raises(UserError, match="by another process, which has .*lease.lock locked"):
        lease_of(tmp_path).hold()  # who has it is not known: no reason to take it
    (tmp_path / "lease.json").write_text(json.dumps(ELSEWHERE))
    with lease_of(tmp_path).hold(), pytest.raises(UserError, match=f"is being run by process {os.getpid()}"):
        lease_of(tmp_path).hold()


def test_an_earlier_versions_holder_is_decided_by_the_lock(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text(json.dumps({"host": "elsewhere", "pid": 7, "since_s": 1.7e9}))
    began_s = time.monotonic()
    with lease_of(tmp_path).hold():
        assert time.monotonic() - began_s < 0.5 * LEASE_S


def test_a_lease_given_back_while_it_is_watched_is_taken_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(ELSEWHERE))
    threading.Timer(0.3, path.unlink).start()
    began_s = time.monotonic()
    with lease_of(tmp_path).hold():
        assert time.monotonic() - began_s < LEASE_S


def test_of_two_takers_one_wins(tmp_path: Path, start: Start) -> None:
    (tmp_path / "lease.json").write_text(json.dumps(ELSEWHERE))
    script = """
        sys.stdin.readline()
        try:
            with lease.hold():
                print("won", flush=True)
                time.sleep(2)
                print("kept", flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    """
    for _ in range(2):
        takers = [start(script) for _ in range(4)]
        time.sleep(0.5)
        for taker in takers:
            assert taker.stdin is not None
            taker.stdin.write("\n")
            taker.stdin.flush()
        said = sorted(taker.communicate(timeout=30)[0] for taker in takers)
        assert said[-1] == "won\nkept\n"
        assert all(text.startswith("UserError sweep 'demo' is being run by process") for text in said[:-1]), said
        (tmp_path / "lease.json").write_text(json.dumps(ELSEWHERE))


def test_a_holder_that_was_away_too_long_ends(tmp_path: Path, start: Start) -> None:
    """Another machine has taken over meanwhile, and has given back or not."""
    for given_back in (False, True):
        holder = start(HOLD)
        held_by(holder)
        os.kill(holder.pid, signal.SIGSTOP)
        record = json.loads((tmp_path / "lease.json").read_text())
        (tmp_path / "lease.json").write_text(json.dumps(record | {"host": "elsewhere"}))  # as another machine sees it
        with contextlib.ExitStack() as stack:
            stack.enter_context(lease_of(tmp_path).hold())
            if given_back:
                stack.close()
            os.kill(holder.pid, signal.SIGCONT)
            error = holder.communicate(timeout=10)[1]
            assert holder.returncode == 3
            by = "another process" if given_back else f"process {os.getpid()} on "
            assert f"sweep 'demo' was taken over by {by}" in error and error.count("\n") == 1, error


def test_a_lost_lease_can_be_told_to_the_caller(tmp_path: Path) -> None:
    lost: list[str] = []
    with lease_of(tmp_path).hold(lost.append) as held:
        (tmp_path / "lease.json").write_text(json.dumps(ELSEWHERE))
        time.sleep(3 * RENEW_S)
        assert not held.is_current()
    assert len(lost) == 1 and "process 7 on elsewhere" in lost[0]
    assert (tmp_path / "lease.json").exists(), "the other's"


@pytest.mark.parametrize("content", [None, b"", b"{", b"\x00\xff" * 32, b"[]", b"{}"])
def test_a_damaged_file_names_nobody_and_is_written_again(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    if content is not None:
        path.write_bytes(content)
        assert lease_of(tmp_path).holder() is None and not lease_of(tmp_path).is_held()
    with lease_of(tmp_path).hold() as held:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert lease_of(tmp_path).is_held()
        deadline = time.monotonic() + 10
        while not held.is_current():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_renewing_needs_no_space_and_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[str] = []
    with lease_of(tmp_path).hold(lost.append):
        before = (tmp_path / "lease.json").stat()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("sweeper.storage.lease.replace_text", full)
        clock_s = time.time()
        monkeypatch.setattr(time, "time", lambda: clock_s - 1e6)
        time.sleep(3 * RENEW_S)
        after = (tmp_path / "lease.json").stat()
        assert after.st_mtime_ns > before.st_mtime_ns and after.st_ino == before.st_ino
        (tmp_path / "lease.json").unlink()
        time.sleep(3 * RENEW_S)  # it cannot be written, and nobody else has it
    assert lost == []


def test_looking_at_a_lease_refuses_it_to_nobody(tmp_path: Path) -> None:
    with lease_of(tmp_path).hold():
        pass
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            lease_of(tmp_path).is_held()

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(20):
            with lease_of(tmp_path).hold():
                pass
    finally:
        done.set()
        for looker in lookers:
            looker.join()


def test_a_holder_elsewhere_that_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(ELSEWHERE))
    assert lease_of(tmp_path).is_held()
    os.utime(path, (time.time() - 50, time.time() - 50))
    assert lease_of(tmp_path).is_held(), "clocks differ"
    os.utime(path, (time.time() - 70, time.time() - 70))
    assert not lease_of(tmp_path).is_held()


def test_a_folder_that_is_gone_or_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no sweep 'demo' any more"):
        lease_of(tmp_path / "gone").hold()

    def stale(*_: object) -> None:
        raise OSError(116, "Stale file handle", str(tmp_path / "lease.json"))

    monkeypatch.setattr("sweeper.storage.lease._look", stale)
    for ask in (lease_of(tmp_path).hold, lease_of(tmp_path).holder, lease_of(tmp_path).is_held):
        with pytest.raises(UnavailableError, match="lease.json: Stale file handle"):
            ask()


def test_what_a_holder_says_of_itself() -> None:
    mine = Holder.this_process()
    assert mine.is_decided_by_lock and mine.token != Holder.this_process().token
    odd = Holder.parsed(b'{"host": "h", "pid": 1, "since_s": 1e300}')
    assert odd is not None and odd.text == "process 1 on h"

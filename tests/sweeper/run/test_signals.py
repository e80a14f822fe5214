"""Signals and the end of the driver, in processes of their own."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sweeper.run.signals import SessionInterrupted, StopSignal
from tests.helpers.runners import patience
from tests.paths import ROOT

PATIENCE_S = 60
DRIVER = """
import sys, time
sys.path.insert(0, {root!r})
from sweeper.run.cleanup import SessionCleanup
from sweeper.run.signals import StopSignal
with SessionCleanup("sweeper resume x") as cleanup:
    with StopSignal("sweeper resume x", {grace_s}, before_end=cleanup.user_was_told) as stop:
        {start}
        print("ready", flush=True)
        {work}
        print("asked", flush=True)
        {tail}
print("closed", flush=True)
"""
UNTIL_ASKED = "\n        while not stop.asked: time.sleep(0.02)"
SLEEPER = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"


def driver(
    *, grace_s: float = 30.0, start: str = "pass", work: str = UNTIL_ASKED, tail: str = "pass", **popen: object
) -> subprocess.Popen[str]:
    code = DRIVER.format(root=str(ROOT), grace_s=grace_s, start=start, work=work, tail=tail)
    settings: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings |= {"preexec_fn": _heed_hangups, **popen}
    process: subprocess.Popen[str] = subprocess.Popen([sys.executable, "-c", code], **settings)  # type: ignore[call-overload]
    if process.stdout is not None:
        assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_the_first_signal_asks_and_the_sweep_ends_in_order(number: signal.Signals) -> None:
    process = driver()
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (0, "asked\nclosed\n")
    assert err == "\nstopping, within 30 s (again: end at once)\n"


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_ends_at_once_even_while_the_main_thread_is_in_a_call(second: signal.Signals) -> None:
    # A call of a thread that the main thread waits for: Python runs no handler of signals before it returns.
    stuck = "import threading; lock = threading.Lock(); lock.acquire(); time.sleep(0.1); lock.acquire()"
    process = driver(work=stuck)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n" and process.stderr.readline().startswith("stopping")
    process.send_signal(second)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert err == "\nended at once; go on with: sweeper resume x\n"


def test_a_request_of_a_batch_script_ends_nothing_however_often_it_comes() -> None:
    process = driver(tail="input()", stdin=subprocess.PIPE)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None and process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    for _ in range(3):
        process.send_signal(signal.SIGUSR1)
    process.stdin.write("\n")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (0, "closed\n")
    assert err == "\nstopping, within 30 s (again: end at once)\n"


def test_the_process_ends_when_the_grace_time_is_over() -> None:
    process = driver(grace_s=0.5, tail="time.sleep(600)")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, "asked\n")
    assert err.endswith("\nnot everything was done within 0.5 s; go on with: sweeper resume x\n")


def test_under_nohup_a_hangup_stays_ignored() -> None:
    process = driver(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (0, "asked\nclosed\n") and err.count("stopping") == 1


def test_a_terminal_that_is_closed_ends_the_sweep_in_order(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    tail = f"print('to the terminal', file=sys.stderr, flush=True); open({str(tmp_path / 'end')!r}, 'w').write('end')"
    process = driver(tail=tail, stdout=theirs, stderr=theirs, stdin=theirs, start_new_session=True, preexec_fn=_adopt)
    os.close(theirs)
    while b"\n" not in os.read(ours, 1000):  # "ready", written to its end
        pass
    os.close(ours)  # the kernel sends SIGHUP
    assert process.wait(timeout=PATIENCE_S) == 0
    assert (tmp_path / "end").read_text() == "end"


def _heed_hangups() -> None:
    """The tests themselves may run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _adopt() -> None:
    import fcntl
    import termios

    _heed_hangups()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def marked(mark: str) -> list[int]:
    pids = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SWEEPER_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
        except psutil.Error:
            continue
    return pids


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda process: process.kill(), True),
        (lambda process: process.send_signal(signal.SIGABRT), True),
        (lambda process: [process.send_signal(signal.SIGTERM), time.sleep(0.5), process.send_signal(15)], False),
    ],
    ids=["kill", "abort", "twice"],
)
def test_whatever_ends_the_driver_the_user_is_told_once_and_nothing_is_left(
    end: Callable[[subprocess.Popen[str]], object], told: bool
) -> None:
    mark = uuid.uuid4().hex
    process = driver(
        start=SLEEPER, tail="time.sleep(600)", env={**os.environ, "SWEEPER_TEST_MARK": mark}, start_new_session=True
    )
    with patience(PATIENCE_S, "driver, its child in another session, the process that cleans up") as again:
        while len(marked(mark)) < 3 and again():
            pass
    stopped = next(pid for pid in marked(mark) if psutil.Process(pid).name() == "sleep")
    os.kill(stopped, signal.SIGSTOP)
    end(process)
    _, err = process.communicate(timeout=PATIENCE_S)
    lines = [line for line in err.splitlines() if "go on with" in line]
    assert len(lines) == 1 and lines[0].endswith("go on with: sweeper resume x")
    assert ("was killed" in lines[0]) == told
    with patience(PATIENCE_S, "the processes of the session to end") as again:
        while marked(mark) and again():
            pass


def test_waiting_is_cut_short_once_the_sweep_was_asked_to_stop() -> None:
    assert threading.current_thread() is threading.main_thread()
    with StopSignal("sweeper resume x", 5.0) as stop:
        is_over = stop.impatience(0.0)
        assert not is_over() and stop.left_s() == float("inf")
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with patience(PATIENCE_S, "the signal") as again:
            while not stop.asked and again():
                pass
        assert is_over() and 0 < stop.left_s() <= 5.0
        assert not stop.impatience(20.0)()
        with pytest.raises(SessionInterrupted):
            stop.check()
        left_s = stop.left_s()
    time.sleep(left_s + 0.5)  # whoever has left in time is not ended

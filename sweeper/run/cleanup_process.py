"""The process that outlives a sweep's driver: it tells the user how to go on, and ends the session's processes.

Started by ``cleanup.SessionCleanup`` with a pipe from the driver, which closes when the driver ends. Imports only the
standard library, to start fast and stay small.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

LEAVE_S = 8.0
"""Seconds that processes of the session have to end by themselves: Ray's end when their raylet or driver ends."""
KILL_S = 5.0
POLL_S = 0.2


def main() -> None:
    """Read the session's description and the driver's messages until the driver has ended, then act."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    session = json.loads(sys.stdin.readline())
    said = {line.strip() for line in sys.stdin}
    if not said & {"closed", "told"}:
        message = f"\nthe sweep's process was killed, or ended by Ray; go on with: {session['resume']}\n"
        with contextlib.suppress(OSError):
            os.write(2, message.encode())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        # readers that wait for the end of the driver's output need not wait for this process
        os.dup2(nowhere, descriptor)
    mark = f"{session['variable']}={session['mark']}".encode()
    _wait_until_gone(mark, LEAVE_S)
    for pid in processes_with(mark):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    _wait_until_gone(mark, KILL_S)
    if "closed" in said:
        for line in said:
            if line.startswith("remove "):
                shutil.rmtree(line.removeprefix("remove "), ignore_errors=True)


def processes_with(mark: bytes) -> list[int]:
    """Return the processes that were started with ``mark`` (``NAME=value``) in their environment."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (folder / "environ").read_bytes().split(b"\0")  # a zombie has an empty environment
        except OSError:
            continue
        if marked and int(folder.name) != os.getpid():
            pids.append(int(folder.name))
    return pids


def _wait_until_gone(mark: bytes, most_s: float) -> None:
    until = time.monotonic() + most_s
    while processes_with(mark) and time.monotonic() < until:
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()

"""The process that outlives a sweep's driver, however that dies: it tells the user, and ends what is left.

Started by ``cleanup.SessionCleanup`` with a pipe from the driver, which closes when the driver ends. Imports nothing
but the standard library, so that it costs the driver nothing.
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
"""How long processes of the session have to end by themselves: Ray's do when their raylet or driver ends."""
KILL_S = 5.0
POLL_S = 0.2


def main() -> None:
    """Read the session's description and what the driver says of its end, until the driver has ended."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    session = json.loads(sys.stdin.readline())
    said = {line.strip() for line in sys.stdin}
    if not said & {"closed", "told"}:
        message = f"\nthe sweep's process was killed, or ended by Ray; go on with: {session['resume']}\n"
        with contextlib.suppress(OSError):
            os.write(2, message.encode())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)  # whoever waits for the end of the driver's output waits no longer
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
            marked = mark in (folder / "environ").read_bytes().split(b"\0")  # a zombie's is empty
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

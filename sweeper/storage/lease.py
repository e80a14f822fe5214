"""Who may run a sweep: a lock on a file in its folder, which goes with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from sweeper.errors import UserError
from sweeper.storage.files import write_text


class Lease:
    """The right to run the sweep in a folder. One process at a time has it."""

    def __init__(self, folder: Path, sweep: str) -> None:
        self._sweep = sweep
        self._lock_path, self._holder_path = folder / "lease.lock", folder / "lease.json"

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lease until the block is left or the process ends, however it dies.

        Raise UserError naming the holder where another process has the lease.
        """
        with self._lock_path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"sweep {self._sweep!r} is being run by {self.holder() or 'another process'}; wait for it or end it"
                ) from error
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "since_s": time.time()}
            write_text(self._holder_path, json.dumps(holder, indent=1) + "\n")
            try:
                yield
            finally:
                self._holder_path.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Return whether a process holds the lease now."""
        if not self._lock_path.exists():
            return False
        with self._lock_path.open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            return False

    def holder(self) -> str | None:
        """Return who holds the lease, or held it last and was killed."""
        try:
            holder = json.loads(self._holder_path.read_text())
        except (OSError, ValueError):
            return None
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder["since_s"]))
        return f"process {holder['pid']} on {holder['host']} since {since}"

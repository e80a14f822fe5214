"""Whatever ends the driver, the user is told how to go on, and no process of the session is left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from sweeper.run import cleanup_process

VARIABLE = "SWEEPER_SESSION"
"""Environment variable that marks the processes which a session has started on this machine."""


class SessionCleanup:
    """A context manager around a session: starts the process that acts when this one ends (``cleanup_process``)."""

    def __init__(self, resume: str) -> None:
        """``resume``: the command with which the sweep goes on."""
        self._resume, self._mark = resume, uuid.uuid4().hex

    def __enter__(self) -> SessionCleanup:
        # A session of its own: a signal to the driver's process group, or its terminal, is not for this process.
        self._process = subprocess.Popen(
            [sys.executable, "-I", cleanup_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._say(json.dumps({"resume": self._resume, "variable": VARIABLE, "mark": self._mark}))
        os.environ[VARIABLE] = self._mark
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.pop(VARIABLE, None)
        self._say("closed")
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def remove_at_end(self, folder: Path) -> None:
        """Have ``folder`` removed when the session has ended in order."""
        self._say(f"remove {folder}")

    def user_was_told(self) -> None:
        """To be called before this process ends itself with a line of its own."""
        self._say("told")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has died, or the session has ended: nobody listens
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

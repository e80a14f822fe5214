"""At any end of the driver, the user is told how to go on, and all processes of the session are ended."""

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
"""Environment variable that marks the processes that a session has started on this machine."""


class SessionCleanup:
    """Context manager of a session: starts the process that acts when this process ends (``cleanup_process``)."""

    def __init__(self, resume: str) -> None:
        """Prepare the clean-up.

        Args:
            resume: the command that continues the sweep.
        """
        self._resume, self._mark = resume, uuid.uuid4().hex

    def __enter__(self) -> SessionCleanup:
        # A session of its own: signals to the driver's process group, or from its terminal, must not reach this
        # process.
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
        """Note that this process prints a last line of its own before it ends."""
        self._say("told")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the process has died, or the session has ended
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

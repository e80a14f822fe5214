"""A real terminal for a command: a pseudo terminal of a given size, whose screen is known."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

import pyte


class Terminal:
    """Runs a command in a terminal and keeps what its screen shows."""

    def __init__(
        self, command: Sequence[str], *, columns: int, lines: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self.written = b""
        """Everything that was written, with its control sequences."""
        self._stream = pyte.ByteStream(self.screen)
        self._own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        unset = ("COLUMNS", "LINES", "NO_COLOR", "CI")
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        self.process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            env={**inherited, "TERM": "xterm-256color", **(environment or {})},
            start_new_session=True,
        )
        os.close(other)

    def read(self) -> bool:
        """Take what the command writes next; return whether there was anything: at its end there is not."""
        try:
            data = os.read(self._own, 65536)
        except OSError:  # Linux says so where the other side is closed
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)

    def wait(self) -> int:
        """Take everything until the command has ended; return its exit code."""
        while self.read():
            pass
        os.close(self._own)
        return self.process.wait()

    def shown(self) -> list[str]:
        """Return the lines of the screen, without spaces at their ends."""
        return [line.rstrip() for line in self.screen.display]

    def scrolled(self) -> list[str]:
        """Return the lines that have left the screen at its top."""
        return ["".join(row[column].data for column in sorted(row)).rstrip() for row in self.screen.history.top]

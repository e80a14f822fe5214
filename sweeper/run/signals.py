"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 during a sweep."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code of a sweep that was asked to stop."""
LAST_LINES_S = 1.0
"""Seconds of the grace time for the last lines of the command."""
_SHOW_CURSOR = b"\x1b[?25h"


class SessionInterrupted(Exception):
    """The sweep was asked to stop."""


class StopSignal:
    """Context manager: the first signal asks the sweep to stop within a grace time; a second signal ends the process.

    SIGUSR1 asks only, however often it comes: a batch script sends it beside the SIGTERM of its batch system.
    The end of the grace time ends the process too. For the main thread only. Python runs signal handlers between two
    instructions of the main thread, which may wait in a call of Ray: so another thread reads the signals, from Python's
    wake-up descriptor.
    """

    def __init__(self, resume: str, grace_s: float, *, before_end: Callable[[], None] = lambda: None) -> None:
        """Prepare to receive signals.

        Args:
            resume: the command that continues the sweep.
            grace_s: seconds after which the process is ended.
            before_end: called on another thread before the process ends at once.
        """
        self._resume, self._grace_s, self._before_end = resume, grace_s, before_end
        self._announce: Callable[[float], None] = lambda grace_s: say(
            f"\nstopping, within {grace_s:g} s (again: end at once)"
        )
        self._asked_s: float | None = None
        self._asking = threading.Lock()
        self._left = threading.Event()

    @property
    def asked(self) -> bool:
        """Return whether the sweep is to stop."""
        return self._asked_s is not None

    def announce_with(self, announce: Callable[[float], None], freeze: Callable[[], None]) -> None:
        """Set functions for the time of a signal; both are called on another thread.

        Args:
            announce: shows that the sweep is to stop, given the grace time in seconds.
            freeze: ends all other output before the process ends at once.
        """
        before_end = self._before_end
        self._announce = announce

        def end() -> None:
            before_end()
            freeze()

        self._before_end = end

    def left_s(self) -> float:
        """Return the seconds until the process is ended; infinite before the sweep was asked to stop."""
        return float("inf") if self._asked_s is None else max(0.0, self._asked_s + self._grace_s - time.monotonic())

    def check(self) -> None:
        """Check that the sweep is not to stop.

        Raises:
            SessionInterrupted: it is to stop.
        """
        if self.asked:
            raise SessionInterrupted

    def impatience(self, wait_s: float) -> Callable[[], bool]:
        """Return a function that tells whether to give up waiting for an operation that begins now.

        It returns True if the sweep was asked to stop and ``wait_s`` have passed since then and since now, or if the
        grace time is almost over.
        """
        began_s = time.monotonic()

        def is_over() -> bool:
            if self._asked_s is None:
                return False
            return time.monotonic() - max(began_s, self._asked_s) > wait_s or self.left_s() < LAST_LINES_S

        return is_over

    def __enter__(self) -> StopSignal:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # Under nohup SIGHUP is ignored, and stays so.
        hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *hangup)
        self._before = {number: signal.signal(number, _nothing) for number in numbers}
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="signals")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def _listen(self) -> None:
        while numbers := os.read(self._read, 1):
            if numbers[0] not in self._before:
                continue
            if numbers[0] == signal.SIGHUP:
                _write_nowhere(self._terminals)
            if not self.request() and numbers[0] != signal.SIGUSR1:
                self._end(f"ended at once; go on with: {self._resume}")

    def request(self) -> bool:
        """Ask the sweep to stop within the grace time, as the first signal does. For any thread.

        Returns:
            Whether it was not asked before.
        """
        with self._asking:
            if self.asked:
                return False
            self._asked_s = time.monotonic()
        threading.Thread(target=self._enforce, daemon=True, name="end of the grace time").start()
        self._announce(self._grace_s)
        return True

    def _enforce(self) -> None:
        if not self._left.wait(self._grace_s):
            self._end(f"not everything was done within {self._grace_s:g} s; go on with: {self._resume}")

    def _end(self, line: str) -> NoReturn:
        self._before_end()
        end_process(INTERRUPTED, line)


def end_process(code: int, line: str) -> NoReturn:
    """End this process now, regardless of its threads, with a last line for the user."""
    if os.isatty(2):
        say(_SHOW_CURSOR.decode(), end="")  # the live view hides the cursor
    say(f"\n{line}")
    os._exit(code)


def say(line: str, end: str = "\n") -> None:
    """Write a line to standard error without buffers and locks; errors are ignored."""
    try:
        os.write(2, f"{line}{end}".encode())
    except OSError:
        return


def _nothing(number: int, frame: FrameType | None) -> None:
    """Handler of a signal that is read from the wake-up descriptor."""


def _write_nowhere(terminals: Sequence[int]) -> None:
    """Redirect output to a terminal that is gone, because a write to it is an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)

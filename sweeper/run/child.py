"""Commands of sweeper in a process of their own, for a caller whose process must outlive them, such as a notebook."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sweeper.errors import UNAVAILABLE, SweepFailed, SweepStopped, UnavailableError, UserError
from sweeper.records import TrialRecord
from sweeper.run.signals import INTERRUPTED
from sweeper.search.study import read_trials
from sweeper.storage.sweep_folder import SweepFolder

POLL_S = 0.5
_PROGRESS = re.compile(r"\[(\d+:)?\d\d:\d\d\] ")
"""Start of a line of progress where there is no terminal."""
_ERRORS: dict[int, type[Exception]] = {
    1: SweepFailed,
    2: UserError,
    UNAVAILABLE: UnavailableError,
    INTERRUPTED: SweepStopped,
}


class EndedTrials:
    """Calls a function once for each trial of a sweep that ends from now on."""

    def __init__(self, folder: SweepFolder, ended: Callable[[TrialRecord], None]) -> None:
        self._folder, self._ended = folder, ended
        self._changed_ns = 0
        self._known = {trial.number for trial in self._read() if trial.state != "running"}

    def look(self) -> None:
        """Call the function for the trials that have ended since the last look."""
        for trial in self._read():
            if trial.state != "running" and trial.number not in self._known:
                self._known.add(trial.number)
                self._ended(trial)

    def _read(self) -> list[TrialRecord]:
        """Return the trials if the study has changed since the last look."""
        with suppress(FileNotFoundError, UnavailableError):  # not begun; its driver writes just now
            changed_ns = self._folder.study_path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                trials = read_trials(self._folder, self._folder.spec())
                self._changed_ns = changed_ns
                return trials
        return []


def call(words: Sequence[str], *, echo: Callable[[str], None] | None = None, look: Callable[[], None]) -> str:
    """Run ``sweeper`` with ``words`` and return its standard output.

    The process is not in the caller's group of processes: Ctrl-C in a terminal reaches the caller alone. Whatever
    exception ends the wait is passed on as SIGINT, and raised after the process has ended. A process whose caller is
    killed goes on.

    Args:
        echo: takes each line of standard error, in the caller's thread.
        look: called about every ``POLL_S`` in the caller's thread, and once after the end.

    Raises:
        SweepFailed: exit code 1, with the text of standard error but for the lines of progress, as all of these.
        UserError: exit code 2.
        UnavailableError: exit code 3, or the process was killed.
        SweepStopped: exit code 130.
    """
    with tempfile.TemporaryDirectory(prefix="sweeper-") as scratch:
        out_path, told_path = Path(scratch) / "out", Path(scratch) / "told"
        with out_path.open("wb") as out, told_path.open("wb") as told_by_child:
            process = subprocess.Popen(
                [sys.executable, "-m", "sweeper", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=told_by_child,
                process_group=0,
            )
        with told_path.open("rb") as told:
            try:
                _wait(process, told, echo, look)
            except BaseException as error:
                _interrupt(process)
                error.add_note(_message(told_path))
                raise
        look()
        code = process.returncode
        if code == 0:
            return out_path.read_text(errors="replace")
        message = _message(told_path)
        if code in _ERRORS:
            raise _ERRORS[code](message)
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        raise UnavailableError(f"the process of `sweeper {words[0]}` was ended {ended}\n{message}".strip())


def _wait(
    process: subprocess.Popen[bytes], told: BinaryIO, echo: Callable[[str], None] | None, look: Callable[[], None]
) -> None:
    partial = b""
    runs = True
    while runs:
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
            runs = False
        *lines, partial = (partial + told.read()).split(b"\n")
        if echo is not None:
            for line in lines:
                echo(line.decode(errors="replace"))
        if runs:
            look()


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Pass SIGINT on and wait for the end; a further Ctrl-C is passed on too, and ends a sweep at once."""
    while process.poll() is None:
        with suppress(KeyboardInterrupt):
            process.send_signal(signal.SIGINT)
            process.wait()


def _message(told: Path) -> str:
    """Return what was told after the last line of progress."""
    lines = told.read_text(errors="replace").splitlines()
    last = max((number for number, line in enumerate(lines) if _PROGRESS.match(line)), default=-1)
    return "\n".join(lines[last + 1 :]).strip()

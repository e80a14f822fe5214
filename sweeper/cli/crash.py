"""What no one foresaw: one line on standard error, and the traceback in a file; never a traceback on the screen."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import one_line
from sweeper.version import __version__

_REPORT = "please report it with that file and what `sweeper env` prints"


@dataclass
class _Context:
    """What the running command works on; a process runs one command."""

    storage: Path | None = None
    sweep: Path | None = None
    go_on: str | None = None
    """The command with which the sweep goes on."""
    thread_error: BaseException | None = None
    """What ended a thread of this package, first of all."""


_context = _Context()


def works_in(storage: Path) -> None:
    """Say which storage the command works in: tracebacks go there where no sweep is known."""
    _context.storage = storage


def works_on(sweep: Path, go_on: str | None = None) -> None:
    """Say which sweep the command works on: tracebacks go into its folder.

    Args:
        sweep: its folder.
        go_on: the command with which it goes on, where this command runs it.
    """
    _context.sweep, _context.go_on = sweep, go_on


def crash_line(error: BaseException, command: str) -> str:
    """Write the traceback of ``error`` to a file and return the line that says so.

    ``command``: as the user knows it, ``sweeper run``.
    """
    file = _write(error)
    where = f"the traceback is in {file}" if file is not None else "its traceback could not be written to any file"
    go_on = "" if _context.go_on is None else f"; go on with: {_context.go_on}"
    return f"{command} failed unexpectedly: {one_line(error)}; {where}; {_REPORT}{go_on}"


def thread_error() -> BaseException | None:
    """Return what ended a thread of this package; None where nothing did."""
    return _context.thread_error


@contextlib.contextmanager
def no_tracebacks_on_screen() -> Iterator[None]:
    """Have threads, warnings of loggers and destructors print no traceback.

    A thread of this package that ends with an exception interrupts the main thread, as Ctrl-C does: a sweep then writes
    its checkpoints, and the command ends with ``thread_error``. Threads of libraries leave their traceback in a file.
    Where Ctrl-C is ignored, as in background jobs of shells, SIGTERM takes its place.
    """
    before = threading.excepthook, sys.unraisablehook, logging.lastResort
    of_sigterm = signal.getsignal(signal.SIGTERM)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and of_sigterm is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.excepthook = _thread_ended
    sys.unraisablehook = lambda unraisable: None  # a destructor's: nothing can be done about it
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_WithoutTraceback())
    logging.lastResort = handler
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook, logging.lastResort = before
        if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:
            signal.signal(signal.SIGTERM, of_sigterm)


class _WithoutTraceback(logging.Formatter):
    """One line: the message, and the error where the record has one."""

    def format(self, record: logging.LogRecord) -> str:
        message = " ".join(record.getMessage().split())
        error = record.exc_info[1] if record.exc_info else None
        return message if error is None else f"{message}: {one_line(error)}"


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    error = ended.exc_value
    if error is None or isinstance(error, SystemExit):
        return
    folder = str(Path(__file__).resolve().parents[2])
    if any(
        frame.filename.startswith((f"{folder}/sweeper/", f"{folder}/trainables/"))
        for frame in traceback.extract_tb(error.__traceback__)
    ):
        if _context.thread_error is None:
            _context.thread_error = error
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)
    else:
        _write(error)


def _write(error: BaseException) -> Path | None:
    """Return the file that the traceback was written to; None where no folder takes it."""
    text = (
        f"sweeper {__version__}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n"
        f"command: {' '.join(sys.argv)}\n\n" + "".join(traceback.format_exception(error))
    )
    name = f"traceback-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (_context.sweep, _context.storage, Path(tempfile.gettempdir())):
        if folder is not None and folder.is_dir():
            with contextlib.suppress(OSError):
                (folder / name).write_text(text, errors="backslashreplace")
                return folder / name
    return None

"""Unexpected errors: one line on standard error, and the traceback in a file, never on the screen."""

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
from sweeper.secrets import without_secrets
from sweeper.version import __version__

_REPORT = "please report it with that file and the output of `sweeper env`"


@dataclass
class _Context:
    """The object of the running command; a process runs one command."""

    storage: Path | None = None
    sweep: Path | None = None
    go_on: str | None = None
    """The command that continues the sweep."""
    thread_error: BaseException | None = None
    """The first error that ended a thread of this package."""


_context = _Context()


def works_in(storage: Path) -> None:
    """Note the storage of the command: tracebacks are written there if no sweep is known."""
    _context.storage = storage


def works_on(sweep: Path, go_on: str | None = None) -> None:
    """Note the sweep of the command: tracebacks are written into its folder.

    Args:
        sweep: folder of the sweep.
        go_on: the command that continues it, if this command runs it.
    """
    _context.sweep, _context.go_on = sweep, go_on


def crash_line(error: BaseException, command: str) -> str:
    """Write the traceback of ``error`` to a file and return the line that reports it.

    Args:
        command: name of the command, such as ``sweeper run``.
    """
    file = _write(error)
    where = f"the traceback is in {file}" if file is not None else "its traceback could not be written to any file"
    go_on = "" if _context.go_on is None else f"; go on with: {_context.go_on}"
    return f"{command} failed unexpectedly: {without_secrets(one_line(error))}; {where}; {_REPORT}{go_on}"


def thread_error() -> BaseException | None:
    """Return the error that ended a thread of this package; None if there is none."""
    return _context.thread_error


@contextlib.contextmanager
def no_tracebacks_on_screen() -> Iterator[None]:
    """Inside the context, threads, warnings of loggers and destructors print no traceback.

    A thread of this package that ends with an exception interrupts the main thread, as Ctrl-C does: a sweep then writes
    its checkpoints, and the command ends with ``thread_error``. Threads of libraries leave their traceback in a file.
    If Ctrl-C is ignored, as in background jobs of shells, SIGTERM replaces it.
    """
    before = threading.excepthook, sys.unraisablehook, logging.lastResort
    of_sigterm = signal.getsignal(signal.SIGTERM)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and of_sigterm is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.excepthook = _thread_ended
    sys.unraisablehook = lambda unraisable: None  # a destructor's error: nothing can be done about it
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
    """Formatter of one line: the message, and the error if the record has one."""

    def format(self, record: logging.LogRecord) -> str:
        message = " ".join(record.getMessage().split())
        error = record.exc_info[1] if record.exc_info else None
        return without_secrets(message if error is None else f"{message}: {one_line(error)}")


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
    """Return the file that the traceback was written to; None if no folder accepts it."""
    text = without_secrets(
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

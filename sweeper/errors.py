"""The errors that the command line prints as one message, without a traceback."""

from __future__ import annotations

UNAVAILABLE = 3
"""Exit code if cluster or storage is not available."""


class UserError(ValueError):
    """A mistake of the user: the CLI prints the message alone and exits with 2."""


class UnavailableError(RuntimeError):
    """Cluster or storage is not available: the CLI prints the message alone and exits with 3."""


class SweepInterrupted(UnavailableError):
    """Cluster or storage failed while a sweep ran. The sweep can go on; the message names the command."""


class SweepFailed(RuntimeError):
    """Too many trials of a sweep failed: the CLI exits with 1. The message says why and names the command to go on."""


class SweepStopped(RuntimeError):
    """A sweep was asked to stop: the CLI exits with 130. The sweep can go on; the message names the command."""


_LONGEST_LINE = 240


def one_line(error: BaseException) -> str:
    """Return type and message of an error in one line, shortened.

    For an error that Ray brings from another process, whose message is a traceback, its last line is used.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = "" if not lines else lines[-1] if "ray::" in lines[0] else lines[0]
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 3] + "..."

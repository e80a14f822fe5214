"""The errors that the command line prints as one message, without a traceback."""

from __future__ import annotations

UNAVAILABLE = 3
"""Exit code where cluster or storage cannot be had."""


class UserError(ValueError):
    """A mistake of the user's: the CLI prints the message alone and exits with 2."""


class UnavailableError(RuntimeError):
    """Cluster or storage cannot be had: the CLI prints the message alone and exits with 3."""


class SweepInterrupted(UnavailableError):
    """Cluster or storage failed while a sweep ran. The sweep can go on, and the message says with which command."""

"""Callbacks through which a caller follows a trial and stops it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from trainables.records import Report


class TrialInterrupted(Exception):
    """The trial was asked to stop; its checkpoint holds everything that is needed to go on."""


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or not a number; every worker of the trial raises this in the same step."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks through which a caller follows a trial and stops it. Every worker of the trial calls them."""

    report: Callable[[Report], None] = lambda report: None
    """Called after each evaluation, once its checkpoint and metric line are on disk. May raise to end the trial. An
    attempt that goes on from a checkpoint repeats the last report.
    """
    interrupted: Callable[[], bool] = lambda: False
    """Called at each step, must be cheap. If it returns True, the trial writes a checkpoint and raises
    ``TrialInterrupted``.
    """
    heartbeat: Callable[[], None] = lambda: None
    """Called at each step: a sign of life for a watchdog."""
    long_operation: Callable[[str], AbstractContextManager[None]] = lambda what: nullcontext()
    """Context entered, with a description, around operations during which ``heartbeat`` is not called for long:
    building the policy, reading and writing large files, the first step of an attempt, which compiles kernels. Never
    entered around ``report``.
    """
    log: Callable[[str], None] = lambda line: None
    """Called with lines about the course of the trial that a user may want to read."""

"""How the outside follows a trial and ends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from trainables.records import Report


class TrialInterrupted(Exception):
    """Asked to stop; the checkpoint holds everything."""


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or not a number: every worker of the trial sees it in the same step."""


@dataclass(frozen=True)
class Hooks:
    """How the outside follows a trial and stops it. Called by every worker."""

    report: Callable[[Report], None] = lambda report: None
    """After each evaluation, once its checkpoint and metric line are on disk. May raise to end the trial. An attempt
    that goes on from a checkpoint repeats the last report."""
    interrupted: Callable[[], bool] = lambda: False
    """Asked at each step, must be cheap. True: checkpoint, then ``TrialInterrupted``."""
    heartbeat: Callable[[], None] = lambda: None
    """Called at each step, so that a watchdog knows."""
    long_operation: Callable[[str], AbstractContextManager[None]] = lambda what: nullcontext()
    """Entered, with what is being done, where ``heartbeat`` is not called for long: building the policy, reading and
    writing large files, the first step of an attempt, in which kernels are compiled. Never around ``report``."""
    log: Callable[[str], None] = lambda line: None
    """Takes lines that a user may want to read about how the trial ran."""

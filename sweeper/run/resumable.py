"""Failures of cluster or storage under a running sweep: one line that says how to go on, and a record in MLflow."""

from __future__ import annotations

from types import TracebackType

from sweeper.errors import SweepInterrupted, UnavailableError, UserError
from sweeper.run.signals import StopSignal
from sweeper.tracking.tracker import Tracker
from trainables.files import storage_problem


class ResumableSession:
    """Context manager of a session: raises SweepInterrupted for errors that a resumed sweep may not meet again.

    If the session ends for any reason but a mistake of the user, MLflow shows the sweep as interrupted.
    """

    def __init__(self, tracker: Tracker, stop: StopSignal, resume: str, *, has_begun: bool, flush_s: float) -> None:
        """Prepare for errors.

        Args:
            resume: the command that continues the sweep.
            has_begun: whether there is a sweep to be resumed.
            flush_s: seconds for sending the records to MLflow.
        """
        self.has_begun = has_begun
        self._tracker, self._stop, self._resume, self._flush_s = tracker, stop, resume, flush_s

    def __enter__(self) -> ResumableSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.has_begun or not isinstance(error, Exception) or isinstance(error, UserError):
            return
        problem = str(error) if isinstance(error, UnavailableError) else storage_problem(error)
        self._tracker.sweep_ended("interrupted")
        self._tracker.flush(self._flush_s, self._stop.impatience(self._flush_s))
        if problem is not None:
            raise SweepInterrupted(f"{problem}; go on with: {self._resume}") from error

"""Checkpoints written in the background while training goes on."""

from __future__ import annotations

import _thread
from typing import Any

from torch import Tensor

from trainables.training.trial_folder import TrialFolder

START_S = 10.0
"""A write that is not done by then, and that its thread has not begun, is done by the thread that waits for it."""


class CheckpointWriter:
    """Writes the checkpoints of a trial in the background, one at a time."""

    def __init__(self, folder: TrialFolder) -> None:
        self._folder = folder
        self._write: _Write | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Return once ``state`` is copied to the host's memory: training may go on. Raises as ``wait``."""
        self.wait()
        self._write = _Write(self._folder, _on_host(state))
        self._write.begin()

    def wait(self) -> None:
        """Return once the last checkpoint is on disk. Raises what writing it raised."""
        self.close()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the last checkpoint without raising: the trial has an error of its own to report."""
        if self._write is not None:
            self._write.wait()
            self._error, self._write = self._write.error, None


class _Write:
    """One checkpoint on its way to the disk.

    ``threading.Thread.start`` waits without end where the new thread finds no memory to begin with (CPython 3.11; seen
    in a drill): so the thread is started below it, and whoever waits does the write where no thread has begun it.
    """

    def __init__(self, folder: TrialFolder, state: dict[str, Any]) -> None:
        self._folder, self._state = folder, state
        self.error: BaseException | None = None
        self._begun, self._done = _thread.allocate_lock(), _thread.allocate_lock()
        self._done.acquire()

    def begin(self) -> None:
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no thread can be started
            self._run()

    def wait(self) -> None:
        if not self._done.acquire(timeout=START_S):
            self._run()
            self._done.acquire()

    def _run(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        try:
            self._folder.save_checkpoint(self._state)
        except BaseException as error:  # raised again in the trial's thread
            self.error = error
        finally:
            self._done.release()


def _on_host(value: Any) -> Any:
    """A copy with all tensors in the host's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(entry) for key, entry in value.items()}
    return [_on_host(entry) for entry in value] if isinstance(value, list) else value

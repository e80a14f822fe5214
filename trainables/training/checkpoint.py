"""Checkpoints written in the background while training goes on."""

from __future__ import annotations

import _thread
from typing import Any

import torch
from torch import Tensor

from trainables.training.trial_folder import TrialFolder

START_S = 10.0
"""Seconds that ``wait`` gives a new thread to begin the write before the waiting thread does it itself."""


class CheckpointWriter:
    """Writes the checkpoints of a trial in the background, one at a time."""

    def __init__(self, folder: TrialFolder) -> None:
        self._folder = folder
        self._write: _Write | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Copy ``state`` to the host's memory and begin to write it; training may go on when this returns.

        Raises:
            StorageError: the previous checkpoint could not be written.
        """
        self.wait()
        on_host = _on_host(state)
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()  # the copies have arrived
        self._write = _Write(self._folder, on_host)
        self._write.begin()

    def wait(self) -> None:
        """Return when the last checkpoint is on disk.

        Raises:
            StorageError: the checkpoint could not be written.
        """
        self.close()
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def busy(self) -> bool:
        """Return whether a checkpoint is still being written: another one would make the trial wait."""
        return self._write is not None and self._write.under_way

    def close(self) -> None:
        """Wait for the last checkpoint without raising its error: the trial has an error of its own to report."""
        if self._write is not None:
            self._write.wait()
            self._error, self._write = self._write.error, None


class _Write:
    """One checkpoint on its way to the disk.

    ``threading.Thread.start`` never returns if the new thread finds no memory to begin with (CPython 3.11; seen in a
    drill). So the thread is started through ``_thread``, and ``wait`` does the write itself if no thread has begun it.
    """

    def __init__(self, folder: TrialFolder, state: dict[str, Any]) -> None:
        self._folder, self._state = folder, state
        self.error: BaseException | None = None
        self._begun, self._done = _thread.allocate_lock(), _thread.allocate_lock()
        self._done.acquire()

    @property
    def under_way(self) -> bool:
        """Return whether a thread is writing; a write that no thread has begun is done by ``wait``."""
        return self._begun.locked() and self._done.locked()

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
    """Return a copy of nested dicts and lists with all tensors in the host's memory.

    Copies from a GPU go to pinned memory and have not all arrived when this returns.
    """
    if isinstance(value, Tensor):
        from_gpu = value.device.type != "cpu"
        return value.detach().to("cpu", copy=True, non_blocking=from_gpu)
    if isinstance(value, dict):
        return {key: _on_host(entry) for key, entry in value.items()}
    return [_on_host(entry) for entry in value] if isinstance(value, list) else value

"""Checkpoints written in the background while training goes on."""

from __future__ import annotations

import threading
from typing import Any

from torch import Tensor

from trainables.training.trial_folder import TrialFolder


class CheckpointWriter:
    """Writes the checkpoints of a trial in the background, one at a time."""

    def __init__(self, folder: TrialFolder) -> None:
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Return once ``state`` is copied to the host's memory: training may go on. Raises as ``wait``."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(_on_host(state),), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return once the last checkpoint is on disk. Raises what writing it raised."""
        self.close()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the last checkpoint without raising: the trial has an error of its own to report."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: dict[str, Any]) -> None:
        try:
            self._folder.save_checkpoint(state)
        except BaseException as error:  # raised again in the trial's thread
            self._error = error


def _on_host(value: Any) -> Any:
    """A copy with all tensors in the host's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(entry) for key, entry in value.items()}
    return [_on_host(entry) for entry in value] if isinstance(value, list) else value

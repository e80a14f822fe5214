"""The files of one trial: checkpoint, metric lines, final record. Every write is all or nothing and survives a kill.

Attempts are numbered: a worker of an older attempt, still dying somewhere, cannot write into the trial any more.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHECKPOINT_FILE = "checkpoint.pt"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
WEIGHTS_FILE = "weights.safetensors"
ATTEMPT_FILE = "attempt"
MICRO_BATCH_FILE = "micro_batch_size"


class Superseded(RuntimeError):
    """A later attempt of this trial has begun; nothing may be written any more."""


class TrialFolder:
    """``attempt``: the number of this go at the trial, 1 or higher; only the highest may write."""

    def __init__(self, path: Path, *, attempt: int = 1) -> None:
        self.path, self._attempt = path, attempt

    def claim(self) -> None:
        """Raises Superseded where a later attempt holds the folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._check()
        self._replace(ATTEMPT_FILE, lambda part: part.write_text(str(self._attempt)))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        self._check()
        self._replace(CHECKPOINT_FILE, lambda part: torch.save(state, part))

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        path = self.path / CHECKPOINT_FILE
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return state

    def save_micro_batch_size(self, pairs: int) -> None:
        """For the attempts to come: what fitted into memory."""
        self._check()
        self._replace(MICRO_BATCH_FILE, lambda part: part.write_text(str(pairs)))

    def micro_batch_size(self) -> int | None:
        path = self.path / MICRO_BATCH_FILE
        return int(path.read_text()) if path.exists() else None

    def append_metrics(self, line: dict[str, Any]) -> None:
        """One evaluation; what is evaluated again after a kill is simply written again, the last line counts."""
        self._check()
        path = self.path / METRICS_FILE
        cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            file.write("\n" * cut_off + json.dumps({**line, "attempt": self._attempt}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> dict[int, dict[str, Any]]:
        """Step -> its line. A line cut off by a kill does not count."""
        path = self.path / METRICS_FILE
        found: dict[int, dict[str, Any]] = {}
        for text in path.read_text().splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            found[line["step"]] = line
        return found

    def finish(self, result: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Weights first, then the record that says the trial is done; the optimiser's state goes."""
        from safetensors.torch import save_file

        self._check()
        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        self._replace(WEIGHTS_FILE, lambda part: save_file(tensors, part))
        self._replace(RESULT_FILE, lambda part: part.write_text(json.dumps(result, indent=1)))
        # safetensors 0.8 writes files that only their owner reads; a storage is shared.
        shutil.copymode(self.path / RESULT_FILE, self.path / WEIGHTS_FILE)
        (self.path / CHECKPOINT_FILE).unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """The final record of a finished trial."""
        path = self.path / RESULT_FILE
        if not path.exists():
            return None
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    def weights(self, kind: str) -> dict[str, Tensor]:
        """Tuned parameters of a finished trial by name; ``kind`` is ``last`` or ``averaged``."""
        from safetensors.torch import load_file

        prefix = f"{kind}."
        stored = load_file(self.path / WEIGHTS_FILE)
        return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}

    def _check(self) -> None:
        path = self.path / ATTEMPT_FILE
        if path.exists() and int(path.read_text() or 0) > self._attempt:
            raise Superseded(f"{self.path.name}: attempt {self._attempt} was superseded by {path.read_text()}")

    def _replace(self, name: str, write: Callable[[Path], Any]) -> None:
        part = self.path / f".{name}.{self._attempt}.{os.getpid()}"
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, self.path / name)


class CheckpointWriter:
    """Writes the checkpoints of a trial in the background, one at a time."""

    def __init__(self, folder: TrialFolder) -> None:
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Returns once ``state`` is copied to the host's memory: training may go on. Raises as ``wait``."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(_on_host(state),), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns once the last checkpoint is on disk. Raises what writing it raised."""
        self.close()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """As ``wait``, for a trial that ends by an error of its own."""
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
        return {key: _on_host(one) for key, one in value.items()}
    return [_on_host(one) for one in value] if isinstance(value, list) else value

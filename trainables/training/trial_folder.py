"""The files of one trial: checkpoint, metric lines, final record. Every write is all or nothing and survives a kill.

Attempts are numbered by whoever starts them. The number on disk is a fence: a worker of an older attempt that is still
alive somewhere cannot write into the trial any more. PyTorch is imported where tensors are written or read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.json_lines import append_line, read_lines
from trainables.records import Report, TrialResult

if TYPE_CHECKING:
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
    """The folder of a trial as one attempt sees it; only the highest attempt may write."""

    def __init__(self, path: Path, *, attempt: int = 1) -> None:
        """``attempt``: 1 or higher."""
        self.path, self._attempt = path, attempt

    def last_attempt(self) -> int:
        """Return the number of the last attempt that began; 0 where none did."""
        path = self.path / ATTEMPT_FILE
        return int(path.read_text() or 0) if path.exists() else 0

    def claim(self) -> None:
        """Raises Superseded where a later attempt holds the folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._check()
        self._replace(ATTEMPT_FILE, lambda part: part.write_text(str(self._attempt)))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        import torch

        self._check()
        self._replace(CHECKPOINT_FILE, lambda part: torch.save(state, part))

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        import torch

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

    def append_report(self, report: Report) -> None:
        """Add one metric line. A step that is evaluated again after a kill has two lines; the last one counts."""
        self._check()
        append_line(self.path / METRICS_FILE, {**report.to_json(), "attempt": self._attempt})

    def reports(self) -> dict[int, Report]:
        """Return what the trial has reported, by step."""
        reports = (Report.from_json(line) for line in read_lines(self.path / METRICS_FILE))
        by_step = {report.step: report for report in reports}
        return {step: by_step[step] for step in sorted(by_step)}

    def drop_checkpoint(self) -> None:
        """Free the disk space of a trial that will not go on: its optimiser state is of no further use."""
        (self.path / CHECKPOINT_FILE).unlink(missing_ok=True)

    def finish(self, result: TrialResult, weights: dict[str, Tensor]) -> None:
        """Weights first, then the record that says the trial is done; the optimiser's state goes."""
        from safetensors.torch import save_file

        self._check()
        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        self._replace(WEIGHTS_FILE, lambda part: save_file(tensors, part))
        self._replace(RESULT_FILE, lambda part: part.write_text(json.dumps(result.to_json(), indent=1)))
        # safetensors 0.8 writes files that only their owner reads; a storage is shared.
        shutil.copymode(self.path / RESULT_FILE, self.path / WEIGHTS_FILE)
        self.drop_checkpoint()

    def result(self) -> TrialResult | None:
        """Return the final record of a finished trial; None before."""
        path = self.path / RESULT_FILE
        return TrialResult.from_json(json.loads(path.read_text())) if path.exists() else None

    def weights(self, kind: str) -> dict[str, Tensor]:
        """Tuned parameters of a finished trial by name; ``kind`` is ``last`` or ``averaged``."""
        from safetensors.torch import load_file

        prefix = f"{kind}."
        stored = load_file(self.path / WEIGHTS_FILE)
        return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}

    def _check(self) -> None:
        if (last := self.last_attempt()) > self._attempt:
            raise Superseded(f"{self.path.name}: attempt {self._attempt} was superseded by {last}")

    def _replace(self, name: str, write: Callable[[Path], Any]) -> None:
        part = self.path / f".{name}.{self._attempt}.{os.getpid()}"
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, self.path / name)

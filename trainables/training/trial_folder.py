"""The files of one trial: checkpoint, metric lines, final record. Every write is all or nothing and survives a kill.

Attempts are numbered by whoever starts them. The number on disk is a fence: a worker of an older attempt that is still
alive somewhere cannot write into the trial any more. A disk that fails is a ``StorageError`` with the file's name; a
damaged file counts as absent where the trial can do without. PyTorch is imported where tensors are written or read.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.files import remove_partial_files, replace_file, storage_errors, storage_problem, sync_folder
from trainables.json_lines import append_line, read_lines
from trainables.records import Report, TrialResult

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.evaluation.hits import Hits, PointHits


CHECKPOINT_FILE = "checkpoint.pt"
UNREADABLE_FILE = "checkpoint.pt.unreadable"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
WEIGHTS_FILE = "weights.safetensors"
HITS_FILE = "answers.npz"
ATTEMPT_FILE = "attempt"
MICRO_BATCH_FILE = "micro_batch_size"


class Superseded(RuntimeError):
    """A later attempt of this trial has begun; nothing may be written any more."""


class CheckpointUnreadable(Exception):
    """The checkpoint is torn, empty or damaged. The message is one line: the reason."""


class TrialFolder:
    """The folder of a trial as one attempt sees it; only the highest attempt may write."""

    def __init__(self, path: Path, *, attempt: int = 1) -> None:
        """``attempt``: 1 or higher."""
        self.path, self._attempt = path, attempt

    def last_attempt(self) -> int:
        """Return the number of the last attempt that began; 0 where none did.

        Metric lines tell it too: the number of an attempt that reported is not lost with a damaged ``attempt`` file.
        """
        reported = [line["attempt"] for line in self._metric_lines() if _is_count(line.get("attempt"))]
        return max([self._number(ATTEMPT_FILE) or 0, *reported])

    def claim(self) -> None:
        """Make the folder this attempt's and remove what killed writers have left in it.

        Raise Superseded where a later attempt holds it.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._check()
        self._write(ATTEMPT_FILE, str(self._attempt))
        remove_partial_files(self.path)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        import torch

        from trainables.training.tensor_files import CHECKSUM_KEY, checksum

        self._check()
        checked = {**state, CHECKSUM_KEY: checksum(state)}
        replace_file(self.path / CHECKPOINT_FILE, lambda file: torch.save(checked, file))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the last checkpoint, its tensors in the host's memory; None where there is none.

        Raise CheckpointUnreadable where the file is damaged; see ``set_checkpoint_aside``.
        """
        import torch

        from trainables.training.tensor_files import CHECKSUM_KEY, checksum

        path = self.path / CHECKPOINT_FILE
        with storage_errors(path, doing="cannot be read"):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                return None
        with file:
            try:
                # Not onto a GPU: optimisers of PyTorch keep their step counters in the host's memory.
                state = torch.load(file, map_location="cpu", weights_only=True)
            except MemoryError:
                raise
            except Exception as error:  # zip, pickle and PyTorch have errors of their own for a damaged file
                if storage_problem(error) is not None:
                    with storage_errors(path, doing="cannot be read"):
                        raise
                raise CheckpointUnreadable((str(error).strip() or type(error).__name__).splitlines()[0]) from error
        if not isinstance(state, dict) or not _is_count(state.get("step")):
            raise CheckpointUnreadable("it is no checkpoint of a trial")
        expected = state.pop(CHECKSUM_KEY, None)  # earlier versions wrote none
        if expected is not None and expected != checksum(state):
            raise CheckpointUnreadable("its content does not match its checksum")
        return state

    def set_checkpoint_aside(self) -> None:
        """Keep a checkpoint that a worker cannot read under another name. To be called by the first worker only."""
        self._check()
        path = self.path / CHECKPOINT_FILE
        with storage_errors(path, doing="cannot be renamed"):
            if path.exists():
                os.replace(path, self.path / UNREADABLE_FILE)
                sync_folder(self.path)

    def save_micro_batch_size(self, pairs: int) -> None:
        """For the attempts to come: what fitted into memory. The number on disk never rises."""
        self._check()
        known = self.micro_batch_size()
        self._write(MICRO_BATCH_FILE, str(pairs if known is None else min(known, pairs)))

    def micro_batch_size(self) -> int | None:
        """Return what fitted into memory; None where it never ran out, and where the file is damaged."""
        return self._number(MICRO_BATCH_FILE)

    def append_report(self, report: Report) -> None:
        """Add one metric line. A step that is evaluated again after a kill has two lines; the last one counts."""
        self._check()
        path = self.path / METRICS_FILE
        with storage_errors(path):
            is_new = not path.exists()
            append_line(path, {**report.to_json(), "attempt": self._attempt})
            if is_new:
                sync_folder(self.path)

    def reports(self) -> dict[int, Report]:
        """Return what the trial has reported, by step.

        A line of a smaller step than one before it comes from a trial that had to begin again: what it reported of
        later steps counts no more.
        """
        by_step: dict[int, Report] = {}
        for line in self._metric_lines():
            report = _report_of(line)
            if report is not None:
                by_step = {step: earlier for step, earlier in by_step.items() if step < report.step}
                by_step[report.step] = report
        return by_step

    def drop_checkpoint(self) -> None:
        """Free the disk space of a trial that will not go on: its optimiser state is of no further use."""
        path = self.path / CHECKPOINT_FILE
        with storage_errors(path, doing="cannot be removed"):
            path.unlink(missing_ok=True)

    def finish(self, result: TrialResult, weights: Mapping[str, Tensor], hits: Sequence[Hits] = ()) -> None:
        """Weights first, then the record that says the trial is done; the optimiser's state goes.

        ``hits``: of each point of ``result`` on validation, empty for a task without.
        """
        from trainables.training.tensor_files import write_weights

        self._check()
        replace_file(self.path / WEIGHTS_FILE, lambda file: write_weights(file, weights))
        if any(hits):
            self._write_hits(hits)
        self._write(RESULT_FILE, json.dumps(result.to_json(), indent=1))
        self.drop_checkpoint()

    def result(self) -> TrialResult | None:
        """Return the final record of a finished trial; None before, and where the record is damaged."""
        content = self._read(RESULT_FILE)
        try:
            return None if content is None else TrialResult.from_json(json.loads(content))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def hits(self) -> PointHits | None:
        """Return which validation images each point of a finished trial answers right, in the order of its result;
        None where there is no such file (of an earlier version, or of a task without), and where it is damaged."""
        import numpy as np

        from trainables.evaluation.hits import from_arrays

        content = self._read(HITS_FILE)
        if content is None:
            return None
        try:
            with np.load(io.BytesIO(content)) as arrays:
                return from_arrays(arrays)
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
            return None

    def weights(self, kind: str) -> dict[str, Tensor]:
        """Return the tuned parameters of a finished trial by name; ``kind`` is ``last`` or ``averaged``.

        Raise StorageError where the file is missing or damaged.
        """
        from trainables.training.tensor_files import read_weights

        prefix, path = f"{kind}.", self.path / WEIGHTS_FILE
        with storage_errors(path, doing="cannot be read"):
            stored = read_weights(path)
        return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}

    def _write_hits(self, hits: Sequence[Hits]) -> None:
        import numpy as np

        from trainables.evaluation.hits import to_arrays

        arrays: dict[str, Any] = dict(to_arrays(hits))
        replace_file(self.path / HITS_FILE, lambda file: np.savez(file, **arrays))

    def _check(self) -> None:
        if (last := self.last_attempt()) > self._attempt:
            raise Superseded(f"{self.path.name}: attempt {self._attempt} was superseded by {last}")

    def _metric_lines(self) -> list[dict[str, Any]]:
        path = self.path / METRICS_FILE
        with storage_errors(path, doing="cannot be read"):
            return read_lines(path)

    def _read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        with storage_errors(self.path / name, doing="cannot be read"):
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def _number(self, name: str) -> int | None:
        """A positive number in a file of its own; None where it is missing, empty or damaged."""
        content = (self._read(name) or b"").strip()
        return (int(content) or None) if content.isdigit() and len(content) < 20 else None

    def _write(self, name: str, text: str) -> None:
        replace_file(self.path / name, lambda file: file.write(text.encode()))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _report_of(line: Mapping[str, Any]) -> Report | None:
    """None for a line that is no report."""
    try:
        report = Report.from_json(line)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    numbers = [report.steps, report.progress, report.train_s, report.evaluation_s, report.time_s]
    whole = _is_count(report.step) and all(isinstance(n, int | float) for n in [*numbers, *report.values.values()])
    return report if whole else None

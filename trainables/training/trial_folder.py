"""The files of one trial: checkpoint, metric lines, final record. Every write is atomic and survives a kill.

The starter of an attempt numbers it. The number on disk is a fence: a worker of an older attempt that still runs cannot
write into the trial any more. An error of the disk is raised as ``StorageError`` with the file's name; a damaged file
counts as absent if the trial can go on without it. PyTorch is imported only by functions that write or read tensors.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    """A later attempt of this trial has begun; this attempt must not write any more."""


class CheckpointUnreadable(Exception):
    """The checkpoint is incomplete, empty or damaged. The message is one line: the reason."""


class TrialFolder:
    """The folder of a trial as one attempt sees it; only the highest attempt may write."""

    def __init__(self, path: Path, *, attempt: int = 1) -> None:
        """Open the folder for an attempt.

        Args:
            attempt: number of the attempt, 1 or higher.
        """
        self.path, self._attempt = path, attempt

    def last_attempt(self) -> int:
        """Return the number of the last attempt that began; 0 if there was none.

        Metric lines hold the number too: if the ``attempt`` file is damaged, the last attempt that reported is still
        known.
        """
        reported = [line["attempt"] for line in self._metric_lines() if _is_count(line.get("attempt"))]
        return max([self._number(ATTEMPT_FILE) or 0, *reported])

    def claim(self) -> None:
        """Make the folder this attempt's and delete the partial files that killed writes have left in it.

        Raises:
            Superseded: a later attempt holds the folder.
            StorageError: the disk fails.
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
        """Return the last checkpoint with its tensors in the host's memory; None if there is no checkpoint.

        Raises:
            CheckpointUnreadable: the file is damaged; see ``set_checkpoint_aside``.
            StorageError: the disk fails.
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
                # Not onto a GPU: PyTorch's optimisers keep their step counters in the host's memory.
                state = torch.load(file, map_location="cpu", weights_only=True)
            except MemoryError:
                raise
            except Exception as error:  # zip, pickle and PyTorch raise errors of their own for a damaged file
                if storage_problem(error) is not None:
                    with storage_errors(path, doing="cannot be read"):
                        raise
                raise CheckpointUnreadable((str(error).strip() or type(error).__name__).splitlines()[0]) from error
        if not isinstance(state, dict) or not _is_count(state.get("step")):
            raise CheckpointUnreadable("it is not a checkpoint of a trial")
        expected = state.pop(CHECKSUM_KEY, None)  # earlier versions wrote no checksum
        if expected is not None and expected != checksum(state):
            raise CheckpointUnreadable("its content does not match its checksum")
        return state

    def set_checkpoint_aside(self) -> None:
        """Rename a checkpoint that a worker cannot read. Only the first worker may call this."""
        self._check()
        path = self.path / CHECKPOINT_FILE
        with storage_errors(path, doing="cannot be renamed"):
            if path.exists():
                os.replace(path, self.path / UNREADABLE_FILE)
                sync_folder(self.path)

    def save_micro_batch_size(self, pairs: int) -> None:
        """Record the largest micro-batch, in pairs, that fits into memory, for later attempts. It never rises."""
        self._check()
        known = self.micro_batch_size()
        self._write(MICRO_BATCH_FILE, str(pairs if known is None else min(known, pairs)))

    def micro_batch_size(self) -> int | None:
        """Return the largest micro-batch, in pairs, that fits into memory; None if memory never ran out or the file is
        damaged.
        """
        return self._number(MICRO_BATCH_FILE)

    def append_report(self, report: Report) -> None:
        """Append one metric line. A step that is done again after a kill has two lines; the last one counts."""
        self._check()
        path = self.path / METRICS_FILE
        with storage_errors(path):
            is_new = not path.exists()
            append_line(path, {**report.to_json(), "attempt": self._attempt})
            if is_new:
                sync_folder(self.path)

    def reports(self) -> dict[int, Report]:
        """Return the reports of the trial by step.

        A line of a smaller step than the line before it comes from a trial that went on from an earlier checkpoint, or
        began again; the earlier reports of later steps then do not count. A report of a repeated step has the time of
        the first one: decisions about trials were made in that order.
        """
        by_step: dict[int, Report] = {}
        first_time_s: dict[int, float] = {}
        for line in self._metric_lines():
            report = _report_of(line)
            if report is not None:
                step = report.step
                by_step = {earlier: known for earlier, known in by_step.items() if earlier < step}
                by_step[step] = replace(report, time_s=first_time_s.setdefault(step, report.time_s))
        return by_step

    def drop(self, name: str) -> None:
        """Delete a file that is not needed any more, to free disk space.

        Args:
            name: ``CHECKPOINT_FILE`` of a trial that will not go on, or ``WEIGHTS_FILE`` of a trial off the front.
        """
        path = self.path / name
        with storage_errors(path, doing="cannot be removed"):
            path.unlink(missing_ok=True)

    def finish(self, result: TrialResult, weights: Mapping[str, Tensor], hits: Sequence[Hits] = ()) -> None:
        """Write the weights, then the record that says that the trial is complete; delete the checkpoint.

        Args:
            hits: correctly answered validation images for each point of ``result``; empty for a task without them.
        """
        from trainables.training.tensor_files import write_weights

        self._check()
        replace_file(self.path / WEIGHTS_FILE, lambda file: write_weights(file, weights))
        if any(hits):
            self._write_hits(hits)
        self._write(RESULT_FILE, json.dumps(result.to_json(), indent=1))
        self.drop(CHECKPOINT_FILE)

    def result(self) -> TrialResult | None:
        """Return the final record of a finished trial; None if there is none or it is damaged."""
        content = self._read(RESULT_FILE)
        try:
            return None if content is None else TrialResult.from_json(json.loads(content))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def hits(self) -> PointHits | None:
        """Return for each point of a finished trial, in the order of its result, which validation images it answers
        correctly; None if the file is missing (an earlier version, or a task without hits) or damaged.
        """
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
        """Return the tuned parameters of a finished trial by name.

        Args:
            kind: ``last`` or ``averaged``.

        Raises:
            StorageError: the file is missing or damaged.
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
        """Return the content of a file; None if it does not exist."""
        with storage_errors(self.path / name, doing="cannot be read"):
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def _number(self, name: str) -> int | None:
        """Return the positive number that a file holds; None if the file is missing, empty or damaged."""
        content = (self._read(name) or b"").strip()
        return (int(content) or None) if content.isdigit() and len(content) < 20 else None

    def _write(self, name: str, text: str) -> None:
        replace_file(self.path / name, lambda file: file.write(text.encode()))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _report_of(line: Mapping[str, Any]) -> Report | None:
    """Return the report of a metric line; None if the line is not a report."""
    try:
        report = Report.from_json(line)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    numbers = [report.steps, report.progress, report.train_s, report.evaluation_s, report.time_s]
    whole = _is_count(report.step) and all(isinstance(n, int | float) for n in [*numbers, *report.values.values()])
    return report if whole else None

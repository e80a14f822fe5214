"""Jobs from the driver to the slots, distinguished by their type, and their outcomes.

No third-party import, all picklable: jobs go from the driver through the dispatcher to the workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from sweeper.records import UntouchedModel
from trainables.records import Measurement, MemoryNeed, SecondLook, TrialResult, TrialTiming, WeightsKind

OutcomeKind = Literal["complete", "stopped", "failed", "interrupted", "storage"]
"""``storage``: a file could not be written or read, which is a failure of the sweep, not of the job."""
JobName = tuple[Literal["train", "measure"], int]
"""Names a job over all its attempts: a trial's number, or a number unique among measurements."""
AttemptName = tuple[Literal["train", "measure"], int, int]
"""(kind, key, attempt)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at a task for a slot; the subclass says which."""

    kind: ClassVar[Literal["train", "measure"]] = "measure"
    key: int
    """Unique among the jobs of its kind."""
    attempt: int = 1

    @property
    def name(self) -> JobName:
        return self.kind, self.key

    @property
    def attempt_name(self) -> AttemptName:
        return self.kind, self.key, self.attempt

    @property
    def log_folder(self) -> Path | None:
        """Return the folder of the job's ``log.txt``; None if the job writes none."""
        return None


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Train a trial, from its checkpoint if it has one. Ends with a ``TrialResult``."""

    kind: ClassVar[Literal["train", "measure"]] = "train"
    folder: Path
    """Folder of the trial."""
    parameters: dict[str, Any]
    seed: int
    rungs: tuple[float, ...]
    """Shares of the trial's steps after which it reports and waits for a decision."""
    after_out_of_memory: bool = False
    """Whether the attempt before was killed because the memory of the machine ran out."""

    @property
    def log_folder(self) -> Path | None:
        return self.folder


@dataclass(frozen=True, kw_only=True)
class UntouchedJob(Job):
    """Measure the untouched model on validation. Ends with an ``UntouchedModel``."""


@dataclass(frozen=True, kw_only=True)
class TrainedWeights:
    """The weights of a finished trial at one strength."""

    folder: Path
    """Folder of the trial."""
    parameters: dict[str, Any]
    weights: WeightsKind
    strength: float


@dataclass(frozen=True, kw_only=True)
class MeasureJob(Job):
    """Measure a point on the test sets. Ends with a ``Measurement``."""

    point: TrainedWeights | None
    """None: the untouched model."""
    answers: Path
    """The file that the answers are written to."""
    variants: bool
    """Whether to measure attacks that preference data never show, and the reading of signs, too."""


@dataclass(frozen=True, kw_only=True)
class SecondLookJob(Job):
    """Measure a point on the validation images that the search does not see. Ends with a ``SecondLook``."""

    point: TrainedWeights | None
    """None: the untouched model."""


@dataclass(frozen=True, kw_only=True)
class ProbeJob(Job):
    """Time the beginning of a trial. Ends with a ``TrialTiming``."""

    folder: Path
    """Folder of the trial's files, which are not needed afterwards."""
    parameters: dict[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MemoryJob(Job):
    """Measure the memory of a worker on one step. Ends with a ``MemoryNeed``."""

    folder: Path
    """Folder of the trial's files, which are not needed afterwards."""
    parameters: dict[str, Any]


JobResult = TrialResult | UntouchedModel | Measurement | SecondLook | TrialTiming | MemoryNeed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a job."""

    kind: OutcomeKind
    result: JobResult | None = None
    """Result of the runner; None unless ``complete``."""
    reason: str | None = None
    """One line for users (``failed``, ``storage``)."""
    traceback: str | None = None
    slot: int | None = None
    attempt: int = 0
    busy_s: float = 0.0
    """Seconds for which the job held a slot, over all attempts of this session."""

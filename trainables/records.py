"""Plain records of a trial, shared by training and by the code that runs trials.

JSON is used on disk only. Keys on disk are those of the first version; lines of earlier versions can be read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One of the two metrics that a sweep optimises, on validation."""

    metric: str
    direction: Direction
    short: str
    """Short name for columns and lines: ``clean``."""
    title: str
    """Name for axes and sentences: ``clean accuracy``."""
    best: str
    """Name of the best member of a front in this goal: ``cleanest``."""
    view: str | None
    """View of the test sets whose share of correct answers is the goal; None if it is no share of correct answers."""


class ValueOfContent(NamedTuple):
    """Value and content in a prompt about an attribute, for templates like ``a photo of a {0.value} {0.content}``."""

    value: str
    content: str


Names = tuple[str, ...] | tuple[ValueOfContent, ...]
"""Class names or values of contents in the prompts of a model, one for each prompt."""

Goals = tuple[Goal, Goal]
"""The goal to be kept, then the goal to be improved. The task defines them."""


def goal_values(values: Mapping[str, float], goals: Goals) -> tuple[float, float]:
    """Return the values of both goals as measured."""
    return values[goals[0].metric], values[goals[1].metric]


def oriented(values: Mapping[str, float], goals: Goals) -> tuple[float, float]:
    """Return the values of both goals with the sign that makes larger values better."""
    first, second = (values[goal.metric] * (1.0 if goal.direction == "maximize" else -1.0) for goal in goals)
    return first, second


WeightsKind = Literal["last", "averaged"]
"""Weights after the last step, or their moving average over all steps."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of a trial after an evaluation: one metric line on disk."""

    step: int
    """Number of updates done."""
    steps: int
    """Number of updates of the whole trial."""
    epoch: float
    """Number of epochs done."""
    epochs: int
    progress: float
    """Share of the trial's steps that are done."""
    rung: bool = False
    """Whether the stopping rule decides here; the trial then waits for the decision."""
    values: dict[str, float]
    """The task's validation metrics, with the last weights at strength 1."""
    preference_loss: float | None = None
    """Mean since the last evaluation, as ``reference_kl`` and ``loss``. None if the line lacks it."""
    reference_kl: float | None = None
    loss: float | None = None
    identity_distance: float | None = None
    """||I - W W^T|| of a transform."""
    train_s: float
    """Seconds since the trial began, over all attempts, as ``evaluation_s`` and ``checkpoint_s``."""
    evaluation_s: float
    checkpoint_s: float = 0.0
    """Seconds that training waited for checkpoints; they are written in the background."""
    time_s: float
    """Seconds since 1970."""

    @property
    def spent_s(self) -> float:
        """Return the seconds of training, evaluation and checkpoints since the trial began."""
        return self.train_s + self.evaluation_s + self.checkpoint_s

    def to_json(self) -> dict[str, Any]:
        """Return the metric line: metrics beside the place in the trial; unknown values are left out."""
        place = {name: getattr(self, name) for name in ("step", "steps", "epoch", "epochs", "progress")}
        rung = {"rung": True} if self.rung else {}
        losses = {name: getattr(self, name) for name in _LOSSES if getattr(self, name) is not None}
        times = {name: getattr(self, name) for name in ("train_s", "evaluation_s", "checkpoint_s", "time_s")}
        return {**place, **rung, **self.values, **losses, **times}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Report:
        """Return the report of a metric line.

        Lines of the first versions have no ``step``: they were written after epochs only.

        Raises:
            KeyError: the line is not a report.
        """
        known = {"step", "steps", "epoch", "epochs", "progress", "rung", "attempt"}
        known |= {"train_s", "evaluation_s", "checkpoint_s", "time_s"}
        return cls(
            step=line.get("step", line["epoch"]),
            steps=line.get("steps", line["epochs"]),
            epoch=line["epoch"],
            epochs=line["epochs"],
            progress=line.get("progress", line["epoch"] / line["epochs"]),
            rung=line.get("rung", False),
            values={name: value for name, value in line.items() if name not in known and name not in _LOSSES},
            preference_loss=line.get("preference_loss"),
            reference_kl=line.get("reference_kl"),
            loss=line.get("loss"),
            identity_distance=line.get("identity_distance"),
            train_s=line["train_s"],
            evaluation_s=line["evaluation_s"],
            checkpoint_s=line.get("checkpoint_s", 0.0),
            time_s=line.get("time_s", 0.0),
        )


_LOSSES = ("preference_loss", "reference_kl", "loss", "identity_distance")


@dataclass(frozen=True, kw_only=True)
class Point:
    """Validation metrics of one trial's weights at one strength."""

    weights: WeightsKind
    strength: float
    values: dict[str, float]
    """Metric -> value: the goals, and further metrics such as ``text_confusion_rate``."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The final record of a trial (``result.json``)."""

    values: dict[str, float]
    """The task's validation metrics with the last weights at strength 1."""
    points: tuple[Point, ...]
    """Validation metrics at every strength and of the averaged weights; the first point has ``values``."""
    epochs: int
    train_s: float
    evaluation_s: float
    checkpoint_s: float = 0.0
    identity_distance: float | None = None
    """||I - W W^T|| of a transform's last W."""

    @property
    def spent_s(self) -> float:
        """Return the seconds of training, evaluation and checkpoints, over all attempts."""
        return self.train_s + self.evaluation_s + self.checkpoint_s

    def to_json(self) -> dict[str, Any]:
        record = asdict(self) | {"points": [asdict(point) for point in self.points]}
        if self.identity_distance is None:
            del record["identity_distance"]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TrialResult:
        return cls(**{**record, "points": tuple(Point(**point) for point in record["points"])})


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Test metrics of one point, measured once."""

    values: dict[str, float]
    """Metric -> mean over the test sets."""
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals of ``values``."""
    images: int
    """Number of clean images."""
    broken: dict[str, list[str]] = field(default_factory=dict)
    """Split -> images that were left out because they could not be decoded, for the splits read so far."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"intervals": {name: list(ends) for name, ends in self.intervals.items()}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Measurement:
        intervals = {name: (low, high) for name, (low, high) in record["intervals"].items()}
        return cls(
            values=dict(record["values"]),
            intervals=intervals,
            images=record["images"],
            broken=record.get("broken", {}),
        )


@dataclass(frozen=True, kw_only=True)
class SecondLook:
    """Validation metrics of one point on images that the search did not see, measured once."""

    values: dict[str, float]
    """Metric -> mean over the validation sets."""
    images: list[int]
    """Number of images of each validation set."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SecondLook:
        return cls(values=dict(record["values"]), images=list(record["images"]))


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Memory of one worker, measured on one step of the scope that needs most."""

    tune: str
    micro_batch_size: int
    peak_bytes: int
    """Memory of the whole process in a step, on its device: the GPU's, or the host's."""
    own_bytes: int
    """Memory of the process before the step."""
    free_bytes: int
    """Free memory of the device, or of the machine, before the step."""
    total_bytes: int


CONTEXT_BYTES = 700 * 2**20
"""Bytes of a GPU's memory for a process's CUDA context and kernels."""


@dataclass(frozen=True, kw_only=True)
class TrialTiming:
    """Speed and memory of a trial."""

    steps: int
    """Number of steps of the whole trial."""
    images_per_step: float
    """Number of images per step, clean and attacked."""
    step_s: float
    evaluation_s: float
    """Seconds of one evaluation on the search sets."""
    micro_batch_size: int | None
    """Pairs per micro-batch; None unless larger micro-batches did not fit into memory."""
    peak_bytes: int
    """Peak of the process's memory on its device: the GPU's, its CUDA context included, or the host's."""
    total_bytes: int
    """Total memory of the device, or of the machine."""
    unseen_share: float = 0.0
    """Images of a second look, as a share of those of an evaluation; 0 without a second look."""

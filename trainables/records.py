"""What a trial tells the outside: plain records, shared by training and by whoever orchestrates it.

JSON exists at the disk only. Keys on disk are those of the first version; a record is read from lines of earlier
versions too.
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
    """For columns and lines: ``clean``."""
    title: str
    """For axes and sentences: ``clean accuracy``."""
    best: str
    """What the member of a front is called that is best in this goal: ``cleanest``."""
    view: str | None
    """The view of the test sets on which every image is answered right or wrong, so that the goal is the share of right
    answers; None for a goal that is no mean over images."""


class ValueOfContent(NamedTuple):
    """What a prompt about an attribute names, for templates such as ``a photo of a {0.value} {0.content}``."""

    value: str
    content: str


Names = tuple[str, ...] | tuple[ValueOfContent, ...]
"""What the prompts of a model name, one each."""

Goals = tuple[Goal, Goal]
"""What is to be kept, then what is to be improved. The task says which these are."""


def goal_values(values: Mapping[str, float], goals: Goals) -> tuple[float, float]:
    """Return the values of both goals as they were measured."""
    return values[goals[0].metric], values[goals[1].metric]


def oriented(values: Mapping[str, float], goals: Goals) -> tuple[float, float]:
    """Return the values of both goals with the sign that makes more of each better."""
    first, second = (values[goal.metric] * (1.0 if goal.direction == "maximize" else -1.0) for goal in goals)
    return first, second


WeightsKind = Literal["last", "averaged"]
"""Weights after the last step, or their moving average over all steps."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial reports after each evaluation: one metric line on disk."""

    step: int
    """Updates done."""
    steps: int
    """Of the whole trial."""
    epoch: float
    """Epochs done."""
    epochs: int
    progress: float
    """Share of the trial's steps done."""
    rung: bool = False
    """Whether the stopping rule is asked here; the trial then waits for the decision."""
    values: dict[str, float]
    """The task's validation metrics, with the last weights at strength 1."""
    preference_loss: float | None = None
    """Mean since the last evaluation, as ``reference_kl`` and ``loss``. None where a line does not tell."""
    reference_kl: float | None = None
    loss: float | None = None
    identity_distance: float | None = None
    """||I - W W^T|| of a transform."""
    train_s: float
    """Since the trial began, over all attempts, as ``evaluation_s``."""
    evaluation_s: float
    time_s: float
    """Seconds since 1970."""

    @property
    def spent_s(self) -> float:
        """Seconds of training and evaluation since the trial began."""
        return self.train_s + self.evaluation_s

    def to_json(self) -> dict[str, Any]:
        """Return the metric line: metrics beside the place in the trial; what is unknown is left out."""
        place = {name: getattr(self, name) for name in ("step", "steps", "epoch", "epochs", "progress")}
        rung = {"rung": True} if self.rung else {}
        losses = {name: getattr(self, name) for name in _LOSSES if getattr(self, name) is not None}
        times = {"train_s": self.train_s, "evaluation_s": self.evaluation_s, "time_s": self.time_s}
        return {**place, **rung, **self.values, **losses, **times}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Report:
        """Read a metric line. Lines of the first versions have no ``step``: these evaluated after epochs only.

        Raises KeyError for a line that is no report.
        """
        known = {"step", "steps", "epoch", "epochs", "progress", "rung", "train_s", "evaluation_s", "time_s", "attempt"}
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
            time_s=line.get("time_s", 0.0),
        )


_LOSSES = ("preference_loss", "reference_kl", "loss", "identity_distance")


@dataclass(frozen=True, kw_only=True)
class Point:
    """Validation metrics of one trial's weights at one strength."""

    weights: WeightsKind
    strength: float
    values: dict[str, float]
    """Metric -> value: the goals, and further ones such as ``text_confusion_rate``."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The final record of a trial (``result.json``)."""

    values: dict[str, float]
    """The task's validation metrics with the last weights at strength 1."""
    points: tuple[Point, ...]
    """Validation at every strength and of the averaged weights; the first one has ``values``."""
    epochs: int
    train_s: float
    evaluation_s: float
    identity_distance: float | None = None
    """||I - W W^T|| of a transform's last W."""

    @property
    def spent_s(self) -> float:
        """Seconds of training and evaluation, over all attempts."""
        return self.train_s + self.evaluation_s

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
    """How many clean images were looked at."""
    broken: dict[str, list[str]] = field(default_factory=dict)
    """Split -> images that could not be decoded and were left out; the splits that the process has read so far."""

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
    """How many of each validation set."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SecondLook:
        return cls(values=dict(record["values"]), images=list(record["images"]))


@dataclass(frozen=True, kw_only=True)
class TrialTiming:
    """How fast a trial is and what memory it takes."""

    steps: int
    """Of the whole trial."""
    images_per_step: float
    """Clean and attacked."""
    step_s: float
    evaluation_s: float
    """Of one evaluation on the search sets."""
    micro_batch_size: int | None
    """Pairs; None unless larger micro-batches did not fit into memory."""
    peak_bytes: int
    """Of the device's memory; on CPU of the process's."""
    total_bytes: int
    """That the device, or the machine, has."""
    unseen_share: float = 0.0
    """Images of a second look, as a share of those of an evaluation; 0 where there is no second look."""

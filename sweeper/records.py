"""Plain records that the packages of ``sweeper`` exchange. No third-party import, all picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trainables.evaluation.zero_shot import ZeroShot
from trainables.records import Goals, Point, SecondLook, WeightsKind, goal_values, oriented

TrialState = Literal["running", "complete", "stopped", "failed"]
PointName = tuple[int | None, WeightsKind, float]
"""(trial, weights, strength); trial None is the untouched model."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One row of the study."""

    number: int
    state: TrialState
    parameters: dict[str, Any]
    """Searched and fixed parameters: all of ``trainables.settings.Parameters`` that apply."""
    seed: int
    values: dict[str, float] | None = None
    """Goals on validation, strength 1, last weights, as the study has them. None unless complete."""
    points: tuple[Point, ...] = ()
    """Validation points of the finished trial, including the one of ``values``."""
    reason: str | None = None
    """Reason why it failed or was stopped."""
    baseline: str | None = None
    """Name of the task's baseline that the trial is, for instance ``paint``."""
    first_point: str | None = None
    """Description of the point if the trial is one of the first points of a search (``search.first_points``)."""
    confirms: int | None = None
    """Number of the trial that this one trains again with another seed. The sampler and the front ignore this one."""
    stopped_at: float | None = None
    """Share of its steps after which the stopping rule ended it."""
    values_then: dict[str, float] | None = None
    """Validation goals when the trial was stopped. Only the sampler uses them."""
    duration_s: float | None = None
    """Seconds of training and evaluation."""
    cost_s: float | None = None
    """Seconds for which it held a slot, over all attempts."""
    slot: int | None = None


@dataclass(frozen=True, kw_only=True)
class UntouchedModel:
    """The workers' measurements of the untouched model on validation, and facts about model and data of the sweep."""

    goals: dict[str, float]
    """The task's validation metrics of the untouched model, the goals among them."""
    chance: float
    """Expected first goal of guessing, mean over the validation sets."""
    validation_images: list[int]
    """Number of images of each validation set; empty for sweeps of the first versions."""
    pairs: int
    """Number of preference pairs."""
    weights_digest: str
    data_digest: str
    """Digest of all data for training and search."""
    validation_digest: str | None
    """Digest of all data for the search. None for sweeps of the first versions, as ``device``."""
    broken: dict[str, list[str]]
    """Split -> images that could not be decoded and were left out."""
    assumed: str | None
    """Assumptions about the model that its checkpoint does not state."""
    versions: dict[str, str]
    """Package -> version on the worker."""
    device: str | None
    unseen_images: list[int] | None = None
    """Number of images of each validation set for a second look; 0 if the search sees all of them.

    None for sweeps of versions without second look, which have none.
    """
    embed_dim: int | None = None
    """Width of the embeddings. None for sweeps of earlier versions, as ``image_parameters``."""
    image_parameters: int | None = None
    """Number of parameters of the image tower."""
    class_names: list[str] = field(default_factory=list)
    """Classes of the first validation set, in words; empty for sweeps of earlier versions, as ``templates``."""
    templates: list[str] = field(default_factory=list)
    """Prompts of these classes, with ``{}`` for the class."""
    zero_shot: ZeroShot | None = None
    """Result on a few of its validation images, before any other measurement. None for sweeps of earlier versions."""
    hits: dict[str, list[str]] | None = None
    """Validation images that it answers correctly (``evaluation.hits.to_text``).

    None if a goal is not a mean over images, and for sweeps of earlier versions.
    """

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        return {"validation": record.pop("goals"), **record}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> UntouchedModel:
        return cls(
            goals=record["validation"],
            chance=record["chance"],
            validation_images=record.get("validation_images", []),
            pairs=record["pairs"],
            weights_digest=record["weights_digest"],
            data_digest=record["data_digest"],
            validation_digest=record.get("validation_digest"),
            broken=record.get("broken", {}),
            assumed=record.get("assumed"),
            versions=record.get("versions", {}),
            device=record.get("device"),
            unseen_images=record.get("unseen_images"),
            embed_dim=record.get("embed_dim"),
            image_parameters=record.get("image_parameters"),
            class_names=record.get("class_names", []),
            templates=record.get("templates", []),
            zero_shot=None if record.get("zero_shot") is None else ZeroShot(**record["zero_shot"]),
            hits=record.get("hits"),
        )


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Results of trainings of a front member's parameters with other seeds, at its weights and strength."""

    seeds: int
    """Number of trainings that ended well, without the picked one."""
    failed: int
    validation: dict[str, float] | None
    """Goals, mean over the seeds; None if every training failed."""
    stays: bool
    """Whether it is still on the front, by ``validation``."""
    values: dict[str, float] | None = None
    """Goals on test, mean over the seeds; None for fewer than two seeds."""
    intervals: dict[str, tuple[float, float]] | None = None
    """95 % intervals of the recipe's result with a fresh seed on fresh images, each by itself."""
    simultaneous: dict[str, tuple[float, float]] | None = None
    """The same for all confirmed members at once, valid for a member that is picked by ``values``."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Confirmation:
        """Return the record from the JSON data of ``dataclasses.asdict``."""
        fields = dict(record)
        for name in ("intervals", "simultaneous"):
            if fields[name] is not None:
                fields[name] = {goal: (low, high) for goal, (low, high) in fields[name].items()}
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class SecondLooks:
    """A sweep's measurements of points on validation images that the search did not see."""

    points: Mapping[PointName, SecondLook] = field(default_factory=dict)
    trials: int = 0
    """Number of complete trials of the search at the end of the last second look.

    If there are more now, the front is that of the search alone until the next second look has ended.
    """


def goals_among(values: Mapping[str, float], goals: Goals) -> dict[str, float]:
    """Return the goals among some metrics."""
    return {goal.metric: values[goal.metric] for goal in goals}


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One point as shown: a member of the front, a baseline or the untouched model."""

    trial: int | None
    """None: the untouched model."""
    weights: WeightsKind
    strength: float
    parameters: dict[str, Any]
    validation: dict[str, float]
    """The task's validation metrics, on which the point was picked."""
    values: dict[str, float] | None = None
    """Goals on test and further test measurements; None until measured."""
    intervals: dict[str, tuple[float, float]] | None = None
    """95 % bootstrap intervals of ``values``."""
    name: str | None = None
    """``knee``, the name of the best in a goal (``cleanest``, ``most robust``), ``untouched``, or a baseline."""
    images: int | None = None
    """Number of validation images behind ``validation``; None if not known."""
    member: bool = True
    """Whether it is non-dominated on validation (and above every floor)."""
    sweep: str | None = None
    """Its sweep, on a front of several sweeps."""
    confirmation: Confirmation | None = None
    """None if it was not trained again."""

    @property
    def point_name(self) -> PointName:
        """Return the name under which the point is measured and confirmed."""
        return self.trial, self.weights, self.strength


@dataclass(frozen=True, kw_only=True)
class LookedAt:
    """The second look that a front was chosen with."""

    points: int
    """Number of points of trials that were measured again."""
    images: int
    """Number of validation images that the search did not see."""
    new: int
    """Number of members that would not be members by the search alone."""


@dataclass(frozen=True, kw_only=True)
class Front:
    """The front of a sweep and the points drawn beside it."""

    sweep: str
    goals: Goals
    points: tuple[FrontPoint, ...]
    """Members from the best to the worst in the first goal, then the untouched model and the baselines."""
    others: tuple[FrontPoint, ...]
    """Every other validation point of finished trials (dominated or beyond a bound)."""
    hypervolume: float
    """Hypervolume of the members on validation, against ``reference_point``."""
    reference_point: tuple[float, float]
    """(bound of the first goal or its value by guessing, second goal of the untouched model)."""
    finished: int
    trials: int
    kept: Mapping[str, str] = field(default_factory=dict)
    """Bounds of every member besides the goals: metric -> its bound in words, ``sign_reading >= 0.854``."""
    curves: tuple[str, ...] = ()
    """Metrics on validation that are drawn over the strength."""
    second_look: LookedAt | None = None
    """None if it was chosen on the validation images of the search alone."""

    def hypervolume_of_accuracies(self) -> float | None:
        """Return the hypervolume if both goals are accuracies; None otherwise."""
        return None if any(goal.view is None for goal in self.goals) else self.hypervolume

    def at(self, point: FrontPoint) -> tuple[float, float]:
        """Return both goals of a point on validation, as measured."""
        return goal_values(point.validation, self.goals)

    def oriented(self, point: FrontPoint) -> tuple[float, float]:
        """Return both goals of a point on validation, with the sign that makes larger values better."""
        return oriented(point.validation, self.goals)


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A training of a front member's parameters with another seed."""

    confirms: int
    """Number of the member's trial."""
    seed: int

"""Plain records that the packages of ``sweeper`` hand to each other. No third-party import, all picklable."""

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
    """Searched and fixed: everything in ``trainables.settings.Parameters`` that applies."""
    seed: int
    values: dict[str, float] | None = None
    """Told values: goals on validation, strength 1, last weights. None unless complete."""
    points: tuple[Point, ...] = ()
    """Validation points of the finished trial, the told one among them."""
    reason: str | None = None
    """Why it failed or was stopped."""
    baseline: str | None = None
    """Name of the task's baseline that it is, for instance ``paint``."""
    first_point: str | None = None
    """What it tries, where it is one of the first points of a search (``search.first_points``)."""
    confirms: int | None = None
    """The trial that this one trains again with another seed. Never told to the sampler, never on the front."""
    stopped_at: float | None = None
    """Share of its steps after which the stopping rule ended it."""
    values_then: dict[str, float] | None = None
    """Its goals on validation when it was stopped: for the sampler, they are no values of the trial."""
    duration_s: float | None = None
    """Of training and evaluation."""
    cost_s: float | None = None
    """For how long it held a slot, over all attempts."""
    slot: int | None = None


@dataclass(frozen=True, kw_only=True)
class UntouchedModel:
    """What the workers measured of the untouched model on validation, and what the sweep works on."""

    goals: dict[str, float]
    """The task's validation metrics of the untouched model; the goals are among them."""
    chance: float
    """The first goal of guessing, mean over the validation sets."""
    validation_images: list[int]
    """How many images each validation set has; empty for sweeps of the first versions."""
    pairs: int
    """Preference pairs."""
    weights_digest: str
    data_digest: str
    """Of everything that is trained and searched on."""
    validation_digest: str | None
    """Of everything that is searched on. None for sweeps of the first versions, as ``device``."""
    broken: dict[str, list[str]]
    """Split -> images that could not be decoded and were left out."""
    assumed: str | None
    """What was assumed of the model because its checkpoint does not say."""
    versions: dict[str, str]
    """Package -> version on the worker."""
    device: str | None
    unseen_images: list[int] | None = None
    """How many images of each validation set a second look takes; 0 where the search sees all of them. None for sweeps
    that began before there was a second look: they have none."""
    embed_dim: int | None = None
    """Width of the embeddings. None for sweeps of earlier versions, as ``image_parameters``."""
    image_parameters: int | None = None
    """Parameters of the image tower."""
    class_names: list[str] = field(default_factory=list)
    """Classes of the first validation set, in words; empty for sweeps of earlier versions, as ``templates``."""
    templates: list[str] = field(default_factory=list)
    """Prompts of these classes, with ``{}`` for the class."""
    zero_shot: ZeroShot | None = None
    """On a few of its validation images, before anything else is measured. None for sweeps of earlier versions."""
    hits: dict[str, list[str]] | None = None
    """Which validation images it answers right (``evaluation.hits.to_text``). None where a goal is no mean over images,
    and for sweeps of earlier versions."""

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
    """What trainings of a front member's parameters with other seeds gave, at its weights and strength."""

    seeds: int
    """Trainings that ended well; the seed that was picked is none of them."""
    failed: int
    validation: dict[str, float] | None
    """Goals, mean over the seeds; None where every training failed."""
    stays: bool
    """Whether it is still on the front, by ``validation``."""
    values: dict[str, float] | None = None
    """Goals on test, mean over the seeds; None for fewer than two of them."""
    intervals: dict[str, tuple[float, float]] | None = None
    """95 % intervals of what the recipe reaches with a fresh seed on fresh images, each by itself."""
    simultaneous: dict[str, tuple[float, float]] | None = None
    """The same for all confirmed members at once: for whoever picks a member by looking at ``values``."""

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Confirmation:
        """Read what ``dataclasses.asdict`` wrote."""
        fields = dict(record)
        for name in ("intervals", "simultaneous"):
            if fields[name] is not None:
                fields[name] = {goal: (low, high) for goal, (low, high) in fields[name].items()}
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class SecondLooks:
    """What a sweep has measured of points on validation images that the search did not see."""

    points: Mapping[PointName, SecondLook] = field(default_factory=dict)
    trials: int = 0
    """Complete trials of the search at the end of the last second look: with more of them the front is of the search
    alone, until the next second look has ended."""


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
    """The task's validation metrics: what the point was picked on."""
    values: dict[str, float] | None = None
    """Goals on test and further test measurements; None until measured."""
    intervals: dict[str, tuple[float, float]] | None = None
    """95 % bootstrap intervals of ``values``."""
    name: str | None = None
    """``knee``, what the best in each goal is called (``cleanest``, ``most robust``), ``untouched``, or a baseline."""
    images: int | None = None
    """How many validation images are behind ``validation``; None where that is not known."""
    member: bool = True
    """Whether it is non-dominated on validation (and above every floor)."""
    sweep: str | None = None
    """Where it comes from, on a front of several sweeps."""
    confirmation: Confirmation | None = None
    """None where it was not trained again."""

    @property
    def point_name(self) -> PointName:
        """What the point is measured and confirmed under."""
        return self.trial, self.weights, self.strength


@dataclass(frozen=True, kw_only=True)
class LookedAt:
    """The second look that a front was chosen with."""

    points: int
    """Points of trials that were measured again."""
    images: int
    """Validation images that the search did not see."""
    new: int
    """Members that would be none by the search alone."""


@dataclass(frozen=True, kw_only=True)
class Front:
    """The front of a sweep and what is drawn beside it."""

    sweep: str
    goals: Goals
    points: tuple[FrontPoint, ...]
    """Members from the best to the worst in the first goal, then the untouched model and the baselines."""
    others: tuple[FrontPoint, ...]
    """Every other validation point of finished trials (dominated or beyond a bound)."""
    hypervolume: float
    """Of the members on validation, against ``reference_point``."""
    reference_point: tuple[float, float]
    """(bound of the first goal or its value by guessing, second goal of the untouched model)."""
    finished: int
    trials: int
    kept: Mapping[str, str] = field(default_factory=dict)
    """What every member keeps besides the goals: metric -> its bound in words, ``sign_reading >= 0.854``."""
    curves: tuple[str, ...] = ()
    """Metrics on validation whose course over the strength is drawn."""
    second_look: LookedAt | None = None
    """None: chosen on the validation images of the search alone."""

    def hypervolume_of_accuracies(self) -> float | None:
        """Return the hypervolume where both goals are accuracies; None where one is of another kind."""
        return None if any(goal.view is None for goal in self.goals) else self.hypervolume

    def at(self, point: FrontPoint) -> tuple[float, float]:
        """Return both goals of a point on validation, as they were measured."""
        return goal_values(point.validation, self.goals)

    def oriented(self, point: FrontPoint) -> tuple[float, float]:
        """Return both goals of a point on validation, with the sign that makes more of each better."""
        return oriented(point.validation, self.goals)


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A training of a front member's parameters with another seed."""

    confirms: int
    """The member's trial."""
    seed: int

"""Plain records that the modules of ``sweeper`` hand to each other. No third-party import, all picklable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

GOALS = ("clean_accuracy", "robust_accuracy")
"""Both are maximised."""
TrialState = Literal["running", "complete", "stopped", "failed"]
OutcomeKind = Literal["complete", "stopped", "failed", "interrupted"]
Report = dict[str, Any]
"""What a trial says after each epoch and at rungs: ``step`` (updates done), ``steps``, ``epoch`` (epochs done),
``epochs``, ``progress`` (share of its steps), ``rung: True`` where the stopping rule is asked, ``time_s`` (clock),
both goals and ``text_confusion_rate`` on the validation sets, ``loss``, ``preference_loss``, ``reference_kl``,
``identity_distance`` (of a transform), ``train_s``, ``evaluation_s``."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Goals on validation of one trial's weights at one strength."""

    weights: Literal["last", "averaged"]
    strength: float
    values: dict[str, float]
    """Goal name -> value, and further measurements such as ``text_confusion_rate``."""


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
    """``paint`` for the baseline that every front shows."""
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
class Task:
    """One go at something on a slot: an attempt of a trial, or a measurement the driver wants."""

    kind: Literal["train", "measure"]
    key: int
    """Trial number for ``train``; a number unique among measurements for ``measure``."""
    attempt: int
    payload: dict[str, Any]
    """For the runner alone: the slot does not look into it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a task ended."""

    kind: OutcomeKind
    result: dict[str, Any] = field(default_factory=dict)
    """What the runner returned (``complete``)."""
    reason: str | None = None
    """One line for users (``failed``)."""
    traceback: str | None = None
    slot: int | None = None
    attempt: int = 0
    busy_s: float = 0.0
    """For how long the task had a slot, over all attempts of this go at the sweep."""


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
    """The same for all confirmed members at once: for whoever picks one by looking at ``values``."""


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One point as shown: a member of the front, a baseline or the untouched model."""

    trial: int | None
    """None: the untouched model."""
    weights: Literal["last", "averaged"]
    strength: float
    parameters: dict[str, Any]
    validation: dict[str, float]
    """Goals on validation (and text_confusion_rate): what the point was picked on."""
    values: dict[str, float] | None = None
    """Goals on test and further test measurements; None until measured."""
    intervals: dict[str, tuple[float, float]] | None = None
    """95 % bootstrap intervals of ``values``."""
    name: str | None = None
    """``knee``, ``cleanest``, ``most robust``, ``untouched``, ``paint``."""
    member: bool = True
    """Whether it is non-dominated on validation (and above every floor)."""
    sweep: str | None = None
    """Where it comes from, on a front of several sweeps."""
    confirmation: Confirmation | None = None
    """None where it was not trained again."""


@dataclass(frozen=True, kw_only=True)
class Front:
    """The front of a sweep and what is drawn beside it."""

    sweep: str
    points: tuple[FrontPoint, ...]
    """Members ordered by falling clean accuracy, then the untouched model and the baselines."""
    others: tuple[FrontPoint, ...]
    """Every other validation point of finished trials (dominated or below a floor)."""
    hypervolume: float
    """Of the members on validation, against ``reference_point``."""
    reference_point: tuple[float, float]
    """(clean floor or chance, robust accuracy of the untouched model)."""
    finished: int
    trials: int


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A training of a front member's parameters with another seed."""

    confirms: int
    """The member's trial."""
    seed: int


PointName = tuple[int | None, str, float]
"""(trial, weights, strength); trial None is the untouched model."""

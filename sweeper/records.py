"""Plain records that the modules of ``sweeper`` hand to each other. No third-party import, all picklable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

GOALS = ("clean_accuracy", "robust_accuracy")
"""Both are maximised."""

TrialState = Literal["running", "complete", "stopped", "failed"]
OutcomeKind = Literal["complete", "stopped", "failed", "interrupted"]

Report = dict[str, Any]
"""What a trial says after an epoch: ``epoch`` (1-based), ``epochs``, both goals and ``text_confusion_rate`` on the
validation sets, ``loss``, ``preference_loss``, ``reference_kl``, ``identity_distance`` (of a transform), ``train_s``,
``evaluation_s``."""


class UserError(ValueError):
    """A mistake of the user's: the CLI prints the message alone and exits with 2."""


class UnavailableError(RuntimeError):
    """Cluster or storage cannot be had: the CLI prints the message alone and exits with 3."""


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
    duration_s: float | None = None
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

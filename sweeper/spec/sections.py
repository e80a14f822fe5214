"""The sections of a spec that say what a sweep must keep and how it searches: the same for every task.

``sweeper schema`` shows the docstrings of the classes to users as descriptions.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sweeper.spec.bounds import EXAMPLE, is_bound
from sweeper.spec.quantities import parse_budget
from trainables.records import Direction
from trainables.settings.parameters import Positive
from trainables.settings.sets import SettingError, Settings, Share
from trainables.settings.task import Bound


class GoalSettings(Settings):
    """What a point of the front must keep of a goal; both goals always count."""

    direction: Direction | None = None
    """Whether the goal is maximised or minimised. The task decides this; writing it down only documents it."""
    floor: Bound | None = None
    """For a goal that is maximised: a point below the floor is recorded but never on the front. A number, or
    relative to the untouched model (``untouched - 0.05``: five points of accuracy may be lost). Measured on
    validation."""
    ceiling: Bound | None = None
    """For a goal that is minimised: a point above the ceiling is recorded but never on the front. Written like a
    floor."""

    @field_validator("floor", "ceiling")
    @classmethod
    def _readable(cls, value: float | str | None) -> float | str | None:
        if value is not None and not is_bound(value):
            raise ValueError(f"is no bound; {EXAMPLE}")
        return value

    @property
    def bound(self) -> Bound | None:
        """The floor or the ceiling."""
        return self.floor if self.floor is not None else self.ceiling


class Search(Settings):
    """How trials are chosen, how many, and when the search ends."""

    sampler: Literal["tpe", "grid", "random", "soup"] = "tpe"
    """How trials are chosen. ``tpe`` learns from complete trials; ``random`` draws; ``grid`` tries every
    combination of choices, in the order in which they are written; ``soup`` trains a few anchors (the middles of
    the ranges), whose interpolation with the untouched weights is the front."""
    trials: Annotated[int, Field(ge=1)] = 32
    """Trials in total, baselines and points included. ``grid`` and ``soup`` try every combination or anchor when it
    is left out. More can be added later with ``sweeper resume NAME --trials N``."""
    until: Literal["trials", "noise_floor"] = "trials"
    """When the search ends. ``trials``: after all of them. ``noise_floor``: between half of ``trials`` and all of
    them, once a further quarter of trials is expected to gain less on fresh images than one standard error of the
    front's hypervolume."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the search: suggestions, the order of batches in each trial, and the images and words that are drawn.
    Change it to repeat a sweep with other luck."""
    startup_trials: Annotated[int, Field(ge=1)] | None = None
    """Complete trials after which ``tpe`` begins to learn from them; until then it draws. An eighth of ``trials``,
    at least 4, when left out. For ``tpe`` only."""

    @model_validator(mode="after")
    def _only_tpe_learns(self) -> Self:
        if self.startup_trials is not None and self.sampler != "tpe":
            message = f"startup_trials is for the sampler tpe; {self.sampler} does not learn, leave it out"
            raise SettingError(message, "startup_trials")
        return self

    @model_validator(mode="after")
    def _a_plan_has_no_floor(self) -> Self:
        if self.until == "noise_floor" and self.planned:
            message = f"until: noise_floor is for the samplers tpe and random; {self.sampler} tries all it has"
            raise SettingError(f"{message}, leave it out", "until")
        return self

    @property
    def planned(self) -> bool:
        """Whether all trials are known beforehand."""
        return self.sampler in ("grid", "soup")

    def startup(self) -> int:
        """Return how many trials must be complete before the sampler learns from them."""
        return self.startup_trials if self.startup_trials is not None else max(4, self.trials // 8)


class Stopping(Settings):
    """Trials that both goals together show to be hopeless are ended early (``moasha``: multi-objective ASHA), all but
    the baseline and ``points``."""

    kind: Literal["none", "moasha"] = "none"
    """``moasha`` ends hopeless trials at rungs; ``none`` trains every trial to its end. Use ``moasha`` where a
    trial takes more than a few minutes."""
    rungs: Annotated[list[float | str], Field(min_length=1)] = ["1/9", "1/3"]
    """Shares of a trial's steps after which the trial is evaluated and may be stopped, rising: ``1/9`` or 0.11.
    Later rungs stop fewer good trials and save less time."""
    reduction_factor: Annotated[float, Field(gt=1.0)] = 2.0
    """At each rung the best 1 / reduction_factor of the trials that reached it go on. 2 keeps half; larger values
    stop more."""

    @field_validator("rungs")
    @classmethod
    def _rising_shares(cls, value: list[float | str]) -> list[float | str]:
        try:
            shares = [float(Fraction(rung)) for rung in value]
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError("holds no shares of a trial; write for instance [1/9, 1/3]") from error
        if not all(low < high for low, high in zip([0.0, *shares], [*shares, 1.0], strict=True)):
            raise ValueError("must rise and lie between 0 and 1, for instance [1/9, 1/3]")
        return value

    def shares(self) -> list[float]:
        """Return the rungs as numbers."""
        return [float(Fraction(rung)) for rung in self.rungs]


class Confirm(Settings):
    """After the search, members of the front are trained again with new seeds: knee, most robust and cleanest first,
    then those that add most to the hypervolume."""

    members: Annotated[int, Field(ge=1)] = 3
    """Trials with members on the front that are trained again; one training serves all strengths of its trial."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """New trainings of each member. With two, intervals are valid but very wide."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of the budget that is reserved for the confirm phase. With ``limits.budget`` the search ends when the
    rest of the budget is used. Without, the budget is counted in trainings: at most share / (1 - share) x
    ``search.trials`` are made after the search, of fewer members where necessary, each with all its seeds."""

    def most_trainings(self, trials: int) -> int:
        """Return how many trainings follow a search of ``trials`` trials at most, without a budget of device hours."""
        return math.floor(self.share / (1 - self.share) * trials + 1e-9)


class Resources(Settings):
    """What a trial takes of the machine or the cluster. A slot is one place for a trial: ``workers_per_trial``
    workers."""

    workers_per_trial: Annotated[int, Field(ge=1)] = 1
    """Processes that train one trial together, data-parallel. Several are for models or batches that need several
    GPUs."""
    gpus_per_worker: Positive | None = None
    """GPUs of each worker: 1 where the cluster has GPUs, when left out. A share (0.25) puts several workers on one
    GPU, which pays for small models."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPU cores of each worker, for decoding images, and for training where there is no GPU. A higher number runs fewer
    trials at once on a machine with little memory."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_above_one(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("must be a share of one GPU or a whole number of them")
        return value


class Limits(Settings):
    """What ends a trial or the whole sweep, and what stays on disk. A trial that is ended by a limit counts as
    failed."""

    max_failed_share: Share = 0.2
    """More failed trials than this share of ``search.trials`` end the sweep (exit code 1); first points do not
    count."""
    budget: str | None = None
    """Device hours that the sweep may take over its whole life, idle slots included: ``200gpu-h``, or ``12cpu-h``
    where it runs on CPUs. Unlimited when left out."""
    trial_hours: Positive | None = None
    """Hours of training after which a trial is failed. Unlimited when left out."""
    stall_minutes: Positive = 30.0
    """Minutes without a sign of life after which an attempt at a trial is ended and made again. A higher number suits
    sweeps in which one step or the reading of images takes longer."""
    weights: Literal["near_front", "all"] = "near_front"
    """Weights on disk. ``near_front``: those of a complete trial are removed as soon as none of its points can be on
    the front any more, by the margin of the second look; ``sweeper rerun NAME TRIAL --keep-weights`` makes them again.
    ``all``: every trial's are kept."""

    @field_validator("budget")
    @classmethod
    def _hours_of_devices(cls, value: str | None) -> str | None:
        if value is not None:
            parse_budget(value)
        return value

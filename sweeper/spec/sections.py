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
    """The goal's own; it may be written down, not changed."""
    floor: Bound | None = None
    """A point below the floor is recorded but never on the front: a number, or relative to the untouched model
    (``untouched - 0.05``). For goals that are maximised."""
    ceiling: Bound | None = None
    """The same for goals that are minimised."""

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
    sampler: Literal["tpe", "grid", "random", "soup"] = "tpe"
    """``grid`` tries every combination of choices, in the order in which they are written; ``soup`` trains a few
    anchors (the middles of the ranges), whose interpolation with the untouched weights is the front."""
    trials: Annotated[int, Field(ge=1)] = 32
    """With the baseline and the points; when left out, ``grid`` and ``soup`` try every combination or anchor."""
    until: Literal["trials", "noise_floor"] = "trials"
    """``noise_floor``: the search ends between half of ``trials`` and all of them, once a further quarter of trials is
    expected to gain less on fresh images than one standard error of the front's hypervolume."""
    seed: Annotated[int, Field(ge=0)] = 0
    startup_trials: Annotated[int, Field(ge=1)] | None = None
    """The sampler learns from trials once so many are complete; an eighth of ``trials``, at least 4, when left out. For
    ``tpe`` only."""

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
    rungs: Annotated[list[float | str], Field(min_length=1)] = ["1/9", "1/3"]
    """Shares of a trial's steps after which the trial is evaluated and may be stopped, rising: ``1/9`` or 0.11."""
    reduction_factor: Annotated[float, Field(gt=1.0)] = 2.0
    """At each rung the best 1 / reduction_factor of the trials that came to it go on."""

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
    """Trials with members on the front; one training serves all strengths of its trial."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """Trainings of each. With two, intervals are valid but very wide."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Of the budget, reserved for the confirm phase. With ``limits.budget`` the search ends when the rest of the budget
    is used. Without, the budget is counted in trainings: at most share / (1 - share) x ``search.trials`` are made after
    the search, of fewer members where necessary, each with all its seeds."""

    def most_trainings(self, trials: int) -> int:
        """Return how many trainings follow a search of ``trials`` trials at most, without a budget of device hours."""
        return math.floor(self.share / (1 - self.share) * trials + 1e-9)


class Resources(Settings):
    workers_per_trial: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Positive | None = None
    """One where the cluster has GPUs, when left out. A share (0.25) puts several workers on a GPU."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_above_one(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("must be a share of one GPU or a whole number of them")
        return value


class Limits(Settings):
    max_failed_share: Share = 0.2
    """More failed trials than this share of ``search.trials`` end the sweep."""
    budget: str | None = None
    """Device hours that the sweep may take over its whole life, idle slots included: ``200gpu-h``, or ``12cpu-h`` where
    it runs on CPUs."""
    trial_hours: Positive | None = None
    stall_minutes: Positive = 30.0
    """An attempt that is silent for longer is ended and made again."""

    @field_validator("budget")
    @classmethod
    def _hours_of_devices(cls, value: str | None) -> str | None:
        if value is not None:
            parse_budget(value)
        return value

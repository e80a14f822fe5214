"""The sections of a spec that say what a sweep is for and how it searches.

Two of them belong to the typographic task, the only value of ``task`` so far: ``Goals``, its accuracies on clean and on
attacked images, and ``Paint``, its baseline. A second task would bring its own in their place; ``Search``,
``Stopping``, ``Confirm``, ``Resources`` and ``Limits`` are the same for every task.

``sweeper schema`` shows the docstrings of the classes to users as descriptions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from sweeper.records import GOALS
from sweeper.spec.quantities import parse_budget
from trainables.settings.parameters import Parameters, Positive, Tune
from trainables.settings.sets import SettingError, Settings, Share

_FLOOR = re.compile(r"untouched\s*(?:([-+])\s*([0-9]*\.?[0-9]+))?")


class Goal(Settings):
    """What the sweep optimises; both goals always count."""

    direction: Literal["maximize"] = "maximize"
    floor: float | str | None = None
    """A trial below the floor is recorded but never on the front: a number, or relative to the untouched model
    (``untouched - 0.05``)."""

    @field_validator("floor")
    @classmethod
    def _readable(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, str) and not _FLOOR.fullmatch(value.strip()):
            raise ValueError("is no floor; write a number from 0 to 1 or, for instance, untouched - 0.05")
        if isinstance(value, float) and not 0.0 <= value <= 1.0:
            raise ValueError("is no accuracy; a floor is a number from 0 to 1, or for instance untouched - 0.05")
        return value

    def floor_value(self, untouched: float) -> float | None:
        """Return the floor as an accuracy, given the untouched model's; None where there is no floor."""
        if not isinstance(self.floor, str):
            return self.floor
        match = _FLOOR.fullmatch(self.floor.strip())
        assert match is not None, "checked when the spec was read"
        return untouched + float((match[1] or "") + (match[2] or "0"))


class Goals(Settings):
    clean_accuracy: Goal = Goal()
    robust_accuracy: Goal = Goal()

    def floors(self, untouched: Mapping[str, float]) -> dict[str, float]:
        """Return the floors that are set, by goal, given the untouched model's accuracies."""
        floors = {name: getattr(self, name).floor_value(untouched[name]) for name in GOALS}
        return {name: floor for name, floor in floors.items() if floor is not None}

    def violation(self, values: Mapping[str, float], untouched: Mapping[str, float]) -> float:
        """Return by how much values fall below the floors, summed over both goals; 0 for values above them."""
        return sum(max(0.0, floor - values[name]) for name, floor in self.floors(untouched).items())


class Paint(Settings):
    """The baseline that every front shows: cross-entropy on attacked images, its weights interpolated with the
    untouched ones (PAINT, arXiv 2208.05592)."""

    objective: Literal["cross_entropy"] = "cross_entropy"
    tune: Tune = "visual"
    learning_rate: Positive = 2e-5
    lambda_reg: Annotated[float, Field(ge=0.0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    rank: Annotated[int, Field(ge=1)] | None = None
    penalty: Annotated[float, Field(ge=0.0)] = 0.0
    blocks: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _is_a_trial(self) -> Self:
        try:
            Parameters.model_validate(self.parameters())
        except ValidationError as error:
            # Each field alone was checked as a field of Paint, so that this is the check over all of them.
            raise error.errors()[0]["ctx"]["error"] from error
        return self

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the baseline's trial, without those that are None."""
        return self.model_dump(exclude_none=True)


class Search(Settings):
    sampler: Literal["tpe", "grid", "random", "soup"] = "tpe"
    """``grid`` tries every combination of choices, in the order in which they are written; ``soup`` trains a few
    anchors (``Space.anchors``), whose interpolation with the untouched weights is the front."""
    trials: Annotated[int, Field(ge=1)] = 32
    """With the baseline and the points; when left out, ``grid`` and ``soup`` try every combination or anchor."""
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

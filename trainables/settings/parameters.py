"""Parameters of a trial: what a search varies."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainables.settings.sets import SettingError, Settings

Objective = Literal["dpo", "ipo", "kto", "cross_entropy"]
Tune = Literal["transform", "last_blocks", "visual", "all"]
Weights = Literal["last", "averaged"]
Positive = Annotated[float, Field(gt=0.0)]


class MissingParameterError(SettingError):
    """The parameter at ``path`` needs another one, which has no value."""


class InapplicableParameterError(SettingError):
    """``parameter`` has a value, but does not apply with the other parameters."""

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class Parameters(Settings):
    """A point of the search space: everything that may differ between two trials."""

    objective: Objective
    tune: Tune
    learning_rate: Positive
    beta: Positive | None = None
    lambda_reg: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of KL(reference || policy) on the clean images."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """DPO only."""
    desirable_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """KTO only."""
    undesirable_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """KTO only."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    rank: Annotated[int, Field(ge=1)] | None = None
    """Rows of the transform W (of A in the residual form); the embedding width when left out."""
    form: Literal["direct", "residual"] | None = None
    """Of the transform: ``direct`` is W itself (rank, width); ``residual`` is W = I + B A with A (rank, width) and
    B (width, rank), which drops no direction at any rank. ``direct`` when left out."""
    penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of ||I - W W^T||^2 (transform only)."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """``last_blocks`` only: number of blocks at the end of the image tower that are tuned."""
    copies: Annotated[int, Field(ge=1)] | None = None
    """Attacked copies per image; at most, and when left out, ``train.copies``."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Training images, a subset of those of ``train``; all of them when left out. Smaller subsets are parts of larger
    ones."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.objective != "cross_entropy" and self.beta is None:
            raise MissingParameterError(f"objective {self.objective} needs `beta`", "objective")
        if self.tune == "last_blocks" and self.blocks is None:
            raise MissingParameterError("tune last_blocks needs `blocks`, the number of blocks", "tune")
        for name, owner in (("rank", "transform"), ("form", "transform"), ("blocks", "last_blocks")):
            if getattr(self, name) is not None and self.tune != owner:
                raise InapplicableParameterError(f"`{name}` applies to tune {owner} only, not to {self.tune}", name)
        if self.objective == "cross_entropy" and self.beta is not None:
            raise InapplicableParameterError("objective cross_entropy has no `beta`", "beta")
        return self

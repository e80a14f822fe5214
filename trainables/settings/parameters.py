"""The parameters of one trial: what a search varies."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainables.settings.sets import Settings

Objective = Literal["dpo", "ipo", "kto", "cross_entropy"]
Tune = Literal["transform", "last_blocks", "visual", "all"]
Weights = Literal["last", "averaged"]
Positive = Annotated[float, Field(gt=0.0)]


class Parameters(Settings):
    """One point of the search space: everything that may differ between two trials."""

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
    """Of the transform: W itself (rank, width), or W = I + B A with A (rank, width) and B (width, rank), which drops
    nothing at any rank; ``direct`` when left out."""
    penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of ||I - W W^T||^2 (transform only)."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """``last_blocks`` only: how many blocks of the image tower, counted from its end, are tuned."""
    copies: Annotated[int, Field(ge=1)] | None = None
    """Attacked copies per image; at most, and when left out, ``train.copies``."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Training images, a subset of those of ``train``; all of them when left out. Smaller ones lie in larger ones."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.objective != "cross_entropy" and self.beta is None:
            raise ValueError(f"objective {self.objective} needs `beta`")
        if self.tune == "last_blocks" and self.blocks is None:
            raise ValueError("tune last_blocks needs `blocks`, the number of blocks")
        for name, owner in (("rank", "transform"), ("form", "transform"), ("blocks", "last_blocks")):
            if getattr(self, name) is not None and self.tune != owner:
                raise ValueError(f"`{name}` applies to tune {owner} only, not to {self.tune}")
        if self.objective == "cross_entropy" and self.beta is not None:
            raise ValueError("objective cross_entropy has no `beta`")
        return self

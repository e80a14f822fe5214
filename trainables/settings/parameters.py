"""Parameters of a trial: what a search varies."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from trainables.own_code import FORM, names_function
from trainables.settings.sets import SettingError, Settings

Objective = Literal["dpo", "ipo", "kto", "cross_entropy", "none"]
"""``none``: no training; the policy is its start."""


def _is_function(value: str) -> str:
    """Return a value that names a function.

    Raises:
        PydanticCustomError: it is another word.
        ValueError: it is none of the form, but was probably meant to be one.
    """
    if ":" not in value:
        raise PydanticCustomError("function_name_type", f"Input should have the form {FORM}")
    if not names_function(value):
        raise ValueError(f"is no function of the form {FORM}")
    return value


OwnFunction = Annotated[
    str, AfterValidator(_is_function), WithJsonSchema({"type": "string", "pattern": ":", "examples": [FORM]})
]
"""A function of a user's own: ``package.module:function``."""
Target = Literal["flipped", "neutral", "equal"]
Start = Literal["identity", "closed_form", "projection"]
Tune = Literal["transform", "last_blocks", "visual", "all"]
Weights = Literal["last", "averaged"]
Positive = Annotated[float, Field(gt=0.0)]


class MissingParameterError(SettingError):
    """The parameter at ``path`` needs another one, ``parameter``, which has no value."""

    def __init__(self, message: str, path: str, parameter: str) -> None:
        super().__init__(message, path)
        self.parameter = parameter


class InapplicableParameterError(SettingError):
    """``parameter`` has a value, but does not apply with the other parameters."""

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message)
        self.parameter = parameter


_OF_TRANSFORM = ("rank", "form", "towers", "start")


class Parameters(Settings):
    """A point of the search space: everything that may differ between two trials.

    Parameters beyond the fields are those of an objective of the user's own.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float | str] = Field(init=False)

    objective: Objective | OwnFunction | None = None
    """The loss. ``dpo``, ``ipo`` and ``kto`` compare the true class with the written one against the untouched
    model; ``cross_entropy`` raises the true class among all; ``none`` trains nothing (the policy is its start). A
    function of your own, ``package.module:function``, is a loss too (docs/objectives.md). Left out for the target
    ``equal`` only, which has a loss of its own."""
    tune: Tune
    """What is trained: ``transform`` (a linear map on the embeddings), ``last_blocks`` (the end of the image
    tower), ``visual`` (the image tower) or ``all`` (both towers). More is usually stronger, and costs more clean
    accuracy, memory and time."""
    learning_rate: Positive | None = None
    """Step size of the optimizer. ``auto`` in a search space: the first trials find it (docs/learning_rate.md).
    Needed unless the objective is ``none``."""
    beta: Positive | None = None
    """Strength of the tie to the untouched model in ``dpo``, ``ipo`` and ``kto``, per nat of log-probability: small
    values move further. The authors take 1.0 for ``dpo``, 0.01 for ``ipo`` and 1.5 for ``kto``."""
    beta_m0: Positive | None = None
    """Instead of ``beta``: beta times m0, the untouched model's mean margin on the preference data (nats)."""
    lambda_reg: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of KL(reference || policy) on the clean images, in nats. Larger values keep clean accuracy and give up
    robust accuracy."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """Probability that a preference is flipped (conservative DPO). For ``dpo`` only."""
    desirable_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the true class in the loss. For ``kto`` only."""
    undesirable_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the written class in the loss. For ``kto`` only."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decay of the trained weights per step, as the optimizer applies it: decoupled for ``adamw``, as an L2 term
    for ``adamax``."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """Rows of the transform W (of A in the residual form); the embedding width when left out, written ``embed_dim``
    in a search space. Small ranks of the direct form cost clean accuracy."""
    form: Literal["direct", "residual"] | None = None
    """Of the transform: ``direct`` is W itself (rank, width); ``residual`` is W = I + B A with A (rank, width) and
    B (width, rank), which drops no direction at any rank. ``direct`` when left out."""
    penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of ||I - W W^T||^2, which keeps W near an orthogonal map. For ``tune: transform`` only."""
    towers: Literal["shared", "separate"] | None = None
    """Of the transform: one W for both towers (``shared``, when left out), or one for each (``separate``).
    Strengths of separate W interpolate."""
    start: Start | None = None
    """Of the transform, in the attribute task: the identity (when left out), or a W that is computed from the
    concept directions (docs/transform.md)."""
    target: Target | None = None
    """In the attribute task: ``flipped`` (when left out) prefers another value to the true one, ``neutral`` makes
    the values equally likely, ``equal`` makes the neutral prompt fit images of all values alike."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """Number of blocks at the end of the image tower that are trained. For ``tune: last_blocks`` only, which needs
    it."""
    copies: Annotated[int, Field(ge=1)] | None = None
    """Attacked copies per training image; at most, and when left out, ``train.copies``."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Training images, a subset of those of ``train``; all of them when left out. Smaller subsets are parts of
    larger ones."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs of the trial's training, fewer or more than ``training.epochs``; as many as that when left out. Not
    for the objective ``none``."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        self._check_own()
        self._check_objective()
        if self.objective != "none" and self.learning_rate is None:
            raise MissingParameterError("`learning_rate` has no value", "objective", "learning_rate")
        if self.tune == "last_blocks" and self.blocks is None:
            raise MissingParameterError("tune last_blocks needs `blocks`, the number of blocks", "tune", "blocks")
        for name, owner in (*((name, "transform") for name in _OF_TRANSFORM), ("blocks", "last_blocks")):
            if getattr(self, name) is not None and self.tune != owner:
                raise InapplicableParameterError(f"`{name}` applies to tune {owner} only, not to {self.tune}", name)
        if self.towers == "separate" and self.rank is not None and self.form != "residual":
            message = "separate W are interpolated with the identity, which has full rank: leave `rank` out"
            raise InapplicableParameterError(message, "rank")
        if self.start not in (None, "identity"):
            for name in ("rank", "form"):
                if getattr(self, name) is not None:
                    raise InapplicableParameterError(
                        f"start {self.start} is a W of full rank: leave `{name}` out", name
                    )
        return self

    @property
    def own_objective(self) -> str | None:
        """The objective if it is a function of the user's own, ``package.module:function``."""
        return self.objective if self.objective is not None and names_function(self.objective) else None

    def _check_own(self) -> None:
        for name in self.model_extra or {} if self.own_objective is None else {}:
            message = f"objective {self.objective} has no `{name}`" if self.objective else f"unknown parameter `{name}`"
            raise InapplicableParameterError(message, name)

    def _check_objective(self) -> None:
        betas = [name for name in ("beta", "beta_m0") if getattr(self, name) is not None]
        if self.target == "equal":
            for name in (["objective"] if self.objective is not None else []) + betas:
                raise InapplicableParameterError(f"target equal has a loss of its own, without `{name}`", name)
            return
        if self.objective is None:
            raise MissingParameterError("`objective` has no value", "target", "objective")
        if self.target == "neutral" and self.objective not in ("ipo", "cross_entropy", "none"):
            message = f"target neutral has no loss with objective {self.objective}; there are ipo and cross_entropy"
            raise InapplicableParameterError(message, "objective")
        if self.objective == "none" and self.epochs is not None:
            raise InapplicableParameterError("objective none has no `epochs`: nothing is trained", "epochs")
        if self.objective in ("cross_entropy", "none") and betas:
            raise InapplicableParameterError(f"objective {self.objective} has no `{betas[0]}`", betas[0])
        if self.target == "neutral" and betas:
            message = f"target neutral sets beta itself, to 1/(2 m0): leave `{betas[0]}` out"
            raise InapplicableParameterError(message, betas[0])
        if self.objective in ("dpo", "ipo", "kto") and self.target != "neutral" and not betas:
            raise MissingParameterError(f"objective {self.objective} needs `beta`", "objective", "beta")
        if len(betas) > 1:
            raise InapplicableParameterError("`beta` and `beta_m0` say the same in two ways: give one", "beta_m0")

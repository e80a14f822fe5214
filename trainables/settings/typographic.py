"""Settings of the typographic task: words on images that lie about what is in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from trainables.settings.parameters import Parameters, Positive, Tune
from trainables.settings.sets import SettingError, Settings, TypographicSet
from trainables.settings.task import EvaluateSettings, HeldOutEvaluation, TaskSettings, TrainSettings, split_of


class AttackSettings(Settings):
    """How words are written on images: ``sign`` (a boxed word) or ``defense_prefix`` (coloured, outlined letters)."""

    recipe: Literal["sign", "defense_prefix"] = "defense_prefix"
    """``sign``: a word in a box. ``defense_prefix``: coloured, outlined letters as in the literature; take it for
    photographs."""


class AttackedTrainSettings(TrainSettings):
    """Where preference data come from: each training image, and copies of it with a wrong word on them."""

    copies: Annotated[int, Field(ge=1)] = 1
    """Attacked copies per image, each with its own word and place (the paper's num_typo). More copies make an epoch
    longer."""


class AttackedTestSettings(HeldOutEvaluation):
    """Measured once for each member of the front, on images with and without words."""

    variants: bool = True
    """Also report unseen fonts, positions and words, two words, and the reading of words on images without object,
    on at most 2000 images of each set. Turn it off to save time on large test sets."""


class AttackedEvaluateSettings(EvaluateSettings):
    """What is measured: after each epoch, at the end of a trial, before the front is chosen, and on test."""

    test: AttackedTestSettings
    """What members of the front are measured on, once."""


class Paint(Settings):
    """The baseline that every front shows: cross-entropy on attacked images, its weights interpolated with the
    untouched ones (PAINT, arXiv 2208.05592)."""

    objective: Literal["cross_entropy"] = "cross_entropy"
    """Loss of the baseline."""
    tune: Tune = "visual"
    """What the baseline trains, as the parameter ``tune``."""
    learning_rate: Positive | Literal["auto"] = "auto"
    """Step size of the baseline; ``auto``: the usual one for the model, the scope and the number of steps
    (docs/learning_rate.md)."""
    lambda_reg: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the tie to the untouched model on clean images; PAINT has none."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decay of the trained weights, as the parameter of this name."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """Rows of W, with ``tune: transform`` only."""
    penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the penalty of W, with ``tune: transform`` only."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """Number of blocks, with ``tune: last_blocks`` only."""

    @model_validator(mode="after")
    def _is_a_trial(self) -> Self:
        try:
            Parameters.model_validate({"learning_rate": 1e-4, **self.parameters()})
        except ValidationError as error:
            # Each field alone was checked as a field of Paint, so that this is the check over all of them.
            raise error.errors()[0]["ctx"]["error"] from error
        return self

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the baseline's trial, without those that are None, or not known yet."""
        parameters = self.model_dump(exclude_none=True)
        return {name: value for name, value in parameters.items() if value != "auto"}


class TypographicSettings(TaskSettings):
    """The task ``typographic``: words on images lie about what is in them, and the model is to see the image."""

    task: Literal["typographic"] = "typographic"
    """The task: robustness to words written on images. The default."""
    train: AttackedTrainSettings
    """What trials are trained on."""
    attack: AttackSettings = AttackSettings()
    """How words are written on images."""
    evaluate: AttackedEvaluateSettings
    """What is measured, when, and on which images."""
    paint: Paint | None = Paint()
    """The baseline PAINT, which is the first trial of a sweep; null leaves it out."""

    @model_validator(mode="after")
    def _clean_accuracy_can_be_tested(self) -> Self:
        tested = [self.sets[split_of(name, "test")[0]] for name in self.evaluate.test.sets]
        if all(isinstance(settings, TypographicSet) for settings in tested):
            message = "evaluate.test.sets names only photographs of written words; clean accuracy needs a set without"
            raise SettingError(message, "evaluate", "test", "sets")
        return self

    def most(self) -> dict[str, int | None]:
        return {**super().most(), "copies": self.train.copies}

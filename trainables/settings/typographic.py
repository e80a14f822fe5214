"""Settings of the typographic task: words on images that lie about what is in them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from trainables.settings.parameters import OwnFunction, Parameters, Positive, Tune
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


_TAKEN = {
    *("clean_accuracy", "robust_accuracy", "text_confusion_rate", "two_way_accuracy", "sign_reading"),
    *("step", "steps", "epoch", "epochs", "progress", "rung", "attempt", "train_s", "evaluation_s", "checkpoint_s"),
    *("time_s", "preference_loss", "reference_kl", "loss", "identity_distance"),
}
"""Names of metrics, and of what else a metric line holds."""


class OwnMetric(Settings):
    """A metric of your own: the mean over images of a function of logits (docs/objectives.md). Measured after each
    epoch and on test, with an interval; ``keep`` may name it."""

    function: OwnFunction
    """The function: ``package.module:function``. It takes logits of the model and of the untouched model, (B, C), and
    the true and the written class of each image, (B,), and returns a number for each image, (B,)."""
    direction: Literal["maximize", "minimize"]
    """Which way is better: a bound on a metric that is maximised is a floor, else a ceiling."""
    view: Literal["clean", "attacked"] = "attacked"
    """Images that it is measured on: ``attacked`` with the word of a class on them, or ``clean``, where the written
    class is -1."""
    goal: bool = False
    """Whether the sweep improves it in place of ``robust_accuracy``, which is then measured only."""


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
    metrics: dict[str, OwnMetric] = {}
    """Metrics of your own, by names for tables and bounds."""

    @model_validator(mode="after")
    def _metrics_have_names_of_their_own(self) -> Self:
        for name in self.metrics:
            if not re.fullmatch("[a-z][a-z0-9_]*", name):
                message = f"metrics: {name!r} is no name for a metric; use small letters, digits and _"
                raise SettingError(message, "metrics", name)
            if name in _TAKEN:
                raise SettingError(f"metrics: `{name}` is the name of something else; choose another", "metrics", name)
        if len(goals := [name for name, metric in self.metrics.items() if metric.goal]) > 1:
            message = f"metrics: {' and '.join(goals)} are goals; one of them takes the place of robust_accuracy"
            raise SettingError(message, "metrics", goals[1], "goal")
        return self

    @model_validator(mode="after")
    def _clean_accuracy_can_be_tested(self) -> Self:
        tested = [self.sets[split_of(name, "test")[0]] for name in self.evaluate.test.sets]
        if all(isinstance(settings, TypographicSet) for settings in tested):
            message = "evaluate.test.sets names only photographs of written words; clean accuracy needs a set without"
            raise SettingError(message, "evaluate", "test", "sets")
        return self

    def most(self) -> dict[str, int | None]:
        return {**super().most(), "copies": self.train.copies}

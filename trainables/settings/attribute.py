"""Settings of the attribute task: a concept (gender, a colour) that a CLIP is to ignore or to see reversed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainables.settings.sets import AttributeSet, SettingError, Settings, WebDatasetSet, WorldSet
from trainables.settings.task import EvaluateSettings, TaskSettings, split_of


class AttributeSection(Settings):
    """The attribute, and how prompts name it."""

    name: str = "attribute"
    """What the attribute is called in tables and pictures: ``gender``."""
    prompts: Annotated[list[str], Field(min_length=1)] = ["a photo of a {value} {content}"]
    """Templates that name content and value. The neutral ones are the ``templates`` of the image sets."""
    queries: list[str] | None = None
    """Prompts whose retrievals are looked at for skew: "A photo of an addict."; the neutral prompt of each content
    when left out."""
    top: Annotated[int, Field(ge=1)] = 60
    """Number of best retrievals of a prompt in which skew is measured."""
    bias: Literal["max_skew", "attribute_gap"] = "max_skew"
    """The goal beside content accuracy: the skew of retrievals (``max_skew``), or how far attribute accuracy is
    from chance (``attribute_gap``)."""

    @field_validator("prompts")
    @classmethod
    def _names_both(cls, value: list[str]) -> list[str]:
        for template in value:
            if "{value}" not in template or "{content}" not in template:
                raise ValueError("must name both: each prompt needs {value} and {content}")
        return value


class AttributeEvaluateSettings(EvaluateSettings):
    """What is measured: after each epoch, at the end of a trial, before the front is chosen, and on test."""

    retention: list[str] = []
    """Further labelled sets, whose zero-shot accuracy is measured: on test splits of the front, and on validation
    where ``keep`` names it (``NAME/zero_shot_accuracy``)."""


class AttributeSettings(TaskSettings):
    """The task ``attribute``: the model is to ignore a concept, or to see it reversed."""

    task: Literal["attribute"]
    """The task: how the model sees an attribute. Must be written."""
    evaluate: AttributeEvaluateSettings
    """What is measured, when, and on which images."""
    attribute: AttributeSection = AttributeSection()
    """The attribute, and how prompts name it."""
    baselines: list[Literal["projection", "closed_form", "balanced"]] = ["projection", "closed_form", "balanced"]
    """Trials that a sweep begins with: the orthogonal projection, the W of closed form, and cross-entropy on
    balanced labels."""
    balanced_learning_rate: Annotated[float, Field(gt=0.0)] = 0.02
    """Step size of the baseline ``balanced``."""

    @model_validator(mode="after")
    def _sets_have_the_attribute(self) -> Self:
        named: list[tuple[str, tuple[str, ...]]] = [(self.train.set, ("train", "set"))]
        named += [(split_of(name, "")[0], ("evaluate", "search", "sets")) for name in self.evaluate.search.sets]
        named += [(split_of(name, "")[0], ("evaluate", "test", "sets")) for name in self.evaluate.test.sets]
        for name in self.evaluate.retention:
            if name not in self.sets or not self.sets[name].has("test"):
                message = f"evaluate.retention names {name!r}, which is no set with a test split"
                raise SettingError(message, "evaluate", "retention")
        for name, path in named:
            settings = self.sets[name]
            labelled = isinstance(settings, AttributeSet | WorldSet)
            if not labelled and not (isinstance(settings, WebDatasetSet) and settings.attribute_key is not None):
                raise SettingError(
                    f"the set {name!r} ({settings.kind}) tells no attribute of its images; there are attribute_folder, "
                    "attribute_table, utkface, celeba, world, and webdataset with `attribute_key`",
                    *path,
                )
        return self

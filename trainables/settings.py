"""What a trial needs to know: the task all trials of a sweep share, and the parameters of one of them.

Both are read from YAML or JSON. Everything is checked here, before torch is imported, so that a mistake costs seconds.
Relative paths are taken from the folder of the file they stand in (see ``absolute_paths``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Objective = Literal["dpo", "ipo", "kto", "cross_entropy"]
Tune = Literal["transform", "last_blocks", "visual", "all"]
Split = Literal["train", "validation", "test"]
Weights = Literal["last", "averaged"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSettings(Settings):
    """Which CLIP is tuned. ``architecture`` is an open_clip name, ``hf-hub:...``, ``local-dir:...`` or ``world``."""

    architecture: str = "world"
    pretrained: str | None = None
    """An open_clip tag or a checkpoint file; not for ``local-dir:``, ``hf-hub:`` and ``world``, which bring weights."""
    quick_gelu: bool | None = None
    """Activation of a bare checkpoint file; tags and folders know theirs."""
    text: Literal["frozen"] = "frozen"
    """The text tower is frozen in every scope but ``tune: all``, which trains everything as the released code does."""

    @model_validator(mode="after")
    def _weights_from_one_place(self) -> Self:
        own = self.architecture == "world" or self.architecture.startswith(("local-dir:", "hf-hub:"))
        if own and self.pretrained is not None:
            raise ValueError(f"architecture {self.architecture!r} brings its own weights; leave `pretrained` out")
        if not own and self.pretrained is None:
            raise ValueError(
                f"architecture {self.architecture!r} needs `pretrained`: an open_clip tag (for instance "
                "laion2b_s34b_b79k) or a checkpoint file; an untrained model cannot be tuned"
            )
        return self


class WorldSet(Settings):
    """The generated demo world: every image a function of (seed, split, index)."""

    kind: Literal["world"]
    seed: Annotated[int, Field(ge=0)] = 0
    train: Annotated[int, Field(ge=1)] = 1536
    validation: Annotated[int, Field(ge=1)] = 1000
    test: Annotated[int, Field(ge=1)] = 2000
    templates: Annotated[list[str], Field(min_length=1)] = ["a photo of a {}"]


class HeldBack(Settings):
    """Validation images taken out of the training folders, ``per_class`` of each, drawn with ``seed``."""

    from_: Annotated[Literal["train"], Field(alias="from")]
    per_class: Annotated[int, Field(ge=1)]
    seed: int = 0


class ImageFolderSet(Settings):
    """``<folder>/<class>/<image>``; several folders of a split are read as one."""

    kind: Literal["image_folder"]
    train: list[Path] | None = None
    validation: list[Path] | HeldBack | None = None
    test: list[Path] | None = None
    class_names: Path | list[str] | dict[str, str] | None = None
    """Words for the prompts: a mapping from folder name to words (inline or a JSON file), or a list in the sorted
    order of the folder names; without it the folder names themselves, ``_`` read as space."""
    templates: Annotated[list[str], Field(min_length=1)] = ["a photo of a {}."]

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _some_split(self) -> Self:
        if self.train is None and self.validation is None and self.test is None:
            raise ValueError("an image_folder set needs at least one of train, validation, test")
        if isinstance(self.validation, HeldBack) and self.train is None:
            raise ValueError("validation {from: train} needs `train`")
        return self


ImageSetSettings = Annotated[WorldSet | ImageFolderSet, Field(discriminator="kind")]


class TrainSettings(Settings):
    """Where preference data come from."""

    set: str
    classes: Literal["all"] | Annotated[float, Field(gt=0.0, lt=1.0)] | Annotated[list[str], Field(min_length=2)] = (
        "all"
    )
    """All classes, a list of names, or a share: 0.5 takes every second class, the others are never trained on."""
    copies: Annotated[int, Field(ge=1)] = 1
    """Attacked copies per image, each with its own word and place (the paper's num_typo)."""
    images: Annotated[int, Field(ge=1)] | None = None
    """At most so many images, drawn with the sweep's seed."""


class AttackSettings(Settings):
    """How words are written on images: ``sign`` (a boxed word) or ``defense_prefix`` (coloured, outlined letters)."""

    recipe: Literal["sign", "defense_prefix"] = "defense_prefix"


class SearchEvaluation(Settings):
    """Told after each epoch."""

    sets: Annotated[list[str], Field(min_length=1)]
    """``name`` (its validation split) or ``name/split``."""
    images: Annotated[int, Field(ge=1)] | None = None


class FrontEvaluation(Settings):
    """Measured at the end of a trial, on validation."""

    strengths: list[Annotated[float, Field(ge=-2.0, le=2.0)]] = [0.25, 0.5, 0.75, 1.0]
    """t of W^t, or alpha between reference and policy weights; 0 is the untouched model, which every front shows."""
    averaged: bool = True
    """Also measure the Beta-averaged weights."""

    @field_validator("strengths")
    @classmethod
    def _not_untouched(cls, value: list[float]) -> list[float]:
        if 0.0 in value:
            raise ValueError("strength 0 is the untouched model, which every front shows anyway; leave it out")
        if len(set(value)) != len(value):
            raise ValueError("a strength is named twice")
        return value


class HeldOutEvaluation(Settings):
    """Measured once for front members."""

    sets: Annotated[list[str], Field(min_length=1)]
    """``name`` (its test split) or ``name/split``."""
    images: Annotated[int, Field(ge=1)] | None = None
    variants: bool = True
    """Also report unseen fonts, positions and words, two words, and the reading of words on images without object."""


class EvaluateSettings(Settings):
    search: SearchEvaluation
    front: FrontEvaluation = FrontEvaluation()
    test: HeldOutEvaluation


class TrainingSettings(Settings):
    """How every trial is trained."""

    epochs: Annotated[int, Field(ge=1)] = 3
    global_batch_size: Annotated[int, Field(ge=1)] = 512
    """Pairs (clean image, attacked copy) per step over all workers of the trial."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Pairs per forward pass and worker; the loss is that of the global batch whatever this is."""
    optimizer: Literal["adamax", "adamw"] = "adamax"
    warmup_share: Share = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: bf16 on GPU, fp32 on CPU. Goals are always measured in the training precision of the trial."""
    averaging_beta: Positive = 0.7
    """The authors' moving average weighs step i of n by the Beta(b, b) density at i / n."""
    checkpoint_every_s: Positive = 600.0
    """Within long epochs; every epoch ends with a checkpoint anyway."""


class TaskSettings(Settings):
    """What all trials of a sweep share."""

    task: Literal["typographic"] = "typographic"
    model: ModelSettings = ModelSettings()
    sets: Annotated[dict[str, ImageSetSettings], Field(min_length=1)]
    train: TrainSettings
    attack: AttackSettings = AttackSettings()
    evaluate: EvaluateSettings
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _sets_exist(self) -> Self:
        named = [("train.set", self.train.set, "train")]
        named += [("evaluate.search.sets", name, "validation") for name in self.evaluate.search.sets]
        named += [("evaluate.test.sets", name, "test") for name in self.evaluate.test.sets]
        for where, reference, default in named:
            name, split = split_of(reference, default)
            if name not in self.sets:
                raise ValueError(f"{where} names the set {name!r}; defined are {', '.join(self.sets)}")
            if split not in ("train", "validation", "test"):
                raise ValueError(f"{where}: {reference!r} names the split {split!r}; there are train, validation, test")
            if isinstance(self.sets[name], ImageFolderSet) and getattr(self.sets[name], split) is None:
                raise ValueError(f"{where}: the set {name!r} has no {split} split")
        if any(split_of(name, "validation")[1] == "test" for name in self.evaluate.search.sets):
            raise ValueError("evaluate.search.sets must not name a test split: the search would be tuned on it")
        used = {split_of(name, "validation") for name in self.evaluate.search.sets} | {(self.train.set, "train")}
        for name in self.evaluate.test.sets:
            if split_of(name, "test") in used:
                raise ValueError(f"evaluate.test.sets: {name!r} is trained or searched on; a test needs other images")
        return self


def split_of(reference: str, default: str) -> tuple[str, str]:
    """``"in100/test"`` -> ``("in100", "test")``; without a slash the default split."""
    name, slash, split = reference.partition("/")
    return name, split if slash else default


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
    """Rows of the transform W; the embedding width when left out."""
    penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of ||I - W W^T||^2 (transform only)."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """``last_blocks`` only: how many blocks of the image tower, counted from its end, are tuned."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.objective != "cross_entropy" and self.beta is None:
            raise ValueError(f"objective {self.objective} needs `beta`")
        if self.tune == "last_blocks" and self.blocks is None:
            raise ValueError("tune last_blocks needs `blocks`, the number of blocks")
        for name, owner in (("rank", "transform"), ("blocks", "last_blocks")):
            if getattr(self, name) is not None and self.tune != owner:
                raise ValueError(f"`{name}` applies to tune {owner} only, not to {self.tune}")
        if self.objective == "cross_entropy" and self.beta is not None:
            raise ValueError("objective cross_entropy has no `beta`")
        return self


class TrialSettings(Settings):
    """All that ``python -m trainables`` needs to run one trial alone."""

    task: TaskSettings
    parameters: Parameters
    seed: Annotated[int, Field(ge=0)] = 0
    """Of this trial: order of the batches."""
    data_seed: Annotated[int, Field(ge=0)] = 0
    """Of the sweep: attacks, subsets; the same for all its trials."""


def absolute_paths(value: Any, folder: Path) -> Any:
    """Returns a task mapping (as parsed from YAML) whose relative paths are taken from ``folder``.

    Paths are the splits and ``class_names`` of image folders, ``local-dir:`` architectures and checkpoint files
    (``pretrained`` ending in .pt, .pth, .bin or .safetensors).
    """
    if not isinstance(value, dict):
        return value
    value = dict(value)
    model = value.get("model")
    if isinstance(model, dict):
        model = dict(model)
        architecture, pretrained = model.get("architecture"), model.get("pretrained")
        if isinstance(architecture, str) and architecture.startswith("local-dir:"):
            model["architecture"] = "local-dir:" + str(folder / architecture.removeprefix("local-dir:"))
        if isinstance(pretrained, str) and pretrained.endswith((".pt", ".pth", ".bin", ".safetensors")):
            model["pretrained"] = str(folder / pretrained)
        value["model"] = model
    if isinstance(value.get("sets"), dict):
        value["sets"] = {name: _set_paths(settings, folder) for name, settings in value["sets"].items()}
    return value


def _set_paths(settings: Any, folder: Path) -> Any:
    if not isinstance(settings, dict):
        return settings
    settings = dict(settings)
    for key in ("train", "validation", "test"):
        split = settings.get(key)
        if isinstance(split, str):
            settings[key] = str(folder / split)
        elif isinstance(split, list):
            settings[key] = [str(folder / part) if isinstance(part, str) else part for part in split]
    if isinstance(settings.get("class_names"), str):
        settings["class_names"] = str(folder / settings["class_names"])
    return settings

"""What all trials of a sweep share, whatever its task: model, image sets, evaluation, training.

Each task adds its own settings (``trainables/tasks``). They are read from YAML or JSON, and everything is checked
before torch is imported, so that a mistake costs seconds. Relative paths start from the folder of their file (see
``absolute_paths``).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import Field, field_validator, model_validator

from trainables.settings.parameters import Parameters, Positive
from trainables.settings.sets import ImageSetSettings, SettingError, Settings, Share, Split

WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})", re.ASCII)
"""As ``os.path.expandvars`` reads them."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+]+://")
_OPEN_CLIP_EPOCH = re.compile(r"epoch_(\d+|latest)\.pt")


class Preprocess(Settings):
    """How images are prepared for a model."""

    mean: tuple[float, float, float]
    """Mean of the red, green and blue channel, on the scale 0 to 1; subtracted from each pixel."""
    std: tuple[Positive, Positive, Positive]
    """Standard deviation of the three channels, on the same scale; each pixel is divided by it."""
    size: Annotated[int, Field(ge=1)] | None = None
    """Side of the square image in pixels; the architecture's own when left out."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How images are resized. Take what the model was trained with."""
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    """What is made square: the image is resized so that its ``shortest`` side fits and then cropped, so that its
    ``longest`` side fits and then padded, or both sides are changed (``squash``)."""


class Expectation(Settings):
    """Known accuracy of the untouched model. ``sweeper check`` measures it, and so catches a wrong activation, wrong
    preprocessing and wrong class names."""

    set: str
    """Set that the accuracy belongs to, without attack: ``name`` (its test split) or ``name/split``."""
    accuracy: Share
    """Published or known accuracy of the untouched model, from 0 to 1."""
    tolerance: Share = 0.01
    """Largest difference from ``accuracy`` that passes, from 0 to 1."""


class ModelSettings(Settings):
    """Which CLIP is tuned. ``architecture`` is an open_clip name, ``hf-hub:...``, ``local-dir:...`` or ``world``."""

    architecture: str = "world"
    """Name of the model in open_clip (``ViT-B-32``), ``hf-hub:NAME``, ``local-dir:FOLDER``, or ``world``: the small
    CLIP that ships with sweeper. The repository or folder is one of open_clip, or of transformers with a
    ``CLIPModel``."""
    pretrained: str | None = None
    """An open_clip tag or a checkpoint file; not for ``local-dir:``, ``hf-hub:`` and ``world``, which bring
    weights."""
    quick_gelu: bool | None = None
    """Whether the activation is QuickGELU. For a bare checkpoint file only, which does not say so; tags and folders
    do."""
    preprocess: Literal["openai", "inception", "imagenet"] | Preprocess | None = None
    """How images are prepared. For a bare checkpoint file only: mean and deviation of OpenAI (``openai``), of 0.5
    throughout (``inception``), of ImageNet (``imagenet``), or written out. An ``epoch_N.pt`` of open_clip's
    training may leave it out: that training takes ``openai`` unless told otherwise."""
    shear: Annotated[float, Field(gt=0.0, le=3.0)] | None = None
    """For ``world`` only, in experiments with attributes: the colour's directions in images and in prompts get a
    cosine of 1 / (1 + shear^2), so that one W for both towers can reverse it. A construction:
    trainables/world/shear.py."""
    expect: Expectation | None = None
    """A known accuracy of the untouched model, which ``sweeper check`` measures. State it for bare checkpoint
    files."""
    allow_chance: bool = False
    """Sweep a model that does not know the classes: its accuracy on 200 validation images may be that of
    guessing."""
    text: Literal["frozen", "trained"] = "frozen"
    """``frozen``: ``last_blocks`` and ``visual`` leave the text tower as it is, as in the paper's text.
    ``trained``: they train the text tower and logit_scale too, as the authors' released code does. ``tune: all``
    trains both towers either way, ``transform`` never does."""

    @model_validator(mode="after")
    def _weights_from_one_place(self) -> Self:
        own = self.architecture == "world" or self.architecture.startswith(("local-dir:", "hf-hub:"))
        if own and self.pretrained is not None:
            raise SettingError(
                f"architecture {self.architecture!r} brings its own weights; leave `pretrained` out", "architecture"
            )
        if not own and self.pretrained is None:
            raise SettingError(
                f"architecture {self.architecture!r} needs `pretrained`: an open_clip tag (for instance "
                "laion2b_s34b_b79k) or a checkpoint file; an untrained model cannot be tuned",
                "architecture",
            )
        if self.shear is not None and self.architecture != "world":
            raise SettingError("shear is a construction on the model `world` only; leave it out", "shear")
        if self.is_bare_file:
            assert self.pretrained is not None
            missing = [] if self.quick_gelu is not None else ["`quick_gelu` (true or false)"]
            if self.preprocess is None and not _OPEN_CLIP_EPOCH.fullmatch(Path(self.pretrained).name):
                missing.append("`preprocess` (openai, inception, imagenet, or its mean and std)")
            if missing:
                raise ValueError(
                    f"the checkpoint file {self.pretrained} does not say how its model was trained; state "
                    + " and ".join(missing)
                )
        elif self.quick_gelu is not None or self.preprocess is not None:
            raise SettingError(
                "quick_gelu and preprocess are for bare checkpoint files; tags, folders and hub models know theirs",
                "quick_gelu",
            )
        return self

    @property
    def is_bare_file(self) -> bool:
        """Whether ``pretrained`` is a checkpoint file."""
        return self.pretrained is not None and self.pretrained.endswith(WEIGHT_SUFFIXES)


class TrainSettings(Settings):
    """Where preference data come from."""

    set: str
    """Name of the set under ``sets`` whose train split is used, or ``name/split``."""
    classes: Literal["all"] | Annotated[float, Field(gt=0.0, lt=1.0)] | Annotated[list[str], Field(min_length=2)] = (
        "all"
    )
    """Classes to train on: all, a list of names, or a share: 0.5 takes every second class, the others are never
    trained on and show whether the cure carries over to them."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Largest number of training images, drawn with ``search.seed``; all of them when left out."""


class SearchEvaluation(Settings):
    """Measured after each epoch of a trial and reported to the search."""

    sets: Annotated[list[str], Field(min_length=1)]
    """Sets that the search measures on: ``name`` (its validation split) or ``name/split``. Test splits are
    refused."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Largest number of images of each set, drawn with ``search.seed``; all of them when left out. More images mean
    less noise and a longer evaluation after each epoch; images that are left over serve the second look."""


class FrontEvaluation(Settings):
    """Measured at the end of a trial, on validation."""

    strengths: list[Annotated[float, Field(ge=-2.0, le=2.0)]] = [0.25, 0.5, 0.75, 1.0]
    """Strengths at which each finished trial is measured: t of W^t for a transform, else alpha between untouched
    (0) and trained weights (1). Each costs one evaluation; 0 is the untouched model, which every front shows."""
    averaged: bool = True
    """Also measure the average of the weights over the training, weighted by a Beta density."""

    @field_validator("strengths")
    @classmethod
    def _not_untouched(cls, value: list[float]) -> list[float]:
        if 0.0 in value:
            raise ValueError("strength 0 is the untouched model, which every front shows anyway; leave it out")
        if len(set(value)) != len(value):
            raise ValueError("a strength is named twice")
        return value


class SecondLookEvaluation(Settings):
    """After the search, points near the front are measured on validation images that the search did not see, and the
    front is chosen on all of these images together."""

    margin: Annotated[float, Field(ge=0.0)] = 0.01
    """Points that would be on the front if both of their goals were better by so much are measured again, in the
    goals' units (0.01 is one point of accuracy)."""
    images: Annotated[int, Field(ge=1)] = 4000
    """Largest number of images of each set that the search does not see and the second look measures on."""


class HeldOutEvaluation(Settings):
    """Measured once for each member of the front."""

    sets: Annotated[list[str], Field(min_length=1)]
    """Sets that members of the front are measured on once: ``name`` (its test split) or ``name/split``. Sets of
    photographs with written words belong here."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Largest number of images of each set, drawn with ``search.seed``; all of them when left out."""


class EvaluateSettings(Settings):
    """What is measured: after each epoch, at the end of a trial, before the front is chosen, and on test."""

    search: SearchEvaluation
    """What is measured after each epoch of a trial."""
    front: FrontEvaluation = FrontEvaluation()
    """What is measured on validation at the end of a trial."""
    second_look: SecondLookEvaluation | None = SecondLookEvaluation()
    """What is measured before the front is chosen; null leaves it out. There is none either where the search sees
    all validation images."""
    test: HeldOutEvaluation
    """What members of the front are measured on, once."""


class TrainingSettings(Settings):
    """How every trial is trained."""

    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the training data, in a trial without the parameter ``epochs``."""
    global_batch_size: Annotated[int, Field(ge=1)] = 512
    """Pairs (clean image, attacked copy) per step over all workers of the trial. Affects the result; the memory is
    set by ``micro_batch_size``."""
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Pairs per forward pass and worker; the loss is that of the global batch for every value. ``auto`` measures
    the fastest size once per model, scope and device, and keeps the answer in the storage's cache; null is the
    worker's whole share of the batch. A trial that runs out of memory halves it."""
    optimizer: Literal["adamax", "adamw"] = "adamax"
    """Optimizer of all trials; ``adamax`` is the paper's."""
    warmup_share: Share = 0.0
    """Share of the steps in which the learning rate rises to its full value; it falls as a cosine afterwards. 0.1
    helps at high learning rates."""
    gradient_checkpointing: bool = False
    """Recompute activations of the trained towers in the backward pass: less memory, about a third more time. Turn
    it on where even small micro-batches do not fit."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of training: ``auto`` is bf16 on GPU and fp32 on CPU. Goals are always measured in the training
    precision of the trial."""
    averaging_beta: Positive = 0.7
    """Shape of the average over weights: step i of n counts by the Beta(b, b) density at i / n, as in the authors'
    code. Below 1 the first and last steps count most."""
    checkpoint_every_s: Positive = 60.0
    """Seconds between checkpoints: a trial that is killed repeats at most this long and a step. Use more where
    checkpoints are large and the storage is slow."""

    def epochs_of(self, parameters: Parameters) -> int:
        """Return how many epochs a trial trains."""
        return self.epochs if parameters.epochs is None else parameters.epochs


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Bound = float | str
"""A number, or relative to the untouched model: ``untouched - 0.05``."""


class TaskSettings(Settings):
    """What all trials of a sweep share. A task derives its own settings from these."""

    task: str
    """What is to be changed in the model: its robustness to written words (``typographic``) or how it sees an
    attribute (``attribute``)."""
    model: ModelSettings = ModelSettings()
    """The CLIP that is tuned."""
    sets: Annotated[dict[str, ImageSetSettings], Field(min_length=1)]
    """The image sets, by names of your own."""
    train: TrainSettings
    """What trials are trained on."""
    evaluate: EvaluateSettings
    """What is measured, when, and on which images."""
    training: TrainingSettings = TrainingSettings()
    """How every trial is trained."""
    keep: dict[str, Bound] = {}
    """What a point of the front must keep besides its goals: a metric on validation and its bound, for instance
    ``sign_reading: untouched - 0.10``. Measured of every point that could be on the front."""
    code: dict[str, Digest] = {}
    """SHA-256 of the file of each module whose functions the spec names (docs/objectives.md). sweeper fills it in, and
    refuses to go on with other code; write it yourself to have other code refused from the beginning."""

    @model_validator(mode="after")
    def _sets_exist(self) -> Self:
        for name in self.sets:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name == "transfer":
                raise SettingError(
                    f"sets: {name!r} is no name for a set; use letters, digits, _ . - (not `transfer`)", "sets"
                )
        named = [("train.set", self.train.set, "train")]
        named += [("evaluate.search.sets", name, "validation") for name in self.evaluate.search.sets]
        named += [("evaluate.test.sets", name, "test") for name in self.evaluate.test.sets]
        for where, reference, default in named:
            name, split = split_of(reference, default)
            path = where.split(".")
            if name not in self.sets:
                raise SettingError(f"{where} names the set {name!r}; defined are {', '.join(self.sets)}", *path)
            if split not in get_args(Split):
                message = f"{where}: {reference!r} names the split {split!r}; there are train, validation, test"
                raise SettingError(message, *path)
            if not self.sets[name].has(cast(Split, split)):
                raise SettingError(f"{where}: the set {name!r} has no {split} split", *path)
        if any(split_of(name, "validation")[1] == "test" for name in self.evaluate.search.sets):
            message = "evaluate.search.sets must not name a test split: the search would be tuned on it"
            raise SettingError(message, "evaluate", "search", "sets")
        used = {split_of(name, "validation") for name in self.evaluate.search.sets} | {(self.train.set, "train")}
        if self.model.expect is not None:
            named_set, split = split_of(self.model.expect.set, "test")
            if named_set not in self.sets or split not in get_args(Split):
                message = f"model.expect.set names {self.model.expect.set!r}; defined are {', '.join(self.sets)}"
                raise SettingError(message, "model", "expect", "set")
        for name in self.evaluate.test.sets:
            if split_of(name, "test") in used:
                message = f"evaluate.test.sets: {name!r} is trained or searched on; a test needs other images"
                raise SettingError(message, "evaluate", "test", "sets")
        return self

    def most(self) -> dict[str, int | None]:
        """Return for parameters that count training data how much there is; None where nobody knows before."""
        return {"images": self.train.images}


def split_of(reference: str, default: str) -> tuple[str, str]:
    """Return set and split of ``name/split``, or of ``name``, which stands for the default split."""
    name, slash, split = reference.partition("/")
    return name, split if slash else default


def absolute_paths(value: Any, folder: Path) -> Any:
    """Return a task mapping (as parsed from YAML) whose relative paths start from ``folder``.

    Paths are the splits, ``class_names``, ``classes``, ``root`` and ``path`` of sets, ``local-dir:`` architectures and
    checkpoint files (``pretrained`` ending in .pt, .pth, .bin, .ckpt or .safetensors). ``~`` and environment variables
    (``$DATA``, ``${DATA}``) in them are replaced, unless a file has the name as it is written.

    Raises:
        SettingError: an environment variable is not set; the error has the path to the key.
    """
    if not isinstance(value, dict):
        return value
    value = dict(value)
    model = value.get("model")
    if isinstance(model, dict):
        model = dict(model)
        architecture, pretrained = model.get("architecture"), model.get("pretrained")
        if isinstance(architecture, str) and architecture.startswith("local-dir:"):
            place = _placed(architecture.removeprefix("local-dir:"), folder, "model", "architecture")
            model["architecture"] = "local-dir:" + place
        if isinstance(pretrained, str) and pretrained.endswith(WEIGHT_SUFFIXES):
            model["pretrained"] = _placed(pretrained, folder, "model", "pretrained")
        value["model"] = model
    if isinstance(value.get("sets"), dict):
        value["sets"] = {name: _set_paths(name, settings, folder) for name, settings in value["sets"].items()}
    return value


def _set_paths(name: str, settings: Any, folder: Path) -> Any:
    if not isinstance(settings, dict):
        return settings
    settings = dict(settings)
    for key in ("train", "validation", "test"):
        split = settings.get(key)
        if isinstance(split, str):
            settings[key] = _placed(split, folder, "sets", name, key)
        elif isinstance(split, list):
            settings[key] = [
                _placed(part, folder, "sets", name, key, index) if isinstance(part, str) else part
                for index, part in enumerate(split)
            ]
    for key in ("class_names", "classes", "root", "path", "images"):
        if isinstance(settings.get(key), str) and settings[key] != "imagenet":
            settings[key] = _placed(settings[key], folder, "sets", name, key)
    return settings


def unset_variables(text: str) -> list[str]:
    """Return the environment variables in a path (``$DATA``, ``${DATA}``) that are not set."""
    names = [name.strip("{}") for name in _VARIABLE.findall(text)]
    return [name for name in names if name not in os.environ]


def _placed(text: str, folder: Path, *key: str | int) -> str:
    """Return a path that a task mapping has at ``key``, from ``folder`` on.

    Raises:
        SettingError: an environment variable is not set.
    """
    try:
        plain = "~" not in text and "$" not in text and not _URL.match(text)
        as_written = plain or bool(os.lstat(folder / text))
    except (OSError, ValueError):
        as_written = False
    placed = str(folder / (text if as_written else os.path.expanduser(os.path.expandvars(text))))
    if unset := [] if as_written else unset_variables(text):
        message = f"{text!r}: the environment variable {unset[0]} is not set; set it, or write the path out"
        raise SettingError(message, *key)
    if not as_written and _URL.match(text):
        raise SettingError(f"{text!r} is an address; files are read from folders: fetch it, and name the folder", *key)
    return placed

"""Settings of image sets: one class per ``kind``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Templates = Annotated[list[str], Field(min_length=1)] | Literal["literature", "imagenet_7", "imagenet_80"]
"""``literature``: the template that publications use for this set; ``imagenet_7`` and ``imagenet_80``: OpenAI's prompt
ensembles, whose normalised embeddings are averaged. A list of several is an ensemble of them."""


def _usable(path: Path | str) -> Path | str:
    """Return a path that a file system can hold.

    Raises:
        ValueError: no file system holds the path.
    """
    if "\0" in str(path):
        raise ValueError("is no path: it holds a NUL character")
    longest = max(len(os.fsencode(part)) for part in str(path).split("/"))
    if longest > 255:
        raise ValueError(f"is no path: a name of {longest} bytes in it; file systems take 255")
    if (whole := len(os.fsencode(path))) > 4095:
        raise ValueError(f"is no path: it has {whole} bytes; file systems take 4095")
    return path


FilePath = Annotated[Path, AfterValidator(_usable)]
Pattern = Annotated[str, AfterValidator(_usable)]
ClassNames = FilePath | list[str] | dict[str, str]


class SettingError(ValueError):
    """Several settings contradict each other.

    ``path`` leads from the model that was checked to the setting that the message is about; empty: to the model.
    """

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


class Settings(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WorldSet(Settings):
    """The generated demo world, in which every image is a function of (seed, split, index)."""

    kind: Literal["world"]
    """Images that are generated: a small picture of one of 20 things."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the images; another seed gives other images of the same classes."""
    train: Annotated[int, Field(ge=1)] = 1536
    """Number of training images."""
    validation: Annotated[int, Field(ge=1)] = 1000
    """Number of validation images."""
    test: Annotated[int, Field(ge=1)] = 2000
    """Number of test images."""
    templates: Annotated[list[str], Field(min_length=1)] = ["a photo of a {}"]
    """Prompts; ``{}`` is the class. A list of several is an ensemble, whose normalised embeddings are averaged."""

    def has(self, split: Split) -> bool:
        return True

    def count(self, split: Split) -> int:
        """Return the number of images of a split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


class HeldBack(Settings):
    """Images of another split that are taken out of the training images of each class, drawn with ``seed``.

    Where both test and validation are held back, test is taken first and validation out of what it leaves.
    """

    from_: Annotated[Literal["train"], Field(alias="from")]
    """The split that images are taken from."""
    per_class: Annotated[int, Field(ge=1)] | None = None
    """Images of each class that are held back; this or ``share``."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the images of each class that is held back, between 0 and 1; this or ``per_class``."""
    seed: int = 0
    """Seed of the draw; keep it, so that the same images stay held back."""

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.per_class is None) == (self.share is None):
            raise ValueError(
                "say either `per_class` (images of each class) or `share` (of each class, for instance 0.2)"
            )
        return self


_Paths = str | list[str]


def _path_list(value: Any) -> Any:
    """Return a single path as a list of it, anything else as it is."""
    return [value] if isinstance(value, str | Path) else value


class _FileSet(Settings):
    """A set that is read from files."""

    max_broken_share: Share = 0.05
    """Images that cannot be decoded are named and left out; more than this share of a split (0 to 1) stops the
    sweep."""


class _WrittenWordsSet(_FileSet):
    """Photographs of words that were really written: for testing only."""

    def has(self, split: Split) -> bool:
        return split == "test"


class ImageFolderSet(_FileSet):
    """``<folder>/<class>/<image>``; several folders of a split are read as one."""

    kind: Literal["image_folder"]
    """A folder per class."""
    train: list[FilePath] | None = None
    """Folder of the training images, or a list of folders that are read as one."""
    validation: list[FilePath] | HeldBack | None = None
    """Folder or folders of the validation images, or images held back from train."""
    test: list[FilePath] | HeldBack | None = None
    """Folder or folders of the test images, or images held back from train."""
    class_names: ClassNames | Literal["imagenet"] | None = None
    """Words for the prompts: a mapping from folder name to words (inline or a JSON file), or a list in the sorted
    order of the folder names; ``imagenet`` where folders are WordNet ids (n02084071); without it the folder names
    themselves, ``_`` read as space. A file from WordNet ids to synonyms ("robin, American robin") gives the
    first."""
    classes: FilePath | Annotated[list[str], Field(min_length=2)] | None = None
    """Only these class folders (a list, or a text file with a name per line): ImageNet-100 over ImageNet's
    folders."""
    templates: Templates = ["a photo of a {}."]
    """Prompts; ``{}`` is the class. A list of several is an ensemble; ``literature``, ``imagenet_7`` and
    ``imagenet_80`` are known ones."""

    _one_path = field_validator("train", mode="before", json_schema_input_type=_Paths | None)(_path_list)
    _one_path_or_held_back = field_validator(
        "validation", "test", mode="before", json_schema_input_type=_Paths | HeldBack | None
    )(_path_list)

    @model_validator(mode="after")
    def _some_split(self) -> Self:
        if self.train is None and self.validation is None and self.test is None:
            raise ValueError("an image_folder set needs at least one of train, validation, test")
        for split in ("validation", "test"):
            if isinstance({"validation": self.validation, "test": self.test}[split], HeldBack) and self.train is None:
                raise SettingError(f"{split} {{from: train}} needs `train`", split)
        return self

    def has(self, split: Split) -> bool:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split] is not None

    def folders(self, split: Split) -> list[Path]:
        """Return the folders of a split; none where the set lacks it or holds it back from train."""
        folders = {"train": self.train, "validation": self.validation, "test": self.test}[split]
        return folders if isinstance(folders, list) else []


TorchvisionName = Literal[
    "caltech101",
    "oxford_iiit_pet",
    "stanford_cars",
    "flowers102",
    "fgvc_aircraft",
    "dtd",
    "sun397",
    "eurosat",
    "food101",
    "imagenet",
]
OWN_VALIDATION: tuple[TorchvisionName, ...] = ("flowers102", "fgvc_aircraft", "dtd")
"""Sets that publish a validation split."""
NO_SPLITS: tuple[TorchvisionName, ...] = ("caltech101", "sun397", "eurosat")
"""Sets that torchvision does not split: 50 % train, 20 % validation, 30 % test of each class, drawn with seed 0."""


class TorchvisionSet(_FileSet):
    """One of torchvision's sets, as torchvision's own download leaves it under ``root``; official splits.

    ImageNet is ``root/train`` and ``root/val`` with a folder per WordNet id; val is the test split. Caltech101 has 100
    classes: without BACKGROUND_Google and without Faces_easy, which shows the photographs of Faces again.
    """

    kind: Literal["torchvision"]
    """One of torchvision's data sets."""
    dataset: TorchvisionName
    """Which data set."""
    root: FilePath
    """Folder into which torchvision downloaded it. Nothing is downloaded by sweeper."""
    validation: HeldBack | None = None
    """Images held back from train. Sets without a validation split need it wherever validation is asked for; where
    there is one, published or drawn, its images join train before some are held back."""
    class_names: ClassNames | None = None
    """Words for the prompts, instead of the shipped human names: a list, a mapping, or a file with either."""
    classes: FilePath | Annotated[list[str], Field(min_length=2)] | None = None
    """Only these classes, by the set's own ids (a list, or a text file with an id per line): ImageNet-100 over
    ImageNet."""
    templates: Templates = "literature"
    """Prompts; ``{}`` is the class. ``literature``: the template that publications use for this set."""

    def has(self, split: Split) -> bool:
        return split != "validation" or self.validation is not None or self.dataset in OWN_VALIDATION + NO_SPLITS


class WebDatasetSet(_FileSet):
    """Tar shards whose members share a key: an image (jpg, png, webp) and its class as ``cls`` (index) or ``txt``."""

    kind: Literal["webdataset"]
    """Tar shards."""
    train: list[Pattern] | None = None
    """Paths of the training shards; ``{000..127}`` and ``*`` are expanded."""
    validation: list[Pattern] | HeldBack | None = None
    """Paths of the validation shards, or images held back from train."""
    test: list[Pattern] | None = None
    """Paths of the test shards."""
    class_names: FilePath | list[str] | None = None
    """Words for the prompts, in the order of ``cls`` indices (a list, a text file with a name per line, or a JSON
    list); not needed with ``txt``."""
    attribute_key: str | None = None
    """Member that has the value of an attribute, for instance ``gender.txt`` of ``000.jpg`` and ``000.gender.txt``.
    For the task ``attribute``."""
    values: dict[str, str] | None = None
    """Words for the attribute's values; images with other values are left out and named."""
    templates: Templates = ["a photo of a {}."]
    """Prompts; ``{}`` is the class. A list of several is an ensemble."""

    _one_path = field_validator("train", "test", mode="before", json_schema_input_type=_Paths | None)(_path_list)
    _one_path_or_held_back = field_validator(
        "validation", mode="before", json_schema_input_type=_Paths | HeldBack | None
    )(_path_list)

    @model_validator(mode="after")
    def _some_split(self) -> Self:
        if self.train is None and self.validation is None and self.test is None:
            raise ValueError("a webdataset set needs at least one of train, validation, test")
        if isinstance(self.validation, HeldBack) and self.train is None:
            raise SettingError("validation {from: train} needs `train`", "validation")
        return self

    def has(self, split: Split) -> bool:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split] is not None

    def shards(self, split: Split) -> list[str]:
        """Return the patterns of shards of a split; none where the set lacks it or holds it back from train."""
        patterns = {"train": self.train, "validation": self.validation, "test": self.test}[split]
        return patterns if isinstance(patterns, list) else []


class WrittenLabelSet(_WrittenWordsSet):
    """Real photographs with words on them, ``label=<true>_text=<written>.jpg`` in one folder: RTA-100 and PAINT."""

    kind: Literal["rta100", "paint"]
    """RTA-100 or PAINT's photographs."""
    path: FilePath
    """Folder of the photographs."""
    templates: Templates = "literature"
    """Prompts; ``{}`` is the class."""


class DisentanglingSet(_WrittenWordsSet):
    """Materzynska et al. 2022: photographs beside ``annotations.json`` (and ``classes.json``)."""

    kind: Literal["disentangling"]
    """The photographs of Materzynska et al."""
    path: FilePath
    """Folder of the photographs."""
    templates: Templates = "literature"
    """Prompts; ``{}`` is the class."""


class ScamSet(_WrittenWordsSet):
    """SCAM (arXiv 2504.04893) as its image folder: images beside ``metadata.jsonl``; each scene without a word, with
    a handwritten one and with a synthetic one."""

    kind: Literal["scam"]
    """The photographs of SCAM."""
    path: FilePath
    """Folder of the photographs."""
    attack: Literal["SCAM", "SynthSCAM"] = "SCAM"
    """Handwritten (``SCAM``) or synthetic words (``SynthSCAM``); the clean images are NoSCAM either way."""
    templates: Templates = "literature"
    """Prompts; ``{}`` is the class."""


TypographicSet = WrittenLabelSet | DisentanglingSet | ScamSet
"""Sets of photographs on which words were really written. No attack is pasted on them; they are for testing only."""


class _AttributeSet(_FileSet):
    """Images with a content (what they show) and a value of an attribute."""

    contents: dict[str, str] | None = None
    """Words for the prompts by content as the files have it; only these contents. Without it the contents
    themselves, ``_`` read as space."""
    values: dict[str, str] | None = None
    """Words for the attribute's values as the files have them. Images with other values are left out and named."""
    templates: Templates = ["a photo of a {}."]
    """Neutral prompts: of the content alone, which is ``{}``."""


class AttributeFolderSet(_AttributeSet):
    """``<folder>/<content>/<value>/<image>``; several folders of a split are read as one."""

    kind: Literal["attribute_folder"]
    """A folder per content, with a folder per value of the attribute in it."""
    train: list[FilePath] | None = None
    """Folder of the training images, or a list of folders that are read as one."""
    validation: list[FilePath] | HeldBack | None = None
    """Folder or folders of the validation images, or images held back from train."""
    test: list[FilePath] | None = None
    """Folder or folders of the test images."""

    _one_path = field_validator("train", "test", mode="before", json_schema_input_type=_Paths | None)(_path_list)
    _one_path_or_held_back = field_validator(
        "validation", mode="before", json_schema_input_type=_Paths | HeldBack | None
    )(_path_list)

    @model_validator(mode="after")
    def _held_back_of_something(self) -> Self:
        if isinstance(self.validation, HeldBack) and self.train is None:
            raise SettingError("validation {from: train} needs `train`", "validation")
        return self

    def has(self, split: Split) -> bool:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split] is not None


class AttributeTableSet(_AttributeSet):
    """A CSV or TSV file per split, with columns for image, content and attribute: FairFace as it is published, and any
    table of one's own."""

    kind: Literal["attribute_table"]
    """A table with a row per image."""
    train: FilePath | None = None
    """Table of the training images."""
    validation: FilePath | HeldBack | None = None
    """Table of the validation images, or images held back from train."""
    test: FilePath | None = None
    """Table of the test images."""
    images: FilePath | None = None
    """The folder that the image column counts from; the table's own when left out."""
    image: str = "file"
    """Column with the image's path."""
    content: str
    """Column with what the image shows."""
    attribute: str
    """Column with the attribute's value."""

    @model_validator(mode="after")
    def _held_back_of_something(self) -> Self:
        if isinstance(self.validation, HeldBack) and self.train is None:
            raise SettingError("validation {from: train} needs `train`", "validation")
        if self.content == self.attribute:
            raise SettingError("content and attribute must be different columns", "content")
        return self

    def has(self, split: Split) -> bool:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split] is not None


FacePart = Literal["gender", "race", "age"]


class UtkFaceSet(_AttributeSet):
    """UTKFace: a folder of ``<age>_<gender>_<race>_<date>.jpg``, split here: 50 % train, 20 % validation, 30 % test of
    each group. Names with missing fields are left out and named."""

    kind: Literal["utkface"]
    """The photographs of UTKFace."""
    path: FilePath
    """Folder of the photographs."""
    content: FacePart = "race"
    """Part of the file name that is the content. ``age``: in the decades of FairFace, for instance ``20-29``."""
    attribute: FacePart = "gender"
    """Part of the file name that is the attribute."""

    @model_validator(mode="after")
    def _two_parts(self) -> Self:
        if self.content == self.attribute:
            raise SettingError("content and attribute must be different parts of the name", "content")
        return self

    def has(self, split: Split) -> bool:
        return True


class CelebASet(_AttributeSet):
    """CelebA: ``Anno/list_attr_celeba.txt`` beside ``Img/img_align_celeba``; splits by ``Eval/list_eval_partition.txt``
    where it is there, else drawn here as for ``utkface``. Values are ``1`` and ``-1``."""

    kind: Literal["celeba"]
    """The photographs of CelebA."""
    path: FilePath
    """Folder that holds ``Anno`` and ``Img``."""
    content: str
    """A column of the list that is the content, for instance ``Blond_Hair``."""
    attribute: str = "Male"
    """A column of the list that is the attribute."""

    @model_validator(mode="after")
    def _two_columns(self) -> Self:
        if self.content == self.attribute:
            raise SettingError("content and attribute must be different columns", "content")
        return self

    def has(self, split: Split) -> bool:
        return True


AttributeSet = AttributeFolderSet | AttributeTableSet | UtkFaceSet | CelebASet
"""Sets that tell an attribute of every image."""

ImageSetSettings = Annotated[
    WorldSet | ImageFolderSet | TorchvisionSet | WebDatasetSet | AttributeSet | TypographicSet,
    Field(discriminator="kind"),
]

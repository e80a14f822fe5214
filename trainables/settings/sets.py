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
    """Return a path that a file system can hold. Raise ValueError for any other."""
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
    seed: Annotated[int, Field(ge=0)] = 0
    train: Annotated[int, Field(ge=1)] = 1536
    validation: Annotated[int, Field(ge=1)] = 1000
    test: Annotated[int, Field(ge=1)] = 2000
    templates: Annotated[list[str], Field(min_length=1)] = ["a photo of a {}"]

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
    per_class: Annotated[int, Field(ge=1)] | None = None
    share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.per_class is None) == (self.share is None):
            raise ValueError(
                "say either `per_class` (images of each class) or `share` (of each class, for instance 0.2)"
            )
        return self


class _FileSet(Settings):
    """A set that is read from files."""

    max_broken_share: Share = 0.05
    """Images that cannot be decoded are named and left out; more than this share of a split stops the sweep."""


class _WrittenWordsSet(_FileSet):
    """Photographs of words that were really written: for testing only."""

    def has(self, split: Split) -> bool:
        return split == "test"


class ImageFolderSet(_FileSet):
    """``<folder>/<class>/<image>``; several folders of a split are read as one."""

    kind: Literal["image_folder"]
    train: list[FilePath] | None = None
    validation: list[FilePath] | HeldBack | None = None
    test: list[FilePath] | HeldBack | None = None
    class_names: ClassNames | Literal["imagenet"] | None = None
    """Words for the prompts: a mapping from folder name to words (inline or a JSON file), or a list in the sorted
    order of the folder names; ``imagenet`` where folders are WordNet ids (n02084071); without it the folder names
    themselves, ``_`` read as space. A file from WordNet ids to synonyms ("robin, American robin") gives the first."""
    classes: FilePath | Annotated[list[str], Field(min_length=2)] | None = None
    """Only these class folders (a list, or a text file with a name per line): ImageNet-100 over ImageNet's folders."""
    templates: Templates = ["a photo of a {}."]

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value

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
    dataset: TorchvisionName
    root: FilePath
    validation: HeldBack | None = None
    """Sets without a validation split need it wherever validation is asked for; where there is one, published or
    drawn, its images join train before some are held back."""
    class_names: ClassNames | None = None
    """Instead of the shipped human names."""
    classes: FilePath | Annotated[list[str], Field(min_length=2)] | None = None
    """Only these classes, by the set's own ids (a list, or a text file with an id per line): ImageNet-100 over
    ImageNet."""
    templates: Templates = "literature"

    def has(self, split: Split) -> bool:
        return split != "validation" or self.validation is not None or self.dataset in OWN_VALIDATION + NO_SPLITS


class WebDatasetSet(_FileSet):
    """Tar shards whose members share a key: an image (jpg, png, webp) and its class as ``cls`` (index) or ``txt``."""

    kind: Literal["webdataset"]
    train: list[Pattern] | None = None
    """Paths of shards; ``{000..127}`` and ``*`` are expanded."""
    validation: list[Pattern] | HeldBack | None = None
    test: list[Pattern] | None = None
    class_names: FilePath | list[str] | None = None
    """In the order of ``cls`` indices (a list, a text file with a name per line, or a JSON list); not needed with
    ``txt``."""
    attribute_key: str | None = None
    """Member that has the value of an attribute, for instance ``gender.txt`` of ``000.jpg`` and ``000.gender.txt``."""
    values: dict[str, str] | None = None
    """Words for the attribute's values; images with other values are left out and named."""
    templates: Templates = ["a photo of a {}."]

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

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
    path: FilePath
    templates: Templates = "literature"


class DisentanglingSet(_WrittenWordsSet):
    """Materzynska et al. 2022: photographs beside ``annotations.json`` (and ``classes.json``)."""

    kind: Literal["disentangling"]
    path: FilePath
    templates: Templates = "literature"


class ScamSet(_WrittenWordsSet):
    """SCAM (arXiv 2504.04893) as its image folder: images beside ``metadata.jsonl``; each scene without a word, with
    a handwritten one and with a synthetic one."""

    kind: Literal["scam"]
    path: FilePath
    attack: Literal["SCAM", "SynthSCAM"] = "SCAM"
    """Handwritten or synthetic words; the clean images are NoSCAM either way."""
    templates: Templates = "literature"


TypographicSet = WrittenLabelSet | DisentanglingSet | ScamSet
"""Sets of photographs on which words were really written. No attack is pasted on them; they are for testing only."""


class _AttributeSet(_FileSet):
    """Images with a content (what they show) and a value of an attribute."""

    contents: dict[str, str] | None = None
    """Words for the prompts by content as the files have it; only these contents. Without it the contents themselves,
    ``_`` read as space."""
    values: dict[str, str] | None = None
    """The same for the attribute's values. Images with other values are left out and named."""
    templates: Templates = ["a photo of a {}."]
    """Neutral prompts: of the content alone."""


class AttributeFolderSet(_AttributeSet):
    """``<folder>/<content>/<value>/<image>``; several folders of a split are read as one."""

    kind: Literal["attribute_folder"]
    train: list[FilePath] | None = None
    validation: list[FilePath] | HeldBack | None = None
    test: list[FilePath] | None = None

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value

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
    train: FilePath | None = None
    validation: FilePath | HeldBack | None = None
    test: FilePath | None = None
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
    path: FilePath
    content: FacePart = "race"
    """``age``: in the decades of FairFace, for instance ``20-29``."""
    attribute: FacePart = "gender"

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
    path: FilePath
    content: str
    """A column of the list, for instance ``Blond_Hair``."""
    attribute: str = "Male"

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

"""The reader of each kind of image set.

Imports neither torch nor torchvision: it checks specs before heavy packages are loaded.
"""

from __future__ import annotations

from trainables.data.listing import Listing
from trainables.data.readers.attributes import AttributeReader
from trainables.data.readers.class_names import SetError
from trainables.data.readers.image_folder import ImageFolderReader
from trainables.data.readers.reader import Reader
from trainables.data.readers.torchvision import TorchvisionReader
from trainables.data.readers.typographic import DisentanglingReader, ScamReader, WrittenLabelReader
from trainables.data.readers.webdataset import WebDatasetReader
from trainables.data.readers.world import WorldReader
from trainables.settings.sets import (
    AttributeFolderSet,
    AttributeTableSet,
    CelebASet,
    DisentanglingSet,
    ImageFolderSet,
    ImageSetSettings,
    ScamSet,
    Split,
    TorchvisionSet,
    UtkFaceSet,
    WebDatasetSet,
    WorldSet,
    WrittenLabelSet,
)


def reader_of(settings: ImageSetSettings) -> Reader:
    match settings:
        case WorldSet():
            return WorldReader(settings)
        case ImageFolderSet():
            return ImageFolderReader(settings)
        case TorchvisionSet():
            return TorchvisionReader(settings)
        case WebDatasetSet():
            return WebDatasetReader(settings)
        case AttributeFolderSet() | AttributeTableSet() | UtkFaceSet() | CelebASet():
            return AttributeReader(settings)
        case WrittenLabelSet():
            return WrittenLabelReader(settings)
        case DisentanglingSet():
            return DisentanglingReader(settings)
        case ScamSet():
            return ScamReader(settings)


def list_images(name: str, settings: ImageSetSettings, split: Split) -> Listing:
    """Return ``Reader.list_images`` of the set ``name``.

    Raises:
        ValueError: the set cannot be read; the message names it.
    """
    try:
        return reader_of(settings).list_images(split)
    except SetError as error:
        raise ValueError(f"set {name!r}: {error}") from error


def list_clean(name: str, settings: ImageSetSettings) -> Listing | None:
    """Return ``Reader.list_clean`` of the set ``name``.

    Raises:
        ValueError: the set cannot be read; the message names it.
    """
    try:
        return reader_of(settings).list_clean()
    except SetError as error:
        raise ValueError(f"set {name!r}: {error}") from error

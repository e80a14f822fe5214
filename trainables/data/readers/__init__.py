"""Every kind of image set: which images a split holds, their classes, the words for them. Decodes nothing.

Imports neither torch nor torchvision: a spec is checked with it before anything heavy is loaded.
"""

from __future__ import annotations

from trainables.data.listing import Listing
from trainables.data.readers import image_folder as folder
from trainables.data.readers import torchvision as torchvision_sets
from trainables.data.readers import typographic as written
from trainables.data.readers import webdataset as shards
from trainables.data.readers.class_names import SetError
from trainables.settings.sets import (
    DisentanglingSet,
    ImageFolderSet,
    ImageSetSettings,
    ScamSet,
    Split,
    TorchvisionSet,
    WebDatasetSet,
    WorldSet,
    WrittenLabelSet,
)


def list_images(name: str, settings: ImageSetSettings, split: Split) -> Listing:
    """The images of a split in a stable order.

    Raises ValueError where they cannot be had: missing files, unknown classes, words that do not fit.
    """
    assert not isinstance(settings, WorldSet), "the world is drawn, not read"
    try:
        if isinstance(settings, ImageFolderSet):
            return folder.list_images(settings, split)
        if isinstance(settings, TorchvisionSet):
            return torchvision_sets.list_images(settings, split)
        if isinstance(settings, WebDatasetSet):
            return shards.list_images(settings, split)
        assert split == "test", "settings check that a named split exists"
        if isinstance(settings, WrittenLabelSet):
            return written.list_labelled(settings)
        if isinstance(settings, DisentanglingSet):
            return written.list_disentangling(settings)
        return written.list_scam(settings)
    except SetError as error:
        raise ValueError(f"set {name!r}: {error}") from error


def list_clean(name: str, settings: ScamSet) -> Listing | None:
    """The scenes of ``list_images`` without a word, in the same order with the same keys, labels and ``written``; None
    where the folder does not hold them. Raises ValueError."""
    try:
        return written.list_scam_clean(settings)
    except SetError as error:
        raise ValueError(f"set {name!r}: {error}") from error


def known_class_names(settings: ImageSetSettings) -> tuple[str, ...] | None:
    """The words for the classes in the order of the labels; None where only reading all shards would tell.

    Raises SetError.
    """
    if isinstance(settings, WorldSet):
        from trainables.world.icons import CLASSES

        return tuple(CLASSES)
    if isinstance(settings, ImageFolderSet):
        return folder.class_names(settings)[1]
    if isinstance(settings, TorchvisionSet):
        return torchvision_sets.class_names(settings)[1]
    if isinstance(settings, WebDatasetSet):
        return shards.given_names(settings)
    if isinstance(settings, WrittenLabelSet):
        return written.list_labelled(settings).class_names
    if isinstance(settings, DisentanglingSet):
        return written.list_disentangling(settings).class_names
    return written.list_scam(settings).class_names

"""Image folders, ``<folder>/<class>/<image>``."""

from __future__ import annotations

from pathlib import Path

from trainables.data.listing import Listing
from trainables.data.readers.class_names import SetError, chosen, words_for
from trainables.data.readers.samples import Sample, class_folders, hold_back, images_in, listing_of
from trainables.data.readers.templates import templates_of
from trainables.settings.sets import HeldBack, ImageFolderSet, Split


def class_names(settings: ImageFolderSet) -> tuple[list[str], tuple[str, ...]]:
    """Class folders of all splits, sorted, and the words for them. Raises SetError."""
    found: set[str] = set()
    for split in ("train", "validation", "test"):
        roots = getattr(settings, split)
        for index, root in enumerate(roots if isinstance(roots, list) else []):
            found.update(_classes_in(root, split, index))
    folders = chosen(sorted(found), settings.classes)
    if len(folders) < 2:
        raise SetError(f"only one class folder ({', '.join(folders)}); two classes or more are needed")
    own = {folder: folder.replace("_", " ") for folder in folders}
    return folders, words_for(folders, settings.class_names, own)


def list_images(settings: ImageFolderSet, split: Split) -> Listing:
    """Several folders of a split are read as one. Raises SetError."""
    folders, names = class_names(settings)
    held_back = settings.validation if isinstance(settings.validation, HeldBack) else None
    if held_back is not None and split != "test":
        samples = hold_back(_samples(settings.train, folders, "train"), held_back, split)
    else:
        roots = getattr(settings, split)
        samples = _samples(roots, folders, split)
    return listing_of(samples, folders, names, templates_of(settings.templates))


def _samples(roots: list[Path] | None, folders: list[str], split: Split) -> list[Sample]:
    assert roots is not None, "settings check that a named split exists"
    wanted = set(folders)
    found = [
        sample
        for index, root in enumerate(roots)
        for folder in _classes_in(root, split, index)
        if folder in wanted
        for sample in images_in(root / folder, folder)
    ]
    if not found:
        raise SetError(f"no images in {', '.join(map(str, roots))} (looked for <folder>/<class>/<image>)", split)
    return found


def _classes_in(root: Path, split: str, index: int) -> list[str]:
    try:
        folders = class_folders(root)
    except FileNotFoundError:
        raise SetError(f"the folder {root} does not exist", split, index) from None
    except OSError as error:
        raise SetError(f"{root}: {error.strerror}", split, index) from error
    if not folders:
        message = f"{root} has no class folders; images are expected as <folder>/<class>/<image>"
        raise SetError(message, split, index)
    return folders

"""Image folders, ``<folder>/<class>/<image>``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.data.listing import Listing
from trainables.data.readers.class_names import SetError, chosen, words_for
from trainables.data.readers.reader import Reader
from trainables.data.readers.samples import Sample, class_folders, held_out, images_in, listing_of
from trainables.data.readers.templates import templates_of
from trainables.settings.sets import SPLITS, HeldBack, ImageFolderSet, Split


@dataclass(frozen=True)
class ImageFolderReader(Reader):
    """Several folders of a split are read as one."""

    settings: ImageFolderSet

    def class_names(self) -> tuple[str, ...]:
        return self._classes()[1]

    def list_images(self, split: Split) -> Listing:
        settings = self.settings
        folders, names = self._classes()
        samples = self._split(folders, split)
        return listing_of(samples, folders, names, templates_of(settings.templates), settings.max_broken_share)

    def _split(self, folders: list[str], split: Split) -> list[Sample]:
        if split != "train" and self.settings.folders(split):
            return self._samples(folders, split)
        rest = self._samples(folders, "train")
        parts: tuple[Literal["test", "validation"], ...] = ("test", "validation")
        for part in parts:
            settings = self.settings.test if part == "test" else self.settings.validation
            if isinstance(settings, HeldBack):
                rest, taken = held_out(rest, settings, part)
                if split == part:
                    return taken
        return rest

    def _classes(self) -> tuple[list[str], tuple[str, ...]]:
        """Return the class folders of all splits, sorted, and the words for them. Raises SetError."""
        all_folders = {
            folder
            for split in SPLITS
            for index, root in enumerate(self.settings.folders(split))
            for folder in _classes_in(root, split, index)
        }
        folders = chosen(sorted(all_folders), self.settings.classes)
        if len(folders) < 2:
            raise SetError(f"only one class folder ({', '.join(folders)}); two classes or more are needed")
        own = {folder: folder.replace("_", " ") for folder in folders}
        return folders, words_for(folders, self.settings.class_names, own)

    def _samples(self, folders: list[str], split: Split) -> list[Sample]:
        roots, wanted = self.settings.folders(split), set(folders)
        samples = [
            sample
            for index, root in enumerate(roots)
            for folder in _classes_in(root, split, index)
            if folder in wanted
            for sample in images_in(root / folder, folder)
        ]
        if not samples:
            raise SetError(f"no images in {', '.join(map(str, roots))} (looked for <folder>/<class>/<image>)", split)
        return samples


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

"""Image folders, ``<folder>/<class>/<image>``."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.data.listing import Listing
from trainables.data.readers.class_names import (
    Named,
    SetError,
    Spellings,
    chosen,
    one_spelling,
    os_problem,
    told_apart,
    without_copy_mark,
    words_for,
)
from trainables.data.readers.not_read import not_read
from trainables.data.readers.reader import Reader
from trainables.data.readers.samples import Sample, class_folders, held_out, images_in, listing_of
from trainables.data.readers.templates import templates_of
from trainables.settings.sets import SPLITS, HeldBack, ImageFolderSet, Split
from trainables.spelling import same_word


@dataclass(frozen=True)
class ImageFolderReader(Reader):
    """Reader of image folders.

    Several folders of a split are read as one set. Class folders of different splits or folders whose names CLIP's
    tokenizer cannot distinguish are one class. Images in folders below a class folder are not read: if a path named the
    folder above the intended one, its splits would become classes without a message.
    """

    settings: ImageFolderSet

    def class_names(self) -> tuple[str, ...]:
        return self._classes()[1]

    def folders(self) -> set[str]:
        """Return the names of the class folders that are read, in all their spellings.

        Raises:
            SetError: a folder cannot be read.
        """
        used = self._spellings().used
        wanted = set(chosen(sorted(set(used.values())), self.settings.classes))
        return {folder for folder, of_class in used.items() if of_class in wanted}

    def notes(self) -> list[str]:
        wanted = self.folders()
        plain = {name: without_copy_mark(name) for name in sorted(wanted)}
        marked = [
            f"the class folder {name!r} is a class of its own beside {of!r}; is it a copy?"
            for name, of in plain.items()
            if of != name and same_word(of, wanted) is not None
        ]
        marked += [
            f"the class folders {a!r} and {b!r} of {root} hold the same images; is one a copy?"
            for root in self.settings.folders("train") or self.settings.folders("test")
            for a, b in _copies(root, wanted)
        ]
        roots = [(split, root) for split in SPLITS for root in self.settings.folders(split)]
        lines = [f"{split}: {line}" for split, root in roots for line in not_read(root, 1, wanted)]
        return self._spellings().notes + marked + lines

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
        """Return the classes (sorted class folders of all splits) and their words.

        Raises:
            SetError: a folder cannot be read, or the words do not fit.
        """
        folders = chosen(sorted(set(self._spellings().used.values())), self.settings.classes)
        if len(folders) < 2:
            raise SetError(f"only one class folder ({', '.join(folders)}); two classes or more are needed")
        own = {folder: folder.replace("_", " ") for folder in folders}
        return folders, words_for(folders, self.settings.class_names, own)

    def _spellings(self) -> Spellings:
        """Return the class folders of all splits, and the classes that they belong to.

        Raises:
            SetError: a folder cannot be read, or two names in one folder are the same to the tokenizer.
        """
        found = [
            Named(folder, str(root), (split, index))
            for split in SPLITS
            for index, root in enumerate(self.settings.folders(split))
            for folder in _classes_in(root, split, index)
        ]
        apart = told_apart(self.settings.class_names, [named.name for named in found])
        return one_spelling(found, apart, "rename or merge one, or give both words of their own in class_names")

    def _samples(self, folders: list[str], split: Split) -> list[Sample]:
        roots, wanted, used = self.settings.folders(split), set(folders), self._spellings().used
        samples = [
            sample
            for index, root in enumerate(roots)
            for folder in _classes_in(root, split, index)
            if used[folder] in wanted
            for sample in images_in(root / folder, used[folder])
        ]
        if not samples:
            raise SetError(f"no images in {', '.join(map(str, roots))} (looked for <folder>/<class>/<image>)", split)
        return samples


def _copies(root: Path, wanted: set[str]) -> list[tuple[str, str]]:
    """Return pairs of class folders with the same images under the same names; the first with each of its copies."""
    named: dict[tuple[str, ...], list[str]] = {}
    for folder in sorted(wanted & set(class_folders(root))):
        names = tuple(os.path.basename(sample.file) for sample in images_in(root / folder, folder))
        if names:
            named.setdefault(names, []).append(folder)
    pairs = []
    for names, folders in named.items():
        first: list[str] = []
        for folder in folders:
            same = next((other for other in first if _same_files(root / other, root / folder, names)), None)
            if same is None:
                first.append(folder)
            else:
                pairs.append((same, folder))
    return pairs


def _same_files(a: Path, b: Path, names: Sequence[str]) -> bool:
    """Return whether two folders have files of the same sizes, and the first three have the same content."""
    try:
        sizes = (os.path.getsize(a / name) == os.path.getsize(b / name) for name in names)
        return all(sizes) and all(filecmp.cmp(a / name, b / name, shallow=False) for name in names[:3])
    except OSError:  # reported elsewhere
        return False


def _classes_in(root: Path, split: str, index: int) -> list[str]:
    try:
        folders = class_folders(root)
    except FileNotFoundError:
        raise SetError(f"the folder {root} does not exist", split, index) from None
    except OSError as error:
        raise SetError(os_problem(error, root), split, index) from error
    except SetError as error:
        raise SetError(str(error), split, index) from error
    if not folders:
        message = f"{root} has no class folders; images are expected as <folder>/<class>/<image>"
        raise SetError(message, split, index)
    return folders

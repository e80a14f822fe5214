"""Checks of the image sets that a spec names on disk, before heavy packages are imported."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sweeper.errors import UserError
from sweeper.spec.problems import Problem, closest, did_you_mean
from trainables.attack.rendering import writing_problem
from trainables.data.readers.attributes import AttributeReader
from trainables.data.readers.class_names import SetError, listed, os_problem
from trainables.data.readers.image_folder import ImageFolderReader
from trainables.data.readers.kinds import reader_of
from trainables.data.readers.not_read import not_read
from trainables.data.readers.samples import class_folders, is_image
from trainables.data.readers.webdataset import shards_of
from trainables.settings.sets import SPLITS, ImageFolderSet, ImageSetSettings, Split, TypographicSet, WebDatasetSet
from trainables.settings.task import TrainSettings
from trainables.spelling import normal_form, same_word

_CLASS_NAME = "cat"
"""An example of a class name."""


def set_problems(name: str, raw: Any) -> list[Problem]:
    """Return the problems of the files and class names of a set; empty if its mapping itself is wrong."""
    try:
        settings: ImageSetSettings = TypeAdapter(ImageSetSettings).validate_python(raw)
    except ValidationError:
        return []
    path = ("sets", name)
    templates = settings.templates if isinstance(settings.templates, list) else []
    problems = [
        Problem((*path, "templates", index), message)
        for index, template in enumerate(templates)
        if (message := template_problem(template)) is not None
    ]
    missing = list(_missing_files(settings))
    problems += [problem.below(path) for problem in missing]
    if any(problem.path[0] in ("root", "path") for problem in missing):
        return problems
    try:
        if isinstance(settings, ImageFolderSet):
            problems_of_files = [*_folder_problems(settings), *_shared(settings, _resolved_folders(settings))]
        elif isinstance(settings, WebDatasetSet):
            problems_of_files = list(_shard_problems(settings))
        else:
            problems_of_files = list(_listing_problems(settings))
    except OSError as error:
        problems_of_files = [Problem((), os_problem(error, "a file of the set"))]
    return problems + [problem.below(path) for problem in problems_of_files]


def set_notes(sets: Mapping[str, ImageSetSettings]) -> list[str]:
    """Return a line for each part of the sets' files that is not read, or is read under another spelling.

    Raises:
        UserError: a file cannot be read.
    """
    lines = []
    for name, settings in sets.items():
        try:
            lines += [f"set {name}: {note}" for note in reader_of(settings).notes()]
        except SetError as error:
            raise UserError(f"set {name!r}: {error}") from error
    return lines


def word_problems(sets: Mapping[str, ImageSetSettings], names: Iterable[str]) -> list[Problem]:
    """Return a problem for each class name of the sets ``names`` that cannot be written on images.

    The sets have no other problems. Sets on which words are written already are skipped.
    """
    problems = []
    for name in dict.fromkeys(names):
        settings = sets[name]
        words = None if isinstance(settings, TypographicSet) else reader_of(settings).class_names()
        for index, word in enumerate(words or ()):
            if (message := writing_problem(word)) is not None:
                inline = isinstance(settings, ImageFolderSet | WebDatasetSet) and isinstance(settings.class_names, list)
                problems.append(Problem(("sets", name, *(("class_names", index) if inline else ())), message))
                break
    return problems


def template_problem(template: str) -> str | None:
    """Return the problem of a template, which is formatted with a class name; None if it has none."""
    try:
        text = template.format(_CLASS_NAME)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        return (
            f"the template {template!r} has more than one place for the class name, or another bracket; write one {{}} "
            "(and {{ or }} for a bracket itself)"
        )
    return None if _CLASS_NAME in text else f"the template {template!r} has no {{}} for the class name"


def split_notes(name: str, settings: ImageSetSettings) -> list[Problem]:
    """Return the differences between the splits of a set of folders, given a set without problems.

    They may be intended, but a misspelling easily causes them.
    """
    if not isinstance(settings, ImageFolderSet):
        return []
    train = _classes_of(settings, "train")
    notes = []
    for split in SPLITS[1:]:
        measured = _classes_of(settings, split)
        if not train or not measured:
            continue
        counts = f"set {name}: train has {len(train)} classes, {split} {len(measured)}"
        if new := [measured[form] for form in sorted(measured.keys() - train.keys())]:
            message = f"{counts}: not in train {_is_are(new)} {listed(new)}, which no trial is trained on"
            notes.append(Problem(("sets", name, split), message))
        if lacking := [train[form] for form in sorted(train.keys() - measured.keys())]:
            message = (
                f"{counts}: not in {split} {_is_are(lacking)} {listed(lacking)}, which nothing is measured of there"
            )
            notes.append(Problem(("sets", name, split), message))
    return notes


def _is_are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _classes_of(settings: ImageFolderSet, split: Split) -> dict[str, str]:
    """Return the class folders of a split that are read, by their normal form."""
    roots, wanted = getattr(settings, split), ImageFolderReader(settings).folders()
    names = [name for root in (roots if isinstance(roots, list) else []) for name in class_folders(root)]
    return {normal_form(name): name for name in names if name in wanted}


def _missing_files(settings: ImageSetSettings) -> Iterator[Problem]:
    """Yield a problem for each missing folder of a whole set and each missing file of class names."""
    for key in ("root", "path"):
        folder = getattr(settings, key, None)
        if isinstance(folder, Path) and not os.path.exists(folder):
            yield Problem((key,), _missing(folder))
    for key in ("class_names", "classes"):
        file = getattr(settings, key, None)
        if isinstance(file, Path) and not os.path.exists(file):
            yield Problem((key,), f"the file {file} does not exist")


def class_problems(train: TrainSettings, settings: ImageSetSettings) -> list[Problem]:
    """Return the problems of ``train.classes``, given a set without problems of its own."""
    names = reader_of(settings).class_names()
    if names is None:
        return []
    path = ("train", "classes")
    if isinstance(train.classes, list):
        problems = [
            Problem((*path, index), f"`train.classes`: no class {name!r}" + did_you_mean(name, names))
            for index, name in enumerate(train.classes)
            if same_word(name, names) is None
        ]
        if not problems and len({same_word(name, names) for name in train.classes}) < 2:
            problems.append(Problem(path, "`train.classes`: at least two different classes are needed"))
        return problems
    count = len(names) if train.classes == "all" else math.ceil(len(names) * train.classes)
    if count < 2:
        message = f"`train.classes`: {train.classes} of {len(names)} classes makes {count}; two or more are needed"
        return [Problem(path, message)]
    return []


def _listing_problems(settings: ImageSetSettings) -> Iterator[Problem]:
    """Yield the problems of the class names of a set and of the files that list its images, relative to the set."""
    reader = reader_of(settings)
    try:
        reader.class_names()
        if isinstance(reader, AttributeReader):
            reader.value_names()
    except SetError as error:
        yield Problem(error.where, str(error))


def _shard_problems(settings: WebDatasetSet) -> Iterator[Problem]:
    files: dict[Split, list[list[Path]]] = {}
    for split in SPLITS:
        patterns = getattr(settings, split)
        if not isinstance(patterns, list):
            continue
        files[split] = []
        for index, pattern in enumerate(patterns):
            try:
                files[split].append([Path(os.path.realpath(file)) for file in shards_of([pattern], split)])
            except SetError as error:
                yield Problem((split, index), str(error))
                files[split].append([])
    yield from _shared(settings, files)
    yield from _listing_problems(settings)


def _resolved_folders(settings: ImageFolderSet) -> dict[Split, list[list[Path]]]:
    """Return the class folders in each folder of a split, links resolved: two trees may link to the same folder."""
    folders: dict[Split, list[list[Path]]] = {}
    for split in SPLITS:
        roots = getattr(settings, split)
        if isinstance(roots, list):
            folders[split] = [
                [Path(os.path.realpath(root / name)) for name in _readable_folders(root)] for root in roots
            ]
    return folders


def _readable_folders(root: Path) -> list[str]:
    try:
        return class_folders(root)
    except (OSError, SetError):
        return []  # reported by _folder_problems


def _shared(settings: ImageFolderSet | WebDatasetSet, files: dict[Split, list[list[Path]]]) -> Iterator[Problem]:
    """Yield a problem for images that two splits have in common, or that a split names twice.

    Args:
        files: by split, the shards or class folders of each of its entries.
    """
    owner: dict[Path, Split] = {}
    for split, groups in files.items():
        for index, group in enumerate(groups):
            if twice := next((path for path in group if path in owner), None):
                name = getattr(settings, split)[index]
                what = f"twice in {split}" if owner[twice] == split else f"in {owner[twice]} and in {split}"
                message = f"{name}: the images of {twice} are {what}; a split needs images of its own"
                yield Problem((split, index), message)
            owner |= {path: owner.get(path, split) for path in group}


def _missing(folder: Path) -> str:
    siblings = [other.name for other in folder.parent.iterdir() if other.is_dir()] if folder.parent.is_dir() else []
    guess = closest(folder.name, siblings)
    return f"the folder {os.path.realpath(folder)} does not exist" + (
        f"; did you mean {folder.parent / guess}?" if guess else ""
    )


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) for entry in entries)


def _no_images(root: Path, folders: list[str]) -> str:
    unread = not_read(root, 1, folders)
    hint = f" ({'; '.join(unread)})" if unread else ""
    return f"no images in the class folder {listed(folders)} of {root}; add some or remove the folder{hint}"


def _folder_problems(settings: ImageFolderSet) -> Iterator[Problem]:
    names_in: dict[Path, list[str]] = {}
    readable = True
    for split in SPLITS:
        roots = getattr(settings, split)
        for index, root in enumerate(roots if isinstance(roots, list) else []):
            try:
                names_in[root] = class_folders(root)
            except (OSError, SetError) as error:
                if isinstance(error, OSError):
                    message = _missing(root) if isinstance(error, FileNotFoundError) else os_problem(error, root)
                else:
                    message = str(error)
                yield Problem((split, index), message)
                readable = False
                continue
            if not names_in[root]:
                message = f"{root} has no class folders; images are expected as <folder>/<class>/<image>"
                yield Problem((split, index), message)
                readable = False
    if not readable:
        return
    reader = ImageFolderReader(settings)
    try:
        folders = reader.folders()
    except SetError as error:
        yield Problem(error.where, str(error))
        return
    for split in SPLITS:
        roots = getattr(settings, split)
        for index, root in enumerate(roots if isinstance(roots, list) else []):
            used = [name for name in names_in[root] if name in folders]
            try:
                if not used:
                    yield Problem((split, index), f"{root} has none of the classes in `classes`")
                elif empty := [name for name in used if not _has_images(root / name)]:
                    yield Problem((split, index), _no_images(root, empty))
            except OSError as error:
                yield Problem((split, index), os_problem(error, root))
            except SetError as error:
                yield Problem((split, index), str(error))
    try:
        reader.class_names()
    except SetError as error:
        yield Problem(error.where, str(error))

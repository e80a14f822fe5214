"""Checks of the image sets that a spec points to on disk, before anything heavy is imported."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sweeper.spec.problems import Problem, closest, did_you_mean
from trainables.data.readers import known_class_names
from trainables.data.readers.class_names import SetError, chosen, listed, words_for
from trainables.data.readers.samples import class_folders, is_image
from trainables.data.readers.webdataset import shards_of
from trainables.settings.sets import ImageFolderSet, ImageSetSettings, Split, WebDatasetSet, WorldSet
from trainables.settings.task import TrainSettings

Place = tuple[str | int, ...]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def set_problems(name: str, raw: Any) -> list[Problem]:
    """What is wrong with the files and class names of a set; nothing where its mapping itself is wrong."""
    try:
        settings: ImageSetSettings = TypeAdapter(ImageSetSettings).validate_python(raw)
    except ValidationError:
        return []
    path = ("sets", name)
    templates = settings.templates if isinstance(settings.templates, list) else []
    problems = [
        Problem((*path, "templates", index), f"the template {template!r} has no {{}} for the class name")
        for index, template in enumerate(templates)
        if "{}" not in template
    ]
    if isinstance(settings, ImageFolderSet):
        found = [*_folder_problems(settings), *_shared(settings, _resolved_folders(settings))]
    elif isinstance(settings, WebDatasetSet):
        found = list(_shard_problems(settings))
    else:
        found = list(_listing_problems(settings))
    return problems + [Problem((*path, *inner), message) for inner, message in found]


def class_problems(train: TrainSettings, settings: ImageSetSettings) -> list[Problem]:
    """What is wrong with ``train.classes``, given a set without problems of its own."""
    names = known_class_names(settings)
    if names is None:
        return []
    path = ("train", "classes")
    if isinstance(train.classes, list):
        problems = [
            Problem((*path, index), f"`train.classes`: no class {name!r}" + did_you_mean(name, names))
            for index, name in enumerate(train.classes)
            if name not in names
        ]
        if not problems and len(set(train.classes)) < 2:
            problems.append(Problem(path, "`train.classes`: at least two different classes are needed"))
        return problems
    count = len(names) if train.classes == "all" else math.ceil(len(names) * train.classes)
    if count < 2:
        message = f"`train.classes`: {train.classes} of {len(names)} classes makes {count}; two or more are needed"
        return [Problem(path, message)]
    return []


def _listing_problems(settings: ImageSetSettings) -> Iterator[tuple[Place, str]]:
    if isinstance(settings, WorldSet):
        return
    try:
        known_class_names(settings)
    except SetError as error:
        yield error.where, str(error)


def _shard_problems(settings: WebDatasetSet) -> Iterator[tuple[Place, str]]:
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
                yield (split, index), str(error)
                files[split].append([])
    yield from _shared(settings, files)
    yield from _listing_problems(settings)


def _resolved_folders(settings: ImageFolderSet) -> dict[Split, list[list[Path]]]:
    """Class folders and not their parents: a link per class in two trees is one folder."""
    found: dict[Split, list[list[Path]]] = {}
    for split in SPLITS:
        roots = getattr(settings, split)
        if isinstance(roots, list):
            found[split] = [
                [Path(os.path.realpath(root / name)) for name in class_folders(root)] if root.is_dir() else []
                for root in roots
            ]
    return found


def _shared(
    settings: ImageFolderSet | WebDatasetSet, files: dict[Split, list[list[Path]]]
) -> Iterator[tuple[Place, str]]:
    """Images that two splits have in common, or that one split names twice."""
    owner: dict[Path, Split] = {}
    for split, groups in files.items():
        for index, group in enumerate(groups):
            if twice := next((path for path in group if path in owner), None):
                name = getattr(settings, split)[index]
                what = f"twice in {split}" if owner[twice] == split else f"in {owner[twice]} and in {split}"
                yield (split, index), f"{name}: the images of {twice} are {what}; a split needs images of its own"
            owner |= {path: owner.get(path, split) for path in group}


def _missing(folder: Path) -> str:
    siblings = [other.name for other in folder.parent.iterdir() if other.is_dir()] if folder.parent.is_dir() else []
    guess = closest(folder.name, siblings)
    return f"the folder {folder} does not exist" + (f"; did you mean {folder.parent / guess}?" if guess else "")


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) for entry in entries)


def _folder_problems(settings: ImageFolderSet) -> Iterator[tuple[Place, str]]:
    found: dict[Path, list[str]] = {}
    readable = True
    for split in SPLITS:
        roots = getattr(settings, split)
        for index, root in enumerate(roots if isinstance(roots, list) else []):
            try:
                found[root] = class_folders(root)
            except OSError as error:
                message = _missing(root) if isinstance(error, FileNotFoundError) else f"{root}: {error.strerror}"
                yield (split, index), message
                readable = False
                continue
            if not found[root]:
                yield (split, index), f"{root} has no class folders; images are expected as <folder>/<class>/<image>"
                readable = False
    if not readable:
        return
    try:
        folders = chosen(sorted({name for names in found.values() for name in names}), settings.classes)
    except SetError as error:
        yield error.where, str(error)
        return
    for split in SPLITS:
        roots = getattr(settings, split)
        for index, root in enumerate(roots if isinstance(roots, list) else []):
            here = [name for name in found[root] if name in set(folders)]
            if not here:
                yield (split, index), f"{root} has none of the classes in `classes`"
            elif empty := [name for name in here if not _has_images(root / name)]:
                message = f"no images in the class folder {listed(empty)} of {root}; add some or remove the folder"
                yield (split, index), message
    if len(folders) < 2:
        yield (), f"only one class folder ({', '.join(folders)}); two classes or more are needed"
        return
    try:
        words_for(folders, settings.class_names, {name: name.replace("_", " ") for name in folders})
    except SetError as error:
        yield error.where, str(error)

"""Image folders, ``<folder>/<class>/<image>``: their files, classes and class names. Imports nothing heavy."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from trainables.set_settings import HeldBack, ImageFolderSet, Split
from trainables.settings import TrainSettings

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def class_names_of(name: str, settings: ImageFolderSet) -> tuple[list[str], tuple[str, ...]]:
    """Class folders of all splits, sorted, and the words that prompts use for them.

    Raises ValueError where folders have no classes or ``class_names`` does not fit them.
    """
    splits = [settings.train, settings.validation, settings.test]
    roots = [root for split in splits if isinstance(split, list) for root in split]
    folders = sorted({child.name for root in roots for child in _class_folders(name, root)})
    given = settings.class_names
    if isinstance(given, Path):
        try:
            given = json.loads(given.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"set {name!r}: class_names file {given} cannot be read as JSON: {error}") from error
    if given is None:
        return folders, tuple(folder.replace("_", " ") for folder in folders)
    if isinstance(given, list):
        if len(given) != len(folders):
            raise ValueError(f"set {name!r}: {len(given)} class_names for {len(folders)} class folders")
        return folders, tuple(given)
    missing = [folder for folder in folders if folder not in given]
    if missing:
        raise ValueError(f"set {name!r}: class_names has no words for the folders {', '.join(missing[:5])}")
    return folders, tuple(str(given[folder]) for folder in folders)


def image_files(name: str, settings: ImageFolderSet, split: Split) -> list[Path]:
    """The image files of a split in a stable order; files of other kinds do not count."""
    source = getattr(settings, split)
    held_back = settings.validation if isinstance(settings.validation, HeldBack) else None
    if isinstance(source, HeldBack) or (split == "train" and held_back is not None):
        assert held_back is not None and settings.train is not None
        kept, taken = _hold_back(_files(name, settings.train), held_back)
        return taken if split == "validation" else kept
    assert isinstance(source, list), "settings check that a named split exists"
    return _files(name, source)


def _hold_back(files: list[Path], held_back: HeldBack) -> tuple[list[Path], list[Path]]:
    from trainables.attack import generator  # numpy and Pillow: not for those who only ask for names

    by_class: dict[str, list[Path]] = {}
    for path in files:
        by_class.setdefault(path.parent.name, []).append(path)
    taken: set[Path] = set()
    for folder, paths in by_class.items():
        if len(paths) <= held_back.per_class:
            raise ValueError(
                f"validation takes {held_back.per_class} images per class out of train, but the class {folder!r} has "
                f"only {len(paths)}; lower per_class"
            )
        order = generator(held_back.seed, "held back", folder).permutation(len(paths))
        taken |= {paths[i] for i in order[: held_back.per_class]}
    return [path for path in files if path not in taken], [path for path in files if path in taken]


def _files(name: str, roots: Sequence[Path]) -> list[Path]:
    found = [
        path
        for root in roots
        for folder in _class_folders(name, root)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    if not found:
        raise ValueError(
            f"set {name!r}: no images in {', '.join(map(str, roots))} (looked for <folder>/<class>/<image>)"
        )
    return found


def _class_folders(name: str, root: Path) -> list[Path]:
    if not root.is_dir():
        raise ValueError(f"set {name!r}: the folder {root} does not exist")
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not folders:
        raise ValueError(f"set {name!r}: {root} has no class folders (expected <folder>/<class>/<image>)")
    return folders


def preference_classes(settings: TrainSettings, class_names: Sequence[str]) -> list[int]:
    """Indices of the classes that preference data cover.

    Raises ValueError for unknown names or fewer than two classes.
    """
    if settings.classes == "all":
        chosen = list(range(len(class_names)))
    elif isinstance(settings.classes, float):
        share = settings.classes
        chosen = [i for i in range(len(class_names)) if math.ceil((i + 1) * share) > math.ceil(i * share)]
    else:
        unknown = [name for name in settings.classes if name not in class_names]
        if unknown:
            raise ValueError(f"train.classes: no class {', '.join(unknown)}; there are {', '.join(class_names)}")
        chosen = sorted(class_names.index(name) for name in set(settings.classes))
    if len(chosen) < 2:
        raise ValueError("preference data need at least two classes: one to prefer, another to be written")
    return chosen

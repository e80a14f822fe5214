"""Checks of what a spec points to on disk, before anything heavy is imported: models, image folders, class names."""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import trainables
from sweeper.problems import Problem, closest, did_you_mean
from trainables.folders import IMAGE_SUFFIXES, class_names_of
from trainables.set_settings import ImageFolderSet, ImageSetSettings, WorldSet
from trainables.settings import TrainSettings

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth"}
_CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")


def embedding_width(model: Any) -> int | None:
    """Of the model that a spec's `model` mapping names; None where it cannot be known before the model is loaded."""
    config = _config_file(str(model.get("architecture", "world"))) if isinstance(model, dict) else None
    try:
        content = json.loads(config.read_text()) if config is not None else {}
        width = content.get("model_cfg", content).get("embed_dim")
    except (OSError, ValueError, AttributeError):
        return None
    return width if isinstance(width, int) else None


def model_problems(raw: Any) -> list[Problem]:
    """What is wrong with the model that a spec's `model` mapping names; not with the mapping itself."""
    if not isinstance(raw, dict):
        return []
    problems = []
    architecture, pretrained = raw.get("architecture"), raw.get("pretrained")
    if isinstance(architecture, str) and (message := _architecture_problem(architecture)):
        problems.append(Problem(("model", "architecture"), f"`model.architecture`: {message}"))
    if isinstance(pretrained, str) and pretrained.endswith(_CHECKPOINTS) and not Path(pretrained).is_file():
        problems.append(Problem(("model", "pretrained"), f"`model.pretrained`: the file {pretrained} does not exist"))
    return problems


def set_problems(name: str, raw: Any) -> list[Problem]:
    """What is wrong with the folders and class names of a set; nothing where its mapping itself is wrong."""
    try:
        settings: ImageSetSettings = TypeAdapter(ImageSetSettings).validate_python(raw)
    except ValidationError:
        return []
    path = ("sets", name)
    problems = [
        Problem((*path, "templates", index), f"the template {template!r} has no {{}} for the class name")
        for index, template in enumerate(settings.templates)
        if "{}" not in template
    ]
    if isinstance(settings, ImageFolderSet):
        problems += [Problem((*path, *inner), message) for inner, message in _folder_problems(settings)]
    return problems


def class_problems(train: TrainSettings, settings: ImageSetSettings) -> list[Problem]:
    """What is wrong with ``train.classes``, given a set without problems of its own."""
    names = class_names(settings)
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


def class_names(settings: ImageSetSettings) -> tuple[str, ...]:
    """The words for the classes of a set without problems of its own, in the order of its labels."""
    if isinstance(settings, WorldSet):
        from trainables.world import CLASSES

        return tuple(CLASSES)
    return class_names_of("", settings)[1]


def _config_file(architecture: str) -> Path | None:
    if architecture == "world":
        assert trainables.__file__ is not None
        return Path(trainables.__file__).parent / "world" / "model" / "open_clip_config.json"
    if architecture.startswith("local-dir:"):
        return Path(architecture.removeprefix("local-dir:")) / "open_clip_config.json"
    return _named_models().get(architecture.replace("/", "-"))


def _named_models() -> dict[str, Path]:
    """open_clip's models by name; finding the package does not import it (and torch with it)."""
    package = importlib.util.find_spec("open_clip")
    folders = package.submodule_search_locations if package is not None else None
    return {file.stem: file for folder in folders or () for file in Path(folder, "model_configs").glob("*.json")}


def _architecture_problem(name: str) -> str | None:
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not folder.is_dir():
            return f"the folder {folder} does not exist"
        if not (folder / "open_clip_config.json").is_file():
            return f"{folder} holds no open_clip_config.json; is it a folder that open_clip has written?"
        if embedding_width({"architecture": name}) is None:
            return f"{folder}/open_clip_config.json is no model configuration with an embed_dim"
        if not any(file.suffix in _WEIGHTS for file in folder.iterdir()):
            return f"{folder} holds no weights (*.safetensors, *.bin, *.pt or *.pth)"
    elif name != "world" and not name.startswith("hf-hub:") and _config_file(name) is None:
        near = difflib.get_close_matches(name, _named_models(), n=3, cutoff=0.5)
        guess = f"did you mean {', '.join(near)}? " if near else ""
        return f"open_clip has no {name!r}; {guess}(there are also local-dir:FOLDER, hf-hub:NAME and world)"
    return None


def _roots(settings: ImageFolderSet) -> list[tuple[tuple[str | int, ...], Path]]:
    splits = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    return [
        ((split, index), root)
        for split, roots in splits.items()
        if isinstance(roots, list)
        for index, root in enumerate(roots)
    ]


def _class_folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _missing(folder: Path) -> str:
    siblings = [other.name for other in folder.parent.iterdir() if other.is_dir()] if folder.parent.is_dir() else []
    guess = closest(folder.name, siblings)
    return f"the folder {folder} does not exist" + (f"; did you mean {folder.parent / guess}?" if guess else "")


def _has_images(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())


def _folder_problems(settings: ImageFolderSet) -> Iterator[tuple[tuple[str | int, ...], str]]:
    classes: set[str] = set()
    readable = True
    for path, root in _roots(settings):
        try:
            folders = _class_folders(root)
            empty = [folder.name for folder in folders if not _has_images(folder)]
        except OSError as error:
            yield path, _missing(root) if isinstance(error, FileNotFoundError) else f"{root}: {error.strerror}"
            readable = False
            continue
        classes |= {folder.name for folder in folders}
        if not folders:
            yield path, f"{root} has no class folders; images are expected as <folder>/<class>/<image>"
            readable = False
        elif empty:
            listed = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
            yield path, f"no images in the class folder {listed} of {root}; add some or remove the folder"
    if readable and len(classes) < 2:
        yield (), f"only one class folder ({', '.join(classes)}); two classes or more are needed"
    elif readable:
        yield from _name_problems(settings, sorted(classes))


def _name_problems(settings: ImageFolderSet, folders: list[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    given: Any = settings.class_names
    if isinstance(given, Path):
        try:
            given = json.loads(given.read_text())
        except FileNotFoundError:
            yield ("class_names",), f"the file {given} does not exist"
            return
        except (OSError, ValueError) as error:
            yield ("class_names",), f"{given} cannot be read as JSON: {error}"
            return
        if not isinstance(given, dict | list) or not given:
            yield ("class_names",), f"{settings.class_names} holds neither a mapping from folder to words nor a list"
            return
    if isinstance(given, list) and len(given) != len(folders):
        yield ("class_names",), f"{len(given)} class names for {len(folders)} class folders"
        return
    if isinstance(given, dict) and (missing := [folder for folder in folders if folder not in given]):
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        yield ("class_names",), f"no words for the class folder {listed}"
        return
    words = [given[folder] for folder in folders] if isinstance(given, dict) else given or folders
    if any(not isinstance(word, str) or not word.strip() for word in words):
        yield ("class_names",), "every class name must be text"
    elif twice := sorted({word for word in words if words.count(word) > 1}):
        yield ("class_names",), f"two classes are both called {twice[0]!r}; the prompts could not tell them apart"

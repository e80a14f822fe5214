"""Checks of the model that a spec names, without torch: files are checked here, weights by `sweeper check`."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import trainables
from sweeper.spec.problems import Problem, closest
from trainables.models.hf_clip import clip_model_config, is_transformers_folder, weights_files
from trainables.models.model_files import FOLDER_WEIGHTS, refuse_architecture
from trainables.settings.task import WEIGHT_SUFFIXES
from trainables.text_files import LFS_POINTER, names_lfs_pointer


def embedding_width(model: Any) -> int | None:
    """Return the embedding width of the model in a spec's `model` mapping; None if not known before it is loaded."""
    width = _model_config(str(model.get("architecture", "world"))).get("embed_dim") if isinstance(model, dict) else None
    return width if isinstance(width, int) else None


def image_side_px(model: dict[str, str]) -> int | None:
    """Return the side of the images that a model takes, in pixels; None if not known before it is loaded."""
    tower = _model_config(model["architecture"]).get("vision_cfg")
    side = tower.get("image_size") if isinstance(tower, dict) else None
    return side if isinstance(side, int) else None


def model_problems(raw: Any) -> list[Problem]:
    """Return the problems of the model in a spec's `model` mapping, not those of the mapping itself."""
    if not isinstance(raw, dict):
        return []
    problems = []
    architecture, pretrained = raw.get("architecture"), raw.get("pretrained")
    if isinstance(architecture, str) and (message := _architecture_problem(architecture)):
        problems.append(Problem(("model", "architecture"), f"`model.architecture`: {message}"))
    if isinstance(pretrained, str) and pretrained.endswith(WEIGHT_SUFFIXES):
        file = Path(pretrained)
        message = f"{file} {LFS_POINTER}" if names_lfs_pointer(file) else None
        if message is None and not os.path.isfile(file):
            message = _missing_file(file)
        if message is not None:
            problems.append(Problem(("model", "pretrained"), f"`model.pretrained`: {message}"))
    elif isinstance(pretrained, str) and ("/" in pretrained or os.path.isfile(pretrained)):
        message = f"{pretrained} is no tag, and no checkpoint file by its suffix ({', '.join(WEIGHT_SUFFIXES)})"
        problems.append(
            Problem(("model", "pretrained"), f"`model.pretrained`: {message}; rename the file, or name a tag")
        )
    return problems


def _config_fault(file: Path) -> str:
    """Return what is wrong with open_clip's configuration of a model folder."""
    try:
        json.loads(file.read_bytes().decode())
    except ValueError as error:
        return f"cannot be read as JSON: {error}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "is not a model configuration with an embed_dim"


def _config_file(architecture: str) -> Path | None:
    """Return open_clip's configuration of a model; None if it has none that is known here."""
    if architecture == "world":
        assert trainables.__file__ is not None
        return Path(trainables.__file__).parent / "world" / "model" / "open_clip_config.json"
    folder = _folder(architecture)
    if folder is not None:
        return folder / "open_clip_config.json"
    return _named_models().get(architecture.replace("/", "-"))


def _folder(architecture: str) -> Path | None:
    named = architecture.startswith("local-dir:")
    return Path(architecture.removeprefix("local-dir:")) if named else None


def _model_config(architecture: str) -> dict[str, Any]:
    """Return open_clip's ``model_cfg`` of a model; empty if it is not known here or its file cannot be read."""
    folder, file = _folder(architecture), _config_file(architecture)
    try:
        if folder is not None and is_transformers_folder(folder):
            return clip_model_config(folder).model_cfg
        content = json.loads(file.read_text()) if file is not None else {}
        config = content.get("model_cfg", content)
    except (OSError, ValueError, AttributeError):
        return {}
    return config if isinstance(config, dict) else {}


def _named_models() -> dict[str, Path]:
    """Return open_clip's configuration files by name of the model, without importing open_clip and torch."""
    package = importlib.util.find_spec("open_clip")
    folders = package.submodule_search_locations if package is not None else None
    return {file.stem: file for folder in folders or () for file in Path(folder, "model_configs").glob("*.json")}


def _architecture_problem(name: str) -> str | None:
    folder = _folder(name)
    if folder is not None:
        if not os.path.isdir(folder):
            return f"the folder {folder} does not exist"
        if pointers := [file for file in folder.iterdir() if file.is_file() and names_lfs_pointer(file)]:
            return f"{pointers[0]} {LFS_POINTER}"
        if is_transformers_folder(folder):
            return _transformers_problem(name, folder)
        if not (folder / "open_clip_config.json").is_file():
            return (
                f"{folder} holds neither open_clip's open_clip_config.json nor the config.json of transformers; is it "
                "the folder of a model?"
            )
        if embedding_width({"architecture": name}) is None:
            return f"{folder}/open_clip_config.json {_config_fault(folder / 'open_clip_config.json')}"
        if not any(file.suffix in FOLDER_WEIGHTS for file in folder.iterdir()):
            return (
                f"{folder} holds no weights under names that open_clip looks for (*.safetensors, *.bin or *.pth); "
                "rename a state dict that ends in .pt to open_clip_pytorch_model.bin"
            )
    elif name != "world" and not name.startswith("hf-hub:") and _config_file(name) is None:
        near = difflib.get_close_matches(name, _named_models(), n=3, cutoff=0.5)
        guess = f"did you mean {', '.join(near)}? " if near else ""
        return f"open_clip has no {name!r}; {guess}(there are also local-dir:FOLDER, hf-hub:NAME and world)"
    config = _model_config(name)
    try:
        if config:
            refuse_architecture(config, folder)
    except ValueError as error:
        return f"{name}: {error}"
    return None


def _transformers_problem(name: str, folder: Path) -> str | None:
    try:
        clip_model_config(folder)
        weights_files(folder)
    except ValueError as error:
        return f"{name}: {error}"
    return None


def _missing_file(file: Path) -> str:
    siblings = [other.name for other in file.parent.iterdir() if other.is_file()] if file.parent.is_dir() else []
    guess = closest(file.name, siblings)
    return f"the file {os.path.realpath(file)} does not exist" + (
        f"; did you mean {file.parent / guess}?" if guess else ""
    )

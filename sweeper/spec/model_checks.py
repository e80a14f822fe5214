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
from trainables.models.model_files import refuse_architecture
from trainables.settings.task import WEIGHT_SUFFIXES
from trainables.text_files import LFS_POINTER, names_lfs_pointer

_FOLDER_WEIGHTS = (".safetensors", ".bin", ".pth")
"""Suffixes by which open_clip finds the weights of a folder; .pt is not among them."""


def embedding_width(model: Any) -> int | None:
    """Return the embedding width of the model in a spec's `model` mapping; None if not known before it is loaded."""
    config = _config_file(str(model.get("architecture", "world"))) if isinstance(model, dict) else None
    width = _model_config(config).get("embed_dim") if config is not None else None
    return width if isinstance(width, int) else None


def image_side_px(model: dict[str, str]) -> int | None:
    """Return the side of the images that a model takes, in pixels; None if not known before it is loaded."""
    config = _config_file(model["architecture"])
    tower = _model_config(config).get("vision_cfg") if config is not None else None
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
    return problems


def _config_file(architecture: str) -> Path | None:
    if architecture == "world":
        assert trainables.__file__ is not None
        return Path(trainables.__file__).parent / "world" / "model" / "open_clip_config.json"
    if architecture.startswith("local-dir:"):
        return Path(architecture.removeprefix("local-dir:")) / "open_clip_config.json"
    return _named_models().get(architecture.replace("/", "-"))


def _model_config(file: Path) -> dict[str, Any]:
    """Return the ``model_cfg`` of a configuration file; empty if the file cannot be read."""
    try:
        content = json.loads(file.read_text())
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
    file = _config_file(name)
    folder = Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None
    if folder is not None:
        if not os.path.isdir(folder):
            return f"the folder {folder} does not exist"
        if pointers := [file for file in folder.iterdir() if file.is_file() and names_lfs_pointer(file)]:
            return f"{pointers[0]} {LFS_POINTER}"
        if not (folder / "open_clip_config.json").is_file():
            return f"{folder} holds no open_clip_config.json; is it a folder that open_clip has written?"
        if embedding_width({"architecture": name}) is None:
            return f"{folder}/open_clip_config.json is not a model configuration with an embed_dim"
        if not any(file.suffix in _FOLDER_WEIGHTS for file in folder.iterdir()):
            return (
                f"{folder} holds no weights under names that open_clip looks for (*.safetensors, *.bin or *.pth); "
                "rename a state dict that ends in .pt to open_clip_pytorch_model.bin"
            )
    elif name != "world" and not name.startswith("hf-hub:") and file is None:
        near = difflib.get_close_matches(name, _named_models(), n=3, cutoff=0.5)
        guess = f"did you mean {', '.join(near)}? " if near else ""
        return f"open_clip has no {name!r}; {guess}(there are also local-dir:FOLDER, hf-hub:NAME and world)"
    config = _model_config(file) if file is not None else {}
    try:
        if config:
            refuse_architecture(config, folder)
    except ValueError as error:
        return f"{name}: {error}"
    return None


def _missing_file(file: Path) -> str:
    siblings = [other.name for other in file.parent.iterdir() if other.is_file()] if file.parent.is_dir() else []
    guess = closest(file.name, siblings)
    return f"the file {os.path.realpath(file)} does not exist" + (
        f"; did you mean {file.parent / guess}?" if guess else ""
    )

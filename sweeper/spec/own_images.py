"""A spec for a folder of images: ``sweeper init --images`` writes it, and ``sweeper run --images`` runs it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from sweeper.errors import UserError
from sweeper.spec.model_checks import image_side_px
from sweeper.spec.set_checks import set_problems
from trainables.data.readers.class_names import counted, imagenet_words, listed, printable
from trainables.data.readers.samples import class_folders, images_in, is_image
from trainables.settings.task import WEIGHT_SUFFIXES
from trainables.spelling import normal_form

DEFAULT_MODEL = "ViT-B-32:laion2b_s34b_b79k"
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""Split -> names of folders that may hold it, in lower case."""
NAMES_FILES = ("class_names.json", "classes.json", "labels.json", "Labels.json")
"""Files beside the images that map names of class folders to words."""
HELD_OUT_SHARE = 0.2
LEAST_IMAGES = 50
"""Least number of images in all: a fifth is held back for validation, and fewer than ten images measure nothing."""
SMALL_SIDE_PX = 112
"""Models whose images are at most this large count as small enough for training on CPUs."""
MOST_TRAINED = 20_000
"""Largest number of images of a training, so that a first sweep of a large folder has short trials."""
MOST_TESTED = 5000
SEARCHED = 1000
"""Validation images of the search, if there are twice as many; the second look uses the others."""

_NO_WORD = re.compile(r"(?:[^\W\d_]{0,1}|n|id|cls|class|label|category|cat|folder)[\W_]*\d[\W\d_]*", re.IGNORECASE)
"""Names without words, such as ``7``, ``c3``, ``class_12``, ``n02084071``."""


_NUMBERED = re.compile(r"(?:n\d{8}|\d+)[-._ ]+([^\W\d_].+)")
"""Names with words behind a number, such as ``001.Black_footed_Albatross`` and ``n02085620-Chihuahua``."""


@dataclass(frozen=True)
class OwnSpec:
    """A spec that was written for a folder of images."""

    name: str
    """Name of the sweep."""
    text: str
    """YAML."""
    notes: tuple[str, ...]
    """A line for each finding in the folder and each choice."""


@dataclass(frozen=True)
class _Found:
    """Splits in a folder. ``counts``: number of images by split and class folder."""

    splits: dict[str, Path]
    """Split -> folder of class folders."""
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]

    def classes(self) -> list[str]:
        return sorted({name for of_split in self.counts.values() for name in of_split})

    def total(self, split: str) -> int:
        return sum(self.counts.get(split, {}).values())


def spec_for_images(folder: Path, model: str, *, has_gpus: bool) -> OwnSpec:
    """Return a spec that tunes ``model`` on the images in ``folder``.

    Args:
        folder: ``<folder>/<class>/<image>``, or ``train`` and perhaps ``validation`` and ``test`` above the classes.
        model: ``ARCHITECTURE:TAG``, ``ARCHITECTURE:FILE``, ``local-dir:FOLDER``, ``hf-hub:NAME`` or ``world``.
        has_gpus: whether the image tower of a large model can be trained.

    Raises:
        UserError: the folder cannot be used; the message says what is missing.
    """
    folder = Path(os.path.expanduser(os.path.expandvars(folder)))
    if printable(str(folder.absolute())) != str(folder.absolute()):
        raise UserError(f"--images {printable(str(folder))}: its name is not UTF-8, and a spec is; rename it")
    found = _find(folder.absolute())
    names, names_note = _class_names(folder.absolute(), found)
    held, held_note = _held_back(found)
    settings = _model_settings(model)
    side_px = image_side_px(settings)
    small = side_px is not None and side_px < SMALL_SIDE_PX
    tuned = ["transform", "last_blocks", "visual"] if has_gpus else ["transform", "visual"] if small else ["transform"]
    train, validation = _split_sizes(found, held)
    copies = 3 if train < 2000 else 1
    trained = min(train, MOST_TRAINED) * copies
    epochs = 10 if trained < 1000 else 3
    batch = min(512, max(16, 2 ** (max(1, trained // 12).bit_length() - 1)))
    name = re.sub(r"[^A-Za-z0-9]+", "-", folder.absolute().name).strip("-").lower() or "photos"
    chosen_note = f"trained: {' or '.join(tuned)}" + (
        "" if has_gpus or small else " only, as this machine has no GPU (its trainings are short on CPUs)"
    )
    notes = (
        *found.notes,
        held_note,
        f"classes: {len(found.classes())}: {listed(found.classes())}{names_note}",
        'prompts: "a photo of a {}." (`templates` changes them)',
        f"model: {model}",
        chosen_note,
    )
    image_set = ["    kind: image_folder"]
    image_set += [f"    {split}: {json.dumps(str(path), ensure_ascii=False)}" for split, path in found.splits.items()]
    image_set += [f"    {split}: {{from: train, share: {HELD_OUT_SHARE}}}" for split in held]
    image_set += [f"    class_names: {names}"] if names else []
    image_set += ['    templates: ["a photo of a {}."]']
    searched = f", images: {SEARCHED}" if validation >= 2 * SEARCHED else ""
    tested = f", images: {MOST_TESTED}" if found.total("test") > MOST_TESTED else ""
    limit = f", images: {MOST_TRAINED}" if train > MOST_TRAINED else ""
    recipe = "sign" if small else "defense_prefix"
    rank = ["  rank: {when: {tune: transform}, low: 16, high: embed_dim, log: true}"]
    blocks = ["  blocks: {when: {tune: last_blocks}, choices: [1, 2, 4]}"] if "last_blocks" in tuned else []
    lines = [
        f"# For the images in {folder.absolute()}. Change it as you like: docs/guide.md, `sweeper schema`.",
        f"name: {name}",
        f"model: {json.dumps(settings)}",
        "sets:",
        "  mine:",
        *image_set,
        f"train: {{set: mine, copies: {copies}{limit}}}      # copies: attacked copies of each image",
        f"attack: {{recipe: {recipe}}}",
        f"evaluate: {{search: {{sets: [mine]{searched}}}, test: {{sets: [mine]{tested}}}}}",
        "goals:",
        "  clean_accuracy: {floor: untouched - 0.05}   # a model that loses more is never on the front",
        "parameters:",
        "  objective: {choices: [dpo, ipo, kto, cross_entropy]}",
        "  beta:",
        "    - {when: {objective: [dpo, kto]}, low: 0.05, high: 5.0, log: true}",
        "    - {when: {objective: ipo}, low: 0.005, high: 0.5, log: true}",
        "  lambda_reg: {low: 0.01, high: 10.0, log: true}",
        f"  tune: {{choices: [{', '.join(tuned)}]}}" if len(tuned) > 1 else f"  tune: {tuned[0]}",
        *blocks,
        *rank,
        "  learning_rate: auto                         # found by the first trials",
        *([] if "visual" in tuned else ["paint: {tune: transform}                     # the baseline of every front"]),
        "search: {trials: 24}",
        "stopping: {kind: moasha}",
        f"training: {{epochs: {epochs}, global_batch_size: {batch}}}",
    ]
    text = "\n".join(lines) + "\n"
    if problems := set_problems("mine", yaml.safe_load(text)["sets"]["mine"]):
        raise UserError("\n".join(f"--images {folder}: {problem.message}" for problem in problems))
    return OwnSpec(name=name, text=text, notes=notes)


def _find(folder: Path) -> _Found:
    """Return the splits in a folder.

    Raises:
        UserError: there are no class folders, or too few.
    """
    inside = _folders(folder)
    by_name = {name.lower(): name for name in inside}
    splits = {
        split: folder / by_name[given]
        for split, names in SPLIT_FOLDERS.items()
        for given in [next((name for name in names if name in by_name), None)]
        if given is not None
    }
    notes: list[str] = []
    if "train" in splits:
        others = [name for name in inside if folder / name not in splits.values()]
        notes += [f"images: {folder}; not used: {listed(others)}"] if others else []
        for split in ("validation", "test"):
            if split in splits and not _folders(splits[split]):
                notes.append(f"{splits[split]} has no class folders: it is not used")
                del splits[split]
    elif splits:
        raise UserError(
            f"--images {folder}: it has {listed([path.name for path in splits.values()])} but no folder `train`; "
            "rename the folder to train on, or name a folder of class folders"
        )
    else:
        splits = {"train": folder}
    counts = {split: _counts(path) for split, path in splits.items()}
    _check_classes(folder, splits["train"], counts["train"])
    return _Found(splits=splits, counts=counts, notes=tuple(notes))


def _folders(folder: Path) -> list[str]:
    try:
        return class_folders(folder)
    except OSError as error:
        raise UserError(f"--images {folder}: {error.strerror}; name a folder of class folders") from error


def _counts(folder: Path) -> dict[str, int]:
    try:
        return {name: len(images_in(folder / name, name)) for name in _folders(folder)}
    except ValueError as error:
        raise UserError(f"--images {folder}: {error}") from error


def _check_classes(folder: Path, train: Path, counts: dict[str, int]) -> None:
    shape = f"images are expected as {train}/<class>/<image>, or below `train`, `validation` and `test`"
    if not counts:
        files = [path.name for path in train.iterdir() if path.is_file()]
        if any(name.startswith("label=") for name in files):
            raise UserError(
                f"--images {folder}: files named label=..._text=... are photographs for testing only (kind: rta100); "
                "to train, images of single things are needed, in a folder per class"
            )
        if any(name.endswith(".tar") for name in files):
            raise UserError(
                f"--images {folder}: tar shards are read by a spec (kind: webdataset); `sweeper init` writes a spec to "
                "start from"
            )
        lie = "its images lie directly in it" if any(is_image(name) for name in files) else "it has no folders"
        raise UserError(f"--images {folder}: {lie}; {shape}")
    if len(counts) == 1:
        (only,) = counts
        deeper = class_folders(train / only)
        hint = f"; did you mean {train / only}?" if len(deeper) > 1 else ""
        raise UserError(f"--images {folder}: only one class folder ({only}); two or more are needed{hint}")
    if empty := [name for name, count in counts.items() if count == 0]:
        raise UserError(
            f"--images {folder}: no images in {listed(empty)}; remove folders that are not classes, or {shape}"
        )


def _class_names(folder: Path, found: _Found) -> tuple[str | None, str]:
    """Return ``class_names`` of the set in YAML, and a note for the user.

    Raises:
        UserError: the class folders have names without words.
    """
    classes = found.classes()
    if file := next((folder / name for name in NAMES_FILES if (folder / name).is_file()), None):
        return json.dumps(str(file), ensure_ascii=False), f"; their words are in {file.name}"
    wordless = [name for name in classes if _NO_WORD.fullmatch(name)]
    if len(wordless) == len(classes) and all(name in imagenet_words() for name in classes):
        return "imagenet", "; WordNet ids, read as ImageNet's words"
    if 2 * len(wordless) >= len(classes):
        raise UserError(
            f"--images {folder}: the class folders {listed(wordless)} have names without words, and prompts need "
            f'words: write {folder / NAMES_FILES[0]} with {{"{wordless[0]}": "dog", ...}}, or rename the folders'
        )
    numbered = {name: match[1].replace("_", " ") for name in classes if (match := _NUMBERED.fullmatch(name))}
    if len(numbered) == len(classes) == len({normal_form(word) for word in numbered.values()}):
        return json.dumps(numbered, ensure_ascii=False), f"; read without their numbers: {listed([*numbered.values()])}"
    return None, f"; no words: {listed(wordless)}" if wordless else ""


def _held_back(found: _Found) -> tuple[list[str], str]:
    """Return the splits that are taken out of train, and a note for the user.

    Raises:
        UserError: there are too few images.
    """
    held = [split for split in ("validation", "test") if split not in found.splits]
    total = sum(found.total(split) for split in found.splits)
    if total < LEAST_IMAGES:
        raise UserError(f"--images: {counted(total, 'image')} in all; at least {LEAST_IMAGES} are needed")
    least = 1 + len(held)
    if few := [name for name, count in found.counts["train"].items() if count < least]:
        raise UserError(
            f"--images: {listed(few)}: fewer than {least} images; {' and '.join(held)} are taken out of each class, so "
            "add images or remove the folder"
        )
    parts = [f"{split} {found.total(split)}" for split in found.splits]
    note = f"images: {', '.join(parts)}"
    if held:
        note += f"; {' and '.join(held)} held back from train, {HELD_OUT_SHARE:.0%} of each class"
        note += " (validation from the images that test leaves)" if len(held) == 2 else ""
    return held, note


def _split_sizes(found: _Found, held: list[str]) -> tuple[int, int]:
    """Return the approximate number of images of train and of validation."""
    train = found.total("train") * (1 - HELD_OUT_SHARE) ** len(held)
    validation = train / (1 - HELD_OUT_SHARE) * HELD_OUT_SHARE if "validation" in held else found.total("validation")
    return round(train), round(validation)


def _model_settings(model: str) -> dict[str, str]:
    """Return ``model`` of the spec.

    Raises:
        UserError: the name has no weights.
    """
    if model == "world" or model.startswith("hf-hub:"):
        return {"architecture": model}
    if model.startswith("local-dir:"):
        return {"architecture": f"local-dir:{Path(model.removeprefix('local-dir:')).expanduser().absolute()}"}
    architecture, colon, pretrained = model.partition(":")
    if not colon or not pretrained:
        raise UserError(
            f"--model {model}: write ARCHITECTURE:TAG (for instance {DEFAULT_MODEL}), ARCHITECTURE:CHECKPOINT, "
            "local-dir:FOLDER or hf-hub:NAME"
        )
    if pretrained.endswith(WEIGHT_SUFFIXES):
        pretrained = str(Path(pretrained).expanduser().absolute())
    return {"architecture": architecture, "pretrained": pretrained}

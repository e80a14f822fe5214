"""Photographs on which words were really written: RTA-100, PAINT, Disentangling, SCAM."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainables.data.listing import Listing
from trainables.data.readers.class_names import SetError, counted, listed
from trainables.data.readers.samples import Sample, is_image, listing_of
from trainables.data.readers.templates import DISENTANGLING, PHOTO, templates_of
from trainables.settings.sets import DisentanglingSet, ScamSet, Templates, WrittenLabelSet

_LABELLED = re.compile(r"label=(?P<label>.+)_text=(?P<text>.+)\.[^.]+")


def list_labelled(settings: WrittenLabelSet) -> Listing:
    """RTA-100 (Azuma and Matsui 2023) and PAINT (Ilharco et al. 2022): ``label=<true>_text=<written>.jpg``.

    Classes are the sorted union of labels and texts, spelled as in the file names. Raises SetError for an image
    with another name.
    """
    try:
        names = sorted(name for name in os.listdir(settings.path) if is_image(name))
    except OSError as error:
        raise SetError(f"{settings.path}: {error.strerror}", "path") from error
    matches = {name: _LABELLED.fullmatch(name) for name in names}
    if strange := [name for name, match in matches.items() if match is None]:
        message = f"{settings.path}: {listed(strange)} is not named label=<true>_text=<written>"
        raise SetError(message, "path")
    samples = [
        Sample(name, match["label"], os.path.join(settings.path, name), written=match["text"])
        for name, match in matches.items()
        if match is not None
    ]
    if not samples:
        raise SetError(f"no images named label=<true>_text=<written>.jpg in {settings.path}", "path")
    return _listing(samples, [], settings.templates, PHOTO)


def list_disentangling(settings: DisentanglingSet) -> Listing:
    """Materzynska et al. 2022: ``annotations.json`` and ``classes.json`` in the folder (or in
    ``typographic_attack_dataset`` below it), images there or in ``images``.

    Classes are the sorted union of true objects, written words and ``classes.json`` (a list, or a mapping whose keys
    are the names). Photographs without a word (an empty or missing typographic attack label) are left out: this is a
    set of attacked images. Raises SetError.
    """
    path = settings.path
    if (path / "typographic_attack_dataset").is_dir():
        path = path / "typographic_attack_dataset"
    # The authors' page calls the file annotation.json, the archive annotations.json.
    file = next((path / name for name in ("annotations.json", "annotation.json") if (path / name).is_file()), None)
    if file is None:
        raise SetError(f"no annotations.json in {path}", "path")
    annotations = _json(file)
    if not isinstance(annotations, dict):
        raise SetError(f"{file} is no mapping from image to its labels", "path")
    known = _json(path / "classes.json") if (path / "classes.json").is_file() else []
    images = path / "images" if (path / "images").is_dir() else path
    samples = []
    for name, one in sorted(annotations.items()):
        label = one.get("true object") if isinstance(one, dict) else None
        if not isinstance(label, str) or not label:
            raise SetError(f"{file}: {name} has no `true object`", "path")
        if written := one.get("typographic attack label"):
            samples.append(Sample(name, label, str(images / name), written=str(written)))
    if not samples:
        raise SetError(f"{file} names no image with a typographic attack label", "path")
    return _listing(samples, map(str, known), settings.templates, DISENTANGLING)


def list_scam(settings: ScamSet) -> Listing:
    """SCAM (arXiv 2504.04893): the images of ``settings.attack``. Classes are the sorted union of objects and words of
    the whole set, so that handwritten, synthetic and clean images have the same ones. Raises SetError."""
    scenes, words = _scenes(settings.path)
    samples = list(scenes.get(settings.attack, {}).values())
    if not samples:
        raise SetError(
            f"no image of type {settings.attack} in {settings.path}; there are {listed(list(scenes))}", "path"
        )
    return _listing(samples, words, settings.templates, PHOTO)


def list_scam_clean(settings: ScamSet) -> Listing | None:
    """The same scenes without a word, in the same order, with the same keys, labels and (unwritten) words; None where
    the folder holds none. Raises SetError where some of them lack."""
    scenes, words = _scenes(settings.path)
    clean, attacked = scenes.get("NoSCAM", {}), scenes.get(settings.attack, {})
    if not clean:
        return None
    if missing := [key for key in attacked if key not in clean]:
        count = counted(len(missing), "scene")
        raise SetError(f"{count} of {settings.path} without a NoSCAM image: {listed(missing)}", "path")
    samples = [clean[key]._replace(class_id=one.class_id, written=one.written) for key, one in attacked.items()]
    return _listing(samples, words, settings.templates, PHOTO)


def _scenes(path: Path) -> tuple[dict[str, dict[str, Sample]], set[str]]:
    """Samples by type and scene, and all objects and words."""
    own = path / "metadata.jsonl"
    files = [own] if own.is_file() else sorted(path.glob("**/metadata.jsonl"))
    if not path.is_dir():
        raise SetError(f"the folder {path} does not exist", "path")
    if not files:
        message = f"no metadata.jsonl in {path} or below; export the set as an image folder (Hugging Face `datasets`)"
        raise SetError(message, "path")
    scenes: dict[str, dict[str, Sample]] = {}
    words: set[str] = set()
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                kind, label, word = str(row["type"]), str(row["object_label"]), str(row["attack_word"] or "")
                image = file.parent / row["file_name"]
                key = str(row.get("id", image.stem)).removeprefix(kind).lstrip("_-: ")
            except (ValueError, TypeError, KeyError) as error:
                message = f"{file}, line {number}: {error!r}; file_name, type, object_label, attack_word are needed"
                raise SetError(message, "path") from error
            if key in scenes.setdefault(kind, {}):
                raise SetError(f"{file}, line {number}: a second {kind} image of the scene {key!r}", "path")
            if kind != "NoSCAM" and not word:
                raise SetError(f"{file}, line {number}: `attack_word` is empty", "path")
            scenes[kind][key] = Sample(key, label, str(image), written=word)
            words |= {label, word} - {""}
    return {kind: dict(sorted(found.items())) for kind, found in scenes.items()}, words


def _listing(samples: list[Sample], further: Iterable[str], templates: Templates, literature: str) -> Listing:
    written = {one.written for one in samples if one.written is not None}
    names = sorted({one.class_id for one in samples} | written | set(further))
    return listing_of(samples, names, tuple(names), templates_of(templates, literature))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetError(f"{file} cannot be read as JSON: {error}", "path") from error

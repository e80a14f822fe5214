"""Photographs on which words were really written: RTA-100, PAINT, Disentangling, SCAM."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.listing import Listing
from trainables.data.readers.class_names import SetError, counted, listed
from trainables.data.readers.reader import Reader
from trainables.data.readers.samples import Sample, is_image, listing_of
from trainables.data.readers.templates import DISENTANGLING, PHOTO, templates_of
from trainables.settings.sets import DisentanglingSet, ScamSet, Split, TypographicSet, WrittenLabelSet

_LABELLED = re.compile(r"label=(?P<label>.+)_text=(?P<text>.+)\.[^.]+")


@dataclass(frozen=True)
class WrittenLabelReader(Reader):
    """RTA-100 (Azuma and Matsui 2023) and PAINT (Ilharco et al. 2022): ``label=<true>_text=<written>.jpg``.

    Classes are the sorted union of labels and texts, spelled as in the file names. An image with another name is an
    error.
    """

    settings: WrittenLabelSet

    def class_names(self) -> tuple[str, ...]:
        return self._listing().class_names

    def list_images(self, split: Split) -> Listing:
        assert split == "test", "the settings have no other split"
        return self._listing()

    def _listing(self) -> Listing:
        path = self.settings.path
        try:
            names = sorted(name for name in os.listdir(path) if is_image(name))
        except OSError as error:
            raise SetError(f"{path}: {error.strerror}", "path") from error
        matches = {name: _LABELLED.fullmatch(name) for name in names}
        if strange := [name for name, match in matches.items() if match is None]:
            raise SetError(f"{path}: {listed(strange)} is not named label=<true>_text=<written>", "path")
        samples = [
            Sample(name, match["label"], os.path.join(path, name), written=match["text"])
            for name, match in matches.items()
            if match is not None
        ]
        if not samples:
            raise SetError(f"no images named label=<true>_text=<written>.jpg in {path}", "path")
        return _listing(self.settings, samples, [], PHOTO)


@dataclass(frozen=True)
class DisentanglingReader(Reader):
    """Materzynska et al. 2022: ``annotations.json`` and ``classes.json`` in the folder (or in
    ``typographic_attack_dataset`` below it), images there or in ``images``.

    Classes are the sorted union of true objects, written words and ``classes.json`` (a list, or a mapping whose keys
    are the names). Photographs without a word (an empty or missing typographic attack label) are left out: this is a
    set of attacked images.
    """

    settings: DisentanglingSet

    def class_names(self) -> tuple[str, ...]:
        return self._listing().class_names

    def list_images(self, split: Split) -> Listing:
        assert split == "test", "the settings have no other split"
        return self._listing()

    def _listing(self) -> Listing:
        path = self.settings.path
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
        for name, annotation in sorted(annotations.items()):
            label = annotation.get("true object") if isinstance(annotation, dict) else None
            if not isinstance(label, str) or not label:
                raise SetError(f"{file}: {name} has no `true object`", "path")
            if written := annotation.get("typographic attack label"):
                samples.append(Sample(name, label, str(images / name), written=str(written)))
        if not samples:
            raise SetError(f"{file} names no image with a typographic attack label", "path")
        return _listing(self.settings, samples, map(str, known), DISENTANGLING)


@dataclass(frozen=True)
class ScamReader(Reader):
    """SCAM (arXiv 2504.04893). Classes are the sorted union of objects and words of the whole set, so that
    handwritten, synthetic and clean images have the same ones."""

    settings: ScamSet

    def class_names(self) -> tuple[str, ...]:
        return self._listing().class_names

    def list_images(self, split: Split) -> Listing:
        assert split == "test", "the settings have no other split"
        return self._listing()

    def list_clean(self) -> Listing | None:
        """Raises SetError where some of the attacked scenes have no clean image."""
        settings = self.settings
        scenes, words = _scenes(settings.path)
        clean, attacked = scenes.get("NoSCAM", {}), scenes.get(settings.attack, {})
        if not clean:
            return None
        if missing := [key for key in attacked if key not in clean]:
            count = counted(len(missing), "scene")
            raise SetError(f"{count} of {settings.path} without a NoSCAM image: {listed(missing)}", "path")
        samples = [
            clean[key]._replace(class_id=sample.class_id, written=sample.written) for key, sample in attacked.items()
        ]
        return _listing(settings, samples, words, PHOTO)

    def _listing(self) -> Listing:
        settings = self.settings
        scenes, words = _scenes(settings.path)
        samples = list(scenes.get(settings.attack, {}).values())
        if not samples:
            message = f"no image of type {settings.attack} in {settings.path}; there are {listed(list(scenes))}"
            raise SetError(message, "path")
        return _listing(settings, samples, words, PHOTO)


def _scenes(path: Path) -> tuple[dict[str, dict[str, Sample]], set[str]]:
    """Return the samples by type (SCAM, SynthSCAM, NoSCAM) and key of the scene, and all objects and words.

    Raises SetError.
    """
    top = path / "metadata.jsonl"
    files = [top] if top.is_file() else sorted(path.glob("**/metadata.jsonl"))
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
    return {kind: dict(sorted(samples.items())) for kind, samples in scenes.items()}, words


def _listing(settings: TypographicSet, samples: list[Sample], further: Iterable[str], literature: str) -> Listing:
    """Return the listing of ``samples``. Classes are their objects and words, and the ``further`` names."""
    written = {sample.written for sample in samples if sample.written is not None}
    names = sorted({sample.class_id for sample in samples} | written | set(further))
    templates = templates_of(settings.templates, literature)
    return listing_of(samples, names, tuple(names), templates, settings.max_broken_share)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetError(f"{file} cannot be read as JSON: {error}", "path") from error

"""Photographs of scenes with really written words: RTA-100, PAINT, Disentangling, SCAM."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.listing import Listing
from trainables.data.readers.class_names import (
    Named,
    SetError,
    Spellings,
    counted,
    json_of,
    listed,
    one_spelling,
    os_problem,
    printable,
    text_of,
    without_copy_mark,
)
from trainables.data.readers.not_read import not_read
from trainables.data.readers.reader import Reader
from trainables.data.readers.samples import Sample, holds_bytes, is_image, listing_of
from trainables.data.readers.templates import DISENTANGLING, PHOTO, templates_of
from trainables.settings.sets import DisentanglingSet, ScamSet, Split, TypographicSet, WrittenLabelSet
from trainables.spelling import is_missing, is_no_word, normal_form
from trainables.text_files import TextFileError, json_lines

_LABELLED = re.compile(r"label=(?P<label>.+)_text=(?P<text>.+)\.[^.]+")


@dataclass(frozen=True)
class WrittenLabelReader(Reader):
    """Reader of RTA-100 (Azuma and Matsui 2023) and PAINT (Ilharco et al. 2022): ``label=<true>_text=<written>.jpg``.

    Classes are the sorted union of labels and texts, spelled as in the file names. An image with another name is an
    error. A browser's mark of a copy (``dog (1)``) is not a part of the text if ``dog`` is a class, else an error.
    """

    settings: WrittenLabelSet

    def class_names(self) -> tuple[str, ...]:
        return self._listing().class_names

    def list_images(self, split: Split) -> Listing:
        assert split == "test", "the settings have no other split"
        return self._listing()

    def notes(self) -> list[str]:
        samples = self._samples()
        copies = [sample for sample in samples if f"_text={sample.written}." not in sample.key]
        lines = []
        if copies:
            first = f"{copies[0].key} as {copies[0].written!r}"
            lines.append(
                f"{counted(len(copies), 'file name')} with a browser's or desktop's mark of a copy: read {first}"
            )
        return [*lines, *_spellings(samples, []).notes, *not_read(self.settings.path, 0)]

    def _listing(self) -> Listing:
        return _listing(self.settings, self._samples(), [], PHOTO)

    def _samples(self) -> list[Sample]:
        path = self.settings.path
        try:
            with os.scandir(path) as entries:
                names = sorted(entry.name for entry in entries if is_image(entry.name) and holds_bytes(entry))
        except OSError as error:
            raise SetError(os_problem(error, path), "path") from error
        if unreadable := [printable(name) for name in names if printable(name) != name]:
            raise SetError(f"{path}: {listed(unreadable)} is not UTF-8, but names classes; rename it", "path")
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
        labels = {normal_form(sample.class_id) for sample in samples}
        texts = {normal_form(sample.written or "") for sample in samples}
        return [self._without_mark(sample, labels, texts) for sample in samples]

    def _without_mark(self, sample: Sample, labels: set[str], texts: set[str]) -> Sample:
        """Return the sample without a copy's mark at the end of its text. Labels and texts are in normal form."""
        written = sample.written or ""
        word = without_copy_mark(written)
        if word == written or normal_form(written) in labels:
            return sample
        if normal_form(word) not in (labels | texts):
            raise SetError(
                f"{self.settings.path}: is {sample.key} a copy made by a browser? Nothing else is called {word!r}; "
                f"rename the file, to _text={word} or to a text without such a mark",
                "path",
            )
        return sample._replace(written=word)


@dataclass(frozen=True)
class DisentanglingReader(Reader):
    """Reader of the Disentangling set (Materzynska et al. 2022): ``annotations.json``, ``classes.json`` and images.

    The files lie in the folder or in ``typographic_attack_dataset`` below it, images there or in ``images``. Classes
    are the sorted union of true objects, written words and ``classes.json`` (a list, or a mapping whose keys are the
    names). Photographs without a word (no typographic attack label) are left out: this is a set of attacked images.
    """

    settings: DisentanglingSet

    def class_names(self) -> tuple[str, ...]:
        return self._listing().class_names

    def list_images(self, split: Split) -> Listing:
        assert split == "test", "the settings have no other split"
        return self._listing()

    def notes(self) -> list[str]:
        return _spellings(*self._samples()).notes

    def _listing(self) -> Listing:
        samples, known = self._samples()
        return _listing(self.settings, samples, known, DISENTANGLING)

    def _samples(self) -> tuple[list[Sample], list[str]]:
        """Return the photographs with a word, and the names of ``classes.json``.

        Raises:
            SetError: the set cannot be read.
        """
        path = self.settings.path
        if (path / "typographic_attack_dataset").is_dir():
            path = path / "typographic_attack_dataset"
        # The authors' page calls the file annotation.json, the archive annotations.json.
        file = next((path / name for name in ("annotations.json", "annotation.json") if (path / name).is_file()), None)
        if file is None:
            raise SetError(f"no annotations.json in {path}", "path")
        annotations = json_of(file, "path")
        if not isinstance(annotations, dict):
            raise SetError(f"{file} is not a mapping from image to its labels", "path")
        known = json_of(path / "classes.json", "path") if (path / "classes.json").is_file() else []
        images = path / "images" if (path / "images").is_dir() else path
        samples = []
        for name, annotation in sorted(annotations.items()):
            label = annotation.get("true object") if isinstance(annotation, dict) else None
            if not isinstance(label, str) or not label:
                raise SetError(f"{file}: {name} has no `true object`", "path")
            written = annotation.get("typographic attack label")
            if not is_no_word(written):
                samples.append(Sample(name, label, str(images / name), written=str(written)))
        if not samples:
            raise SetError(f"{file} names no image with a typographic attack label", "path")
        return samples, list(map(str, known))


@dataclass(frozen=True)
class ScamReader(Reader):
    """Reader of SCAM (arXiv 2504.04893).

    Classes are the sorted union of objects and words of the whole set, so that handwritten, synthetic and clean images
    have the same classes.
    """

    settings: ScamSet

    def class_names(self) -> tuple[str, ...]:
        return self._listing().class_names

    def list_images(self, split: Split) -> Listing:
        assert split == "test", "the settings have no other split"
        return self._listing()

    def notes(self) -> list[str]:
        scenes, words = _scenes(self.settings.path)
        return _spellings(list(scenes.get(self.settings.attack, {}).values()), sorted(words)).notes

    def list_clean(self) -> Listing | None:
        """Return the scenes without words, see ``Reader.list_clean``.

        Raises:
            SetError: some of the attacked scenes have no clean image.
        """
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

    Raises:
        SetError: the set cannot be read.
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
        for place, row in _rows(file):
            needed = ("file_name", "type", "object_label", "attack_word")
            if missing := [name for name in needed if name not in row]:
                raise SetError(f"{place}: no {missing[0]}; {', '.join(needed)} are needed", "path")
            kind, label = str(row["type"]), str(row["object_label"])
            word = "" if is_no_word(row["attack_word"]) else str(row["attack_word"])
            image = file.parent / str(row["file_name"])
            key = str(row.get("id", image.stem)).removeprefix(kind).lstrip("_-: ")
            if key in scenes.setdefault(kind, {}):
                raise SetError(f"{place}: a second {kind} image of the scene {key!r}", "path")
            if is_missing(row["object_label"]):
                raise SetError(f"{place}: `object_label` is empty", "path")
            if kind != "NoSCAM" and not word:
                raise SetError(f"{place}: `attack_word` is empty", "path")
            scenes[kind][key] = Sample(key, label, str(image), written=word)
            words |= {label, word} - {""}
    return {kind: dict(sorted(samples.items())) for kind, samples in scenes.items()}, words


def _listing(settings: TypographicSet, samples: list[Sample], further: Iterable[str], literature: str) -> Listing:
    """Return the listing of ``samples``. Classes are their objects and words, and the ``further`` names."""
    used = _spellings(samples, further).used
    samples = [
        sample._replace(
            class_id=used[sample.class_id], written=None if sample.written is None else used.get(sample.written, "")
        )
        for sample in samples
    ]
    names = sorted(set(used.values()))
    templates = templates_of(settings.templates, literature)
    return listing_of(samples, names, tuple(names), templates, settings.max_broken_share)


def _spellings(samples: Sequence[Sample], further: Iterable[str]) -> Spellings:
    """Return the classes of a set: its objects and words, and the ``further`` names.

    All spellings of a name are one class: no set has two classes that differ only in their capitals.
    """
    written = {sample.written for sample in samples if sample.written is not None}
    words = {sample.class_id for sample in samples} | written | set(further)
    return one_spelling(Named(word) for word in sorted(words))


def _rows(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of a file of JSON lines, each with its place.

    Raises:
        SetError: the file cannot be read.
    """
    try:
        return list(json_lines(file, text_of(file, "path")))
    except TextFileError as error:
        raise SetError(str(error), "path") from error

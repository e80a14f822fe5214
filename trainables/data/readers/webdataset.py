"""WebDataset shards: tar files whose members ``<key>.jpg`` and ``<key>.cls`` (or ``<key>.txt``) belong together.

Listing reads only the headers of the members; each process then reads an image from its place in the shard.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trainables.data.listing import Listing
from trainables.data.readers.class_names import SetError, checked, counted, words_in
from trainables.data.readers.reader import Reader
from trainables.data.readers.samples import Sample, hold_back, listing_of
from trainables.data.readers.templates import templates_of
from trainables.settings.sets import SPLITS, HeldBack, Split, WebDatasetSet

IMAGES = ("jpg", "jpeg", "png", "webp")
CLASS_INDEX, CLASS_NAME = "cls", "txt"
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAMES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_INDEX = "index "
"""Marks a class id that is an index (of a ``cls`` member) until the names are known."""
READING_THREADS = 8


def shards_of(patterns: Sequence[str], split: str) -> list[Path]:
    """Return the files that patterns name: ``{000..127}`` and ``{a,b}`` as in a shell, then ``*``. Raises SetError."""
    shards: list[Path] = []
    for index, pattern in enumerate(patterns):
        for path in _braces(pattern):
            matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
            files = [Path(match) for match in matches if os.path.isfile(match)]
            if not files:
                raise SetError(f"no shard {path}" + (f" (from {pattern})" if path != pattern else ""), split, index)
            shards += files
    return shards


@dataclass(frozen=True)
class WebDatasetReader(Reader):
    settings: WebDatasetSet

    def class_names(self) -> tuple[str, ...] | None:
        """Return ``class_names`` of the settings; None where the shards have the names. Raises SetError."""
        names = self.settings.class_names
        if isinstance(names, Path):
            return tuple(words_in(names))
        return checked(names) if names is not None else None

    def list_images(self, split: Split) -> Listing:
        """Without ``class_names``, classes are the words in ``txt`` members of all splits, sorted."""
        settings, names = self.settings, self.class_names()
        if names is None:
            names = self._names_in_shards()
        held_back = settings.validation if isinstance(settings.validation, HeldBack) and split != "test" else None
        samples = [_named(sample, names) for sample in self._samples("train" if held_back else split)]
        if held_back is not None:
            samples = hold_back(samples, held_back, split)
        if not samples:
            raise SetError(f"no images in the {split} shards", split)
        left_out: list[str] = []
        values: list[str] = []
        if settings.attribute_key is not None:
            found = {sample.value or "" for part in SPLITS for sample in self._samples(part)} - {""}
            values = sorted(found) if settings.values is None else list(settings.values)
            if len(values) < 2:
                raise SetError(f"fewer than two values in {settings.attribute_key} members", "attribute_key")
            left_out = [f"{one.key}: its value {one.value!r} is not used" for one in samples if one.value not in values]
            samples = [sample for sample in samples if sample.value in values]
        words = settings.values or {value: value for value in values}
        return listing_of(
            samples,
            names,
            names,
            templates_of(settings.templates),
            settings.max_broken_share,
            value_ids=values,
            value_names=tuple(words[value] for value in values),
            left_out=left_out,
        )

    def _names_in_shards(self) -> tuple[str, ...]:
        labels = {sample.class_id for split in SPLITS for sample in self._samples(split)}
        if any(label.startswith(_INDEX) for label in labels):
            raise SetError("the shards hold class indices (.cls); say their words in class_names")
        if len(labels) < 2:
            raise SetError(f"only one class ({', '.join(labels)}); two classes or more are needed")
        return tuple(sorted(labels))

    def _samples(self, split: Split) -> list[Sample]:
        shards = shards_of(self.settings.shards(split), split)
        with ThreadPoolExecutor(READING_THREADS) as pool:
            parts = pool.map(lambda shard: _members(shard, *_version(shard), self.settings.attribute_key), shards)
            return [sample for part in parts for sample in part]


def _braces(pattern: str) -> list[str]:
    braces = _NUMBERS.search(pattern) or _NAMES.search(pattern)
    if braces is None:
        return [pattern]
    if braces.re is _NUMBERS:
        parts = [str(number).zfill(len(braces[1])) for number in range(int(braces[1]), int(braces[2]) + 1)]
    else:
        parts = braces[1].split(",")
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [path for part in parts for path in _braces(before + part + after)]


def _named(sample: Sample, names: tuple[str, ...]) -> Sample:
    """Return the sample with the name of its class as its class id. Raises SetError."""
    if not sample.class_id.startswith(_INDEX):
        if sample.class_id not in names:
            raise SetError(f"{sample.file}, {sample.key}: {sample.class_id!r} is none of class_names", "class_names")
        return sample
    index = int(sample.class_id.removeprefix(_INDEX))
    if index >= len(names):
        message = f"{sample.file}, {sample.key}: class {index}, but class_names has {counted(len(names), 'name')}"
        raise SetError(message, "class_names")
    return sample._replace(class_id=names[index])


def _version(shard: Path) -> tuple[int, int]:
    stat = shard.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=4096)
def _members(shard: Path, size: int, changed_ns: int, attribute_key: str | None) -> tuple[Sample, ...]:
    """Return the samples of a shard, whose class ids are the text of their ``cls`` or ``txt`` member.

    ``size`` (bytes) and ``changed_ns`` only tell versions of the shard apart in the cache of this function.
    Raises SetError.
    """
    images: dict[str, tuple[int, int]] = {}
    texts: dict[str, dict[str, str]] = {CLASS_INDEX: {}, CLASS_NAME: {}, attribute_key or "": {}}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name = os.path.basename(member.name)
                if not member.isfile() or name.startswith("."):
                    continue
                stem, _, suffix = name.partition(".")
                key, suffix = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), stem)), suffix.lower()
                if suffix in IMAGES:
                    images[key] = member.offset_data, member.size
                elif suffix in texts:
                    content = archive.extractfile(member)
                    assert content is not None
                    texts[suffix][key] = content.read().decode().strip()
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise SetError(f"{shard} cannot be read as an uncompressed tar: {error}") from error
    if wrong := [f"{key}: {text!r}" for key, text in texts[CLASS_INDEX].items() if not text.isdecimal()]:
        raise SetError(f"{shard}: the .cls member of {wrong[0]} is no class index (names belong into .txt)")
    # Where a sample has both, its txt is a caption.
    labels = texts[CLASS_NAME] | {key: _INDEX + text for key, text in texts[CLASS_INDEX].items()}
    for key in images:
        if not labels.get(key):
            raise SetError(f"{shard}: the image {key} has no .cls and no .txt member that says its class")
    if orphans := [key for key in labels if key not in images]:
        raise SetError(f"{shard}: {orphans[0]} has a class but no image ({', '.join(IMAGES)})")
    return tuple(
        Sample(
            f"{shard.name}/{key}", labels[key], str(shard), offset, length, value=texts[attribute_key or ""].get(key)
        )
        for key, (offset, length) in images.items()
    )

"""WebDataset shards: tar files whose members ``<key>.jpg`` and ``<key>.cls`` (or ``<key>.txt``) belong together.

Listing reads only the headers of the members; each process then reads an image from its position in the shard.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from trainables.data.listing import Listing
from trainables.data.readers.class_names import (
    Named,
    SetError,
    checked,
    counted,
    one_spelling,
    os_problem,
    printable,
    words_in,
)
from trainables.data.readers.reader import Reader
from trainables.data.readers.samples import IMAGE_SUFFIXES, Sample, hold_back, is_image, listing_of
from trainables.data.readers.templates import templates_of
from trainables.settings.sets import SPLITS, HeldBack, Split, WebDatasetSet
from trainables.spelling import label_form, same_word
from trainables.text_files import LFS_POINTER, names_lfs_pointer

IMAGES = ("jpg", "jpeg", "png", "webp")
_FURTHER_IMAGES = {suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES} - set(IMAGES)
"""Suffixes read only if a sample has none of ``IMAGES``: beside such an image they may be masks."""
CLASS_INDEX, CLASS_NAME = "cls", "txt"
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAMES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_MEND = "spell both alike, or name the classes in class_names"
_INDEX = "index "
"""Prefix of a class id that is an index (of a ``cls`` member) until the names are known."""
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
"""Beginnings of gzip, xz, bzip2, zstandard and zip files."""
_LONGEST_INDEX = 9
"""Longest index of a class, in digits."""
READING_THREADS = 8


def shards_of(patterns: Sequence[str], split: str) -> list[Path]:
    """Return the files that patterns name: ``{000..127}`` and ``{a,b}`` as in a shell, then ``*``.

    Existing names are taken literally, folder by folder: ``photos [v2]/*.tar`` names the shards in that folder.

    Raises:
        SetError: no file has the name.
    """
    shards: list[Path] = []
    for index, pattern in enumerate(patterns):
        if os.path.isfile(pattern):
            shards.append(Path(pattern))
            continue
        folder, rest = _existing(pattern)
        for name in _braces(rest):
            files = [Path(match) for match in _matches(folder, name.split("/")) if os.path.isfile(match)]
            if not files:
                path = os.path.join(folder, name)
                raise SetError(f"no shard {path}" + (f" (from {pattern})" if path != pattern else ""), split, index)
            shards += files
    return shards


def _existing(pattern: str) -> tuple[str, str]:
    """Return the longest beginning of a pattern that is a folder, and the rest."""
    parts = pattern.split("/")
    for end in range(len(parts) - 1, 0, -1):
        folder = "/".join(parts[:end]) or "/"
        if os.path.isdir(folder):
            return folder, "/".join(parts[end:])
    return "", pattern


def _matches(folder: str, parts: Sequence[str]) -> list[str]:
    """Return the matches of ``parts`` in ``folder``, sorted: existing names, else patterns (``*``, ``?``, ``[ ]``)."""
    if not parts:
        return [folder]
    literal = os.path.join(folder, parts[0])
    if os.path.lexists(literal) or not glob.has_magic(parts[0]):
        return _matches(literal, parts[1:])
    found = sorted(glob.glob(os.path.join(glob.escape(folder), parts[0])))
    return [match for path in found for match in _matches(path, parts[1:])]


@dataclass(frozen=True)
class WebDatasetReader(Reader):
    settings: WebDatasetSet

    def class_names(self) -> tuple[str, ...] | None:
        """Return ``class_names`` of the settings; None if the shards hold the names.

        Raises:
            SetError: the names cannot be read.
        """
        names = self.settings.class_names
        if isinstance(names, Path):
            return tuple(words_in(names))
        if names is None:
            return None
        return checked(names, where=lambda index: ("class_names", index))

    def list_images(self, split: Split) -> Listing:
        """Return the images of a split. Without ``class_names``, classes are the sorted ``txt`` members of all splits.

        Raises:
            SetError: the shards cannot be read, or a class is unknown.
        """
        settings, names = self.settings, self.class_names()
        if names is None:
            names = self._names_in_shards()
        held_back = settings.validation if isinstance(settings.validation, HeldBack) and split != "test" else None
        read = self._samples("train" if held_back else split)
        if not read:
            raise SetError(f"no images in the {split} shards{self._reasons()}", split)
        first = {sample.class_id: sample for sample in reversed(read)}
        class_ids = {class_id: _class_of(sample, names) for class_id, sample in first.items()}
        samples = [sample._replace(class_id=class_ids[sample.class_id]) for sample in read]
        if held_back is not None:
            samples = hold_back(samples, held_back, split)
        left_out: list[str] = []
        values: list[str] = []
        if settings.attribute_key is not None:
            values = self._values() if settings.values is None else list(settings.values)
            if len(values) < 2:
                raise SetError(f"fewer than two values in {settings.attribute_key} members", "attribute_key")
            used = {value: same_word(value, values) for value in {sample.value or "" for sample in samples}}
            samples = [sample._replace(value=used[sample.value or ""] or sample.value) for sample in samples]
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

    def notes(self) -> list[str]:
        spellings = one_spelling(self._labels(), mend=_MEND).notes if self.class_names() is None else []
        if self.settings.attribute_key is not None and self.settings.values is None:
            spellings = [*spellings, *one_spelling(self._found_values()).notes]
        lines = []
        for split in SPLITS:
            left = [(shard, _not_read(*_key_of(shard))) for shard in self._shards(split)]
            if links := [(shard, name) for shard, members in left for name in members.links]:
                count = "1 link is" if len(links) == 1 else f"{len(links)} links are"
                lines.append(f"{split}: {count} not read, first {links[0][1]} in {links[0][0]}")
            if dotted := [(shard, name) for shard, members in left for name in members.dotted]:
                shard, name = dotted[0]
                count = "1 image is" if len(dotted) == 1 else f"{len(dotted)} images are"
                key, _, rest = os.path.basename(name).partition(".")
                lines.append(
                    f"{split}: {count} not read, because a key ends at its first dot: {name} in {shard} has the key "
                    f"{key!r} and the suffix {rest!r}; if they are not further images of a sample, rename them "
                    "without dots"
                )
        return [*spellings, *lines]

    def _reasons(self) -> str:
        return "".join(f" ({note})" for note in self.notes()) if self.class_names() is not None else ""

    def _labels(self) -> list[Named]:
        """Return the classes that the shards name, split by split.

        Raises:
            SetError: a shard cannot be read or has class indices only.
        """
        labels = []
        for split in SPLITS:
            of_split = {sample.class_id for sample in self._samples(split)}
            labels += [Named(label, f"the .txt members of the {split} shards", (split,)) for label in sorted(of_split)]
        if any(label.name.startswith(_INDEX) for label in labels):
            raise SetError("the shards hold class indices (.cls); write their words in class_names")
        return labels

    def _found_values(self) -> list[Named]:
        values = [(split, sample.value or "") for split in SPLITS for sample in self._samples(split)]
        return [Named(value, f"the {split} shards", (split,)) for split, value in dict.fromkeys(values) if value]

    def _values(self) -> list[str]:
        return sorted(set(one_spelling(self._found_values()).used.values()))

    def _names_in_shards(self) -> tuple[str, ...]:
        labels = set(one_spelling(self._labels(), mend=_MEND).used.values())
        if len(labels) < 2:
            dotted = "".join(f"; {note}" for note in self.notes())
            raise SetError(f"only one class ({', '.join(labels)}); two classes or more are needed{dotted}")
        return tuple(sorted(labels))

    def _shards(self, split: Split) -> list[Path]:
        return shards_of(self.settings.shards(split), split)

    def _samples(self, split: Split) -> list[Sample]:
        with ThreadPoolExecutor(READING_THREADS) as pool:
            parts = pool.map(lambda shard: _members(*_key_of(shard), self.settings.attribute_key), self._shards(split))
            return [sample for part in parts for sample in part]


def _braces(pattern: str) -> Iterator[str]:
    """Yield the names that braces stand for; ``{3..1}`` counts down, as in a shell."""
    braces = _NUMBERS.search(pattern) or _NAMES.search(pattern)
    if braces is None:
        yield pattern
        return
    parts: Iterable[str] = braces[1].split(",")
    if braces.re is _NUMBERS:
        first, last = int(braces[1]), int(braces[2])
        step = 1 if first <= last else -1
        parts = (str(number).zfill(len(braces[1])) for number in range(first, last + step, step))
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    for part in parts:
        yield from _braces(before + part + after)


def _class_of(sample: Sample, names: tuple[str, ...]) -> str:
    """Return the name of the class of a sample.

    Raises:
        SetError: the class is unknown.
    """
    if not sample.class_id.startswith(_INDEX):
        name = same_word(sample.class_id, names)
        if name is None:
            raise SetError(f"{sample.file}, {sample.key}: {sample.class_id!r} is not one of class_names", "class_names")
        return name
    index = int(sample.class_id.removeprefix(_INDEX))
    if index >= len(names):
        message = f"{sample.file}, {sample.key}: class {index}, but class_names has {counted(len(names), 'name')}"
        raise SetError(message, "class_names")
    return names[index]


def _key_of(shard: Path) -> tuple[Path, int, int]:
    """Return a shard with its size in bytes and its time in ns, which identify its version."""
    stat = shard.stat()
    return shard, stat.st_size, stat.st_mtime_ns


class _Left(NamedTuple):
    """Members of a shard that are not read."""

    dotted: tuple[str, ...]
    """Images by their last suffix, but not by the text after the first dot."""
    links: tuple[str, ...]
    """Links to other members or to files."""


@lru_cache(maxsize=4096)
def _not_read(shard: Path, size: int, changed_ns: int) -> _Left:
    """Return the members that are not read.

    Raises:
        SetError: the shard cannot be read.
    """
    links: list[str] = []
    names = [os.path.basename(member.name) for member in _files_in(shard, links)]
    return _Left(tuple(printable(name) for name in names if name.count(".") > 1 and is_image(name)), tuple(links))


def _files_in(shard: Path, links: list[str] | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a shard, without hidden ones.

    Args:
        links: gets the names of links.

    Raises:
        SetError: the shard cannot be read.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isfile() and not os.path.basename(member.name).startswith("."):
                    yield member
                elif links is not None and (member.issym() or member.islnk()):
                    links.append(printable(member.name))
            end = archive.offset
        _refuse_further(shard, end)
    except (OSError, tarfile.TarError) as error:
        if names_lfs_pointer(shard):
            raise SetError(f"{shard} {LFS_POINTER}") from error
        with suppress(OSError), open(shard, "rb") as file:
            start = file.read(6)
            if any(start.startswith(magic) for magic in _COMPRESSED):
                raise SetError(
                    f"{shard} is compressed; unpack it, as images are read from their places in it"
                ) from error
        raise SetError(f"{shard} cannot be read as an uncompressed tar: {error}") from error


def _refuse_further(shard: Path, end: int) -> None:
    """Refuse a shard with content behind its last member, where Python's tarfile stops without an error.

    Args:
        end: position in bytes behind the last member.

    Raises:
        SetError: there is content: a damaged header, or a second tar that was appended by ``cat``.
        OSError: the shard cannot be read.
    """
    with open(shard, "rb") as file:
        file.seek(end)
        while block := file.read(2**20):
            if block.strip(b"\0"):
                raise SetError(
                    f"{shard}: its members end at byte {end}, and something else follows: it is damaged, or several "
                    "tars were joined; write it anew, or name the tars one by one"
                )


@lru_cache(maxsize=4096)
def _members(shard: Path, size: int, changed_ns: int, attribute_key: str | None) -> tuple[Sample, ...]:
    """Return the samples of a shard, whose class ids are the text of their ``cls`` or ``txt`` member.

    Args:
        size: size of the shard in bytes; only identifies its version in the cache of this function.
        changed_ns: time of the shard; as ``size``.

    Raises:
        SetError: the shard cannot be read, or a key is not unique.
    """
    images: dict[str, tuple[int, int]] = {}
    further: dict[str, tuple[int, int]] = {}
    named: dict[str, str] = {}
    """Key -> member that holds its image."""
    texts: dict[str, dict[str, str]] = {CLASS_INDEX: {}, CLASS_NAME: {}, attribute_key or "": {}}
    with _opened(shard) as file:
        for member in _files_in(shard):
            stem, _, suffix = os.path.basename(member.name).partition(".")
            key = printable(posixpath.normpath(posixpath.join(posixpath.dirname(member.name), stem)))
            suffix = suffix.lower()
            if suffix in IMAGES:
                if key in images:
                    members = f"{named[key]} and {printable(member.name)}"
                    raise SetError(f"{shard}: the key {key} has two images, {members}; a key names one sample")
                images[key], named[key] = (member.offset_data, member.size), printable(member.name)
            elif suffix in texts:
                if key in texts[suffix]:
                    raise SetError(f"{shard}: the key {key} has two .{suffix} members; a key names one sample")
                texts[suffix][key] = _text_in(file, shard, member)
            elif suffix in _FURTHER_IMAGES:
                further[key] = member.offset_data, member.size
    images |= {key: place for key, place in further.items() if key not in images}
    texts[CLASS_INDEX] = {key: label_form(text) for key, text in texts[CLASS_INDEX].items()}  # 1.0 of a table is 1
    if wrong := [
        f"{key}: {text[:40]!r}"
        for key, text in texts[CLASS_INDEX].items()
        if not text.isdecimal() or len(text) > _LONGEST_INDEX
    ]:
        raise SetError(f"{shard}: the .cls member of {wrong[0]} is not a class index (names belong in .txt)")
    # If a sample has both members, its txt is a caption.
    labels = texts[CLASS_NAME] | {key: _INDEX + text for key, text in texts[CLASS_INDEX].items()}
    for key in images:
        if not labels.get(key):
            raise SetError(f"{shard}: the image {key} has no .cls and no .txt member with its class")
    if orphans := [key for key in labels if key not in images]:
        raise SetError(f"{shard}: {orphans[0]} has a class but no image ({', '.join(IMAGES)})")
    return tuple(
        Sample(
            f"{shard.name}/{key}", labels[key], str(shard), offset, length, value=texts[attribute_key or ""].get(key)
        )
        for key, (offset, length) in images.items()
    )


def _opened(shard: Path) -> BinaryIO:
    try:
        return open(shard, "rb")
    except OSError as error:
        raise SetError(os_problem(error, shard)) from error


def _text_in(file: BinaryIO, shard: Path, member: tarfile.TarInfo) -> str:
    """Return the text of a member, stripped.

    Raises:
        SetError: it is not UTF-8.
    """
    file.seek(member.offset_data)
    try:
        return file.read(member.size).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise SetError(f"{shard}: the member {printable(member.name)} is not UTF-8 text") from error

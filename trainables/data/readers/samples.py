"""Images of a set as files or parts of files, before any is decoded: keys, splits, opening."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from trainables.data.listing import Listing
from trainables.data.readers.class_names import SetError, counted, os_problem, printable
from trainables.settings.sets import HeldBack, Split
from trainables.spelling import visible
from trainables.text_files import LFS_POINTER, names_lfs_pointer

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    *((".jp2", ".j2k", ".jpx", ".j2c") if features.check("jpg_2000") else ()),
    *((".avif",) if features.check("avif") else ()),
}
"""Suffixes of photographs that this build of Pillow decodes."""


class Sample(NamedTuple):
    """One image."""

    key: str
    """Name of the image, independent of the set's folder."""
    class_id: str
    file: str
    offset: int = 0
    size: int | None = None
    """Bytes of the image, from ``offset`` on; None for the whole file."""
    written: str | None = None
    """Class id of the word in the picture."""
    value: str | None = None
    """Attribute's value of the image."""


def listing_of(
    samples: Sequence[Sample],
    class_ids: Sequence[str],
    class_names: tuple[str, ...],
    templates: tuple[str, ...],
    max_broken_share: float,
    *,
    value_ids: Sequence[str] = (),
    value_names: tuple[str, ...] = (),
    left_out: Sequence[str] = (),
) -> Listing:
    """Return the listing of ``samples``, with labels as indices into ``class_ids`` and values into ``value_ids``.

    Raises:
        SetError: files are missing.
    """
    index = {class_id: i for i, class_id in enumerate(class_ids)}
    written = [index[sample.written] for sample in samples if sample.written is not None]
    assert len(written) in (0, len(samples)), "either all images of a set have a written word or none has"
    return Listing(
        keys=_distinct([sample.key for sample in samples]),
        labels=np.array([index[sample.class_id] for sample in samples], np.int64),
        class_names=tuple(map(visible, class_names)),
        templates=templates,
        inputs=_inputs(samples),
        open=lambda i: _open(samples[i]),
        max_broken_share=max_broken_share,
        written=np.array(written, np.int64) if written else None,
        values=np.array([value_ids.index(sample.value or "") for sample in samples], np.int64) if value_ids else None,
        value_names=value_names,
        left_out=tuple(left_out),
    )


def hold_back(samples: Sequence[Sample], settings: HeldBack, split: Split) -> list[Sample]:
    """Return the samples of ``split``, train or validation, from the training samples ``samples``.

    Raises:
        SetError: a class would have no training sample left.
    """
    rest, taken = held_out(samples, settings, "validation")
    return taken if split == "validation" else rest


def held_out(
    samples: Sequence[Sample], settings: HeldBack, part: Literal["validation", "test"]
) -> tuple[list[Sample], list[Sample]]:
    """Return the training samples that remain, and the samples that ``part`` takes out of them.

    A fixed number of samples is taken from each class; the choice does not depend on the order of ``samples``.

    Raises:
        SetError: a class would have no training sample left.
    """
    seed = f"held back/{settings.seed}" if part == "validation" else f"held back for {part}/{settings.seed}"
    taken: set[int] = set()
    for class_id, indices in _by_class(samples).items():
        count = settings.per_class if settings.share is None else max(1, round(settings.share * len(indices)))
        assert count is not None, "the settings ask for one of the two"
        if len(indices) <= count:
            key = "per_class" if settings.share is None else "share"
            message = (
                f"{part} takes {counted(count, 'image')} per class out of train, but the class {class_id!r} has "
                f"only {len(indices)}; lower {key}"
            )
            raise SetError(message, part, key)
        taken.update(_shuffled(samples, indices, seed)[:count])
    rest = [sample for i, sample in enumerate(samples) if i not in taken]
    return rest, [sample for i, sample in enumerate(samples) if i in taken]


def three_way(samples: Sequence[Sample]) -> dict[Split, list[Sample]]:
    """Return 50 % train, 20 % validation and 30 % test of each class, for sets that are published without splits."""
    part: dict[int, Split] = {}
    for indices in _by_class(samples).values():
        order = _shuffled(samples, indices, "split/0")
        first, second = round(0.5 * len(order)), round(0.7 * len(order))
        for rank, i in enumerate(order):
            part[i] = "train" if rank < first else "validation" if rank < second else "test"
    splits: dict[Split, list[Sample]] = {"train": [], "validation": [], "test": []}
    for i, sample in enumerate(samples):
        splits[part[i]].append(sample)
    return splits


def images_in(folder: Path | str, class_id: str) -> list[Sample]:
    """Return the image files of a class folder, sorted by name, without files of other kinds.

    Raises:
        SetError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if is_image(entry.name) and holds_bytes(entry))
    except OSError as error:
        raise SetError(os_problem(error, folder)) from error
    return [Sample(f"{class_id}/{printable(name)}", class_id, os.path.join(folder, name)) for name in names]


def is_image(name: str) -> bool:
    """Return whether a file is an image by its suffix; hidden files (``._x.jpg`` of a Mac's archive) are not."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def holds_bytes(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a file, or a link whose target is missing, which is reported later.

    Folders are none, and neither are pipes, sockets and devices: reading from a pipe would wait for ever.
    """
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # a link that leads to itself
        return True


def class_folders(root: Path) -> list[str]:
    """Return the names of the folders in ``root``, sorted, without hidden ones.

    Raises:
        OSError: the folder cannot be read.
        SetError: a name is not UTF-8 and could not be a word of prompts.
    """
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    for name in names:
        if printable(name) != name:
            raise SetError(f"{root}: the name of the folder {printable(name)} is not UTF-8; rename it")
    return names


def _open(sample: Sample) -> Image.Image:
    try:
        if sample.size is None:
            return Image.open(sample.file)
        with open(sample.file, "rb") as file:  # an open handle would share its position with forked processes
            file.seek(sample.offset)
            return Image.open(io.BytesIO(file.read(sample.size)))
    except UnidentifiedImageError:
        if names_lfs_pointer(sample.file, sample.offset):
            raise ValueError(LFS_POINTER) from None
        if (content := _content_of(sample)) is not None:
            raise ValueError(f"is {content}, not an image that can be read; save it as JPEG or PNG") from None
        raise


_CONTENTS = (
    (rb"\s*<(!doctype html|html|head|body)\b", "a web page"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg\b", "an SVG drawing"),
    (rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "a HEIC photograph"),
    (rb".{4}ftyp(avif|avis)", "an AVIF photograph"),
    (rb".{4}ftyp", "a video"),
    (rb"%PDF-", "a PDF"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"\0*$", "empty, or zeros only"),
)
"""The beginning of a file -> what it is."""


def _content_of(sample: Sample) -> str | None:
    """Return what an image file holds that is no image, by its first bytes; None if that is not known."""
    try:
        with open(sample.file, "rb") as file:
            file.seek(sample.offset)
            start = file.read(512 if sample.size is None else min(512, sample.size))
    except OSError:
        return None
    return next((what for form, what in _CONTENTS if re.match(form, start, re.IGNORECASE | re.DOTALL)), None)


def _inputs(samples: Sequence[Sample]) -> str:
    """Return a sha256 of all files: their sizes, times, and the ranges of bytes that are read."""
    digest = hashlib.sha256()
    stats: dict[str, os.stat_result] = {}
    missing = []
    for sample in samples:
        if sample.file not in stats:
            try:
                stats[sample.file] = os.stat(sample.file)
            except FileNotFoundError:
                missing.append(printable(sample.file))
                continue
            except OSError as error:
                raise SetError(os_problem(error, sample.file)) from error
        stat = stats[sample.file]
        part = f"{sample.file}\0{stat.st_size}\0{stat.st_mtime_ns}\0{sample.offset}\0{sample.size}\n"
        digest.update(part.encode(errors="surrogateescape"))
    if missing:
        raise SetError(f"{len(missing)} of {counted(len(samples), 'listed image')} not there, first {missing[0]}")
    return digest.hexdigest()


def _by_class(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """Return the indices of the samples of each class, or of each class and value if images have values."""
    indices: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        group = sample.class_id if sample.value is None else f"{sample.class_id}/{sample.value}"
        indices.setdefault(group, []).append(i)
    return indices


def _shuffled(samples: Sequence[Sample], indices: Sequence[int], seed: str) -> list[int]:
    """Return ``indices`` in the order of a hash of seed and key.

    The hash of an image is independent of the other images, so new files move few of the others into another split.
    """
    return sorted(indices, key=lambda i: hashlib.sha256(f"{seed}/{samples[i].key}".encode()).digest())


def _distinct(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the keys, with a number appended to repeated ones (same class and file name in two folders of a split)."""
    seen: dict[str, int] = {}
    distinct = []
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        distinct.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return tuple(distinct)

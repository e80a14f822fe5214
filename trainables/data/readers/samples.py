"""Images of a set as files or parts of files, before anything is decoded: keys, splits, opening."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainables.data.listing import Listing
from trainables.data.readers.class_names import SetError, counted
from trainables.settings.sets import HeldBack, Split

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class Sample(NamedTuple):
    """One image."""

    key: str
    """Independent of where the set lies."""
    class_id: str
    file: str
    offset: int = 0
    size: int | None = None
    """Bytes from ``offset`` on; the whole file when None."""
    written: str | None = None
    """The class id of the word in the picture."""


def listing_of(
    samples: Sequence[Sample], class_ids: Sequence[str], class_names: tuple[str, ...], templates: tuple[str, ...]
) -> Listing:
    """Raises SetError where files are missing."""
    index = {class_id: i for i, class_id in enumerate(class_ids)}
    written = [index[one.written] for one in samples if one.written is not None]
    assert len(written) in (0, len(samples)), "words on all images of a set or on none"
    return Listing(
        keys=_distinct([one.key for one in samples]),
        labels=np.array([index[one.class_id] for one in samples], np.int64),
        class_names=class_names,
        templates=templates,
        inputs=_inputs(samples),
        open=lambda i: _open(samples[i]),
        written=np.array(written, np.int64) if written else None,
    )


def hold_back(samples: Sequence[Sample], settings: HeldBack, split: Split) -> list[Sample]:
    """Train samples less those held back, or those held back: so many of each class, the same ones whatever order.

    Raises SetError where a class would keep nothing to train on.
    """
    taken: set[int] = set()
    for class_id, indices in _by_class(samples).items():
        count = settings.per_class if settings.share is None else max(1, round(settings.share * len(indices)))
        assert count is not None, "settings ask for one of the two"
        if len(indices) <= count:
            key = "per_class" if settings.share is None else "share"
            message = (
                f"validation takes {counted(count, 'image')} per class out of train, but the class {class_id!r} has "
                f"only {len(indices)}; lower {key}"
            )
            raise SetError(message, "validation", key)
        taken.update(_shuffled(samples, indices, f"held back/{settings.seed}")[:count])
    return [one for i, one in enumerate(samples) if (i in taken) == (split == "validation")]


def three_way(samples: Sequence[Sample]) -> dict[Split, list[Sample]]:
    """50 % train, 20 % validation, 30 % test of each class, for sets that are published without splits."""
    part: dict[int, Split] = {}
    for indices in _by_class(samples).values():
        order = _shuffled(samples, indices, "split/0")
        first, second = round(0.5 * len(order)), round(0.7 * len(order))
        for rank, i in enumerate(order):
            part[i] = "train" if rank < first else "validation" if rank < second else "test"
    splits: dict[Split, list[Sample]] = {"train": [], "validation": [], "test": []}
    for i, one in enumerate(samples):
        splits[part[i]].append(one)
    return splits


def images_in(folder: Path | str, class_id: str) -> list[Sample]:
    """The image files of a class folder by name; files of other kinds do not count.

    Raises SetError where the folder cannot be read.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if is_image(name))
    except OSError as error:
        raise SetError(f"{folder}: {error.strerror}") from error
    return [Sample(f"{class_id}/{name}", class_id, os.path.join(folder, name)) for name in names]


def is_image(name: str) -> bool:
    """By its suffix; hidden files (``._x.jpg`` of a Mac's archive) are none."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def class_folders(root: Path) -> list[str]:
    """Names of the folders in ``root``, sorted. Raises OSError."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _open(sample: Sample) -> Image.Image:
    if sample.size is None:
        return Image.open(sample.file)
    with open(sample.file, "rb") as file:  # opened anew: a handle's position is shared with forked processes
        file.seek(sample.offset)
        return Image.open(io.BytesIO(file.read(sample.size)))


def _inputs(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    stats: dict[str, os.stat_result] = {}
    missing = []
    for one in samples:
        if one.file not in stats:
            try:
                stats[one.file] = os.stat(one.file)
            except FileNotFoundError:
                missing.append(one.file)
                continue
        stat = stats[one.file]
        digest.update(f"{one.file}\0{stat.st_size}\0{stat.st_mtime_ns}\0{one.offset}\0{one.size}\n".encode())
    if missing:
        raise SetError(f"{len(missing)} of {counted(len(samples), 'listed image')} not there, first {missing[0]}")
    return digest.hexdigest()


def _by_class(samples: Sequence[Sample]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, one in enumerate(samples):
        found.setdefault(one.class_id, []).append(i)
    return found


def _shuffled(samples: Sequence[Sample], indices: Sequence[int], seed: str) -> list[int]:
    """By a hash of seed and key: an image's place depends on no other image, so new files move few old ones."""
    return sorted(indices, key=lambda i: hashlib.sha256(f"{seed}/{samples[i].key}".encode()).digest())


def _distinct(keys: Sequence[str]) -> tuple[str, ...]:
    """Equal keys (one class and file name in two folders of a split) get a number."""
    seen: dict[str, int] = {}
    distinct = []
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
        distinct.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return tuple(distinct)

"""Image sets in the file formats that users bring, written by tests, and what readers make of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import TypeAdapter

from trainables.data.cache import Store
from trainables.data.listing import Listing
from trainables.data.readers.kinds import list_images
from trainables.data.source import DataSource
from trainables.settings.sets import ImageSetSettings, Split


def settings_of(**raw: Any) -> Any:
    return TypeAdapter(ImageSetSettings).validate_python(raw)


def list_split(split: Split, **raw: Any) -> Listing:
    return list_images("mine", settings_of(**raw), split)


def photo(path: Path, value: int) -> Path:
    """An image that its pixels identify."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8), (value % 16 * 16, value // 16 % 16 * 16, value // 256 * 16)).save(path, quality=95)
    return path


def photos(folder: Path, classes: Sequence[str], count: int, *, first: int = 0, suffix: str = "jpg") -> Path:
    """Write ``folder/<class>/image_<n>.<suffix>``: ``count`` different images of each class."""
    for i, name in enumerate(classes):
        for j in range(count):
            photo(folder / name / f"image_{j + 1:04d}.{suffix}", first + i * count + j)
    return folder


def content(listing: Listing) -> set[tuple[bytes, int]]:
    """Return pixels and label of each image."""
    return {(listing.open(i).convert("RGB").tobytes(), int(label)) for i, label in enumerate(listing.labels)}


def write_text(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def write_shard(file: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for key, members in samples.items():
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"./{key}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file


def image_source(cache: Path) -> DataSource:
    """Return a source of images of 8 x 8 pixels."""
    return DataSource(Store(cache), lambda image: image.resize((8, 8)), 8, "8 px")

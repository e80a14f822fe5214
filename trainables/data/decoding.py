"""From files to pixels: images of one split decoded to uint8 at a model's size, broken ones named and left out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from trainables.data.listing import Listing

THREADS = min(8, os.cpu_count() or 1)
CHUNK = 64
"""Images in flight: more would only wait in memory for the first of them."""

Crop = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Prepared:
    """What became of a listing's images."""

    rows: list[int]
    """Of the listing, in its order: row i of the pixels is image ``rows[i]``."""
    broken: list[str]
    """The other images, each with its reason."""
    pixels_digest: str
    """sha256 of the pixels."""


def decode_into(pixels: np.ndarray, listing: Listing, crop: Crop, max_broken_share: float) -> Prepared:
    """Fills the first rows of ``pixels``, (N, H, W, 3) uint8, in the listing's order; broken images take no row.

    Raises ValueError as soon as more than ``max_broken_share`` of the N images turn out to be broken, and for a file
    that cannot be read at all (an error of the disk or of rights says nothing about the image).
    """
    rows: list[int] = []
    broken: list[str] = []
    digest = hashlib.sha256()
    count = len(listing.keys)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, count, CHUNK):
            chunk = range(start, min(start + CHUNK, count))
            for i, found in zip(chunk, pool.map(partial(decoded, listing, crop), chunk), strict=True):
                if isinstance(found, str):
                    broken.append(f"{listing.keys[i]}: {found}")
                    refuse_too_many(broken, count, max_broken_share, seen=i + 1)
                    continue
                pixels[len(rows)] = found
                digest.update(np.ascontiguousarray(found).data)
                rows.append(i)
    return Prepared(rows, broken, digest.hexdigest())


def refuse_too_many(broken: Sequence[str], count: int, max_broken_share: float, *, seen: int | None = None) -> None:
    """Raises ValueError where more than ``max_broken_share`` of ``count`` images are broken, or all of them."""
    if broken and (len(broken) > max_broken_share * count or len(broken) == count):
        of = f"{count} images" if seen in (None, count) else f"the first {seen} of {count} images"
        raise ValueError(
            f"{len(broken)} of {of} cannot be decoded ({'; '.join(broken[:3])}), more than max_broken_share "
            f"({max_broken_share:g}) allows; mend or remove them, or raise max_broken_share"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of eight bits.

    As open_clip and torchvision do, EXIF orientation is not applied and transparency is dropped: models were trained
    and published figures measured on such images.
    """
    if image.mode.startswith("I"):
        # Pillow clips 16 bits to 255 instead of scaling them: all but the darkest pixels would turn white.
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ValueError("values beyond 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    return image.convert("RGB")


def decoded(listing: Listing, crop: Crop, i: int) -> np.ndarray | str:
    """Pixels (H, W, 3), or why there are none."""
    try:
        with listing.open(i) as image:
            return np.asarray(crop(to_rgb(image)).convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise all sorts: struct.error, EOFError, KeyError
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"{listing.keys[i]} cannot be read: {error}") from error
        return str(error) or type(error).__name__

"""Decoding of the images of one split to uint8 at a model's size; broken images are reported and left out."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFile

from trainables.activity import busy_with
from trainables.data.listing import Listing

THREADS = min(8, os.cpu_count() or 1)
_DARK = 64
"""An image with 16 bits whose upper eight bits are all below this has at most 14 bits of data."""
CHUNK = 64
"""Number of images decoded at a time: more would only wait in memory for the first of them."""

Crop = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Prepared:
    """Result of ``decode_into``."""

    rows: list[int]
    """Row i of the pixels is image ``rows[i]`` of the listing, in the listing's order."""
    broken: list[str]
    """Keys of the images that could not be decoded, each with the reason."""
    pixels_digest: str
    """sha256 of the pixels."""


def decode_into(pixels: np.ndarray, listing: Listing, crop: Crop) -> Prepared:
    """Fill the first rows of ``pixels``, (N, H, W, 3) uint8, in the listing's order; broken images take no row.

    Raises:
        ValueError: more than ``max_broken_share`` of the N images are broken (raised at once), or a file cannot be
            read: errors of the disk or of permissions do not count as broken images.
    """
    rows: list[int] = []
    broken: list[str] = []
    digest = hashlib.sha256()
    count = len(listing.keys)
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about sizes, palettes and metadata of images that it does read
        for start in range(0, count, CHUNK):
            busy_with("reading images", start, count)
            chunk = range(start, min(start + CHUNK, count))
            for i, image in zip(chunk, pool.map(partial(decoded, listing, crop), chunk), strict=True):
                if isinstance(image, str):
                    broken.append(f"{listing.keys[i]}: {image}")
                    refuse_too_many(broken, count, listing.max_broken_share, seen=i + 1)
                    continue
                pixels[len(rows)] = image
                digest.update(np.ascontiguousarray(image).data)
                rows.append(i)
    return Prepared(rows, broken, digest.hexdigest())


def refuse_too_many(broken: Sequence[str], count: int, max_broken_share: float, *, seen: int | None = None) -> None:
    """Refuse a set with too many broken images.

    Args:
        seen: number of images decoded so far, for the message; None: all.

    Raises:
        ValueError: more than ``max_broken_share`` of ``count`` images are broken, or all of them.
    """
    if broken and (len(broken) > max_broken_share * count or len(broken) == count):
        of = f"{count} images" if seen in (None, count) else f"the first {seen} of {count} images"
        raise ValueError(
            f"{len(broken)} of {of} cannot be decoded ({'; '.join(broken[:3])}), more than max_broken_share "
            f"({max_broken_share:g}) allows; repair or remove them, or raise max_broken_share"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image with three channels of eight bits.

    The upper eight of 16 bits are kept. An image whose values all lie in the lowest 14, 12 or 8 bits was probably saved
    without scaling them up and would become dark or black. It is refused, not scaled, because the number of bits can
    only be guessed, and a guess for each image would change brightnesses. So is an image whose content is in its
    transparency alone: drawings in black on nothing become black.

    EXIF orientation is not applied and transparency is dropped, as in open_clip and torchvision: models were trained
    and published numbers measured on such images.

    Raises:
        ValueError: the range of the pixels is unknown.
    """
    if image.mode.startswith("I"):
        # Pillow clips 16 bits to 255 instead of scaling them: all but the darkest pixels would become white.
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ValueError("values beyond 16 bits")
        if 0 < (largest := int(values.max(initial=0))) < _DARK * 256:
            raise ValueError(_dark(largest, 65535))
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    deep = _has_16_bits(image)
    image.load()
    if image.has_transparency_data:
        _refuse_content_in_transparency(image)
    colours = image.convert("RGB")
    # Pillow has dropped the lower eight bits, so nothing is left of data that are in them alone.
    if deep and (largest := int(np.asarray(colours).max(initial=0))) <= _DARK:
        raise ValueError(_dark(largest, 255))
    return colours


def _dark(largest: int, white: int) -> str:
    return (
        f"16-bit pixels of at most {largest} of {white}, which would be dark or black; scale 8, 12 or 14 bits of data "
        "up to 16, or save them with 8 bits"
    )


def _has_16_bits(image: Image.Image) -> bool:
    """Return whether an image, not loaded yet, has 16 bits per colour in its file, of which Pillow keeps eight."""
    for tile in image.tile if isinstance(image, ImageFile.ImageFile) else ():
        args = tile[3]
        mode, largest = (args[0], args[-1]) if isinstance(args, tuple) and args else (args, 0)
        if ";16" in str(mode) or (tile[0].startswith("ppm") and isinstance(largest, int) and largest > 32767):
            return True
    return False


def _refuse_content_in_transparency(image: Image.Image) -> None:
    """Refuse an image of a single colour whose content is its transparency.

    Raises:
        ValueError: it is one.
    """
    pixels = np.asarray(image.convert("RGBA"))
    alpha, colours = pixels[..., 3], pixels[..., :3]
    if (alpha != alpha[0, 0]).any() and (colours == colours[0, 0]).all():
        raise ValueError(
            "all pixels have one colour and differ in transparency alone, which is dropped as in open_clip; save the "
            "image on a background"
        )


def decoded(listing: Listing, crop: Crop, i: int) -> np.ndarray | str:
    """Return image i of a listing, (H, W, 3) uint8, or the reason why it cannot be decoded.

    Raises:
        ValueError: the reason is the disk or a permission.
    """
    try:
        with listing.open(i) as image:
            return np.asarray(crop(to_rgb(image)).convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises struct.error, EOFError, KeyError and others for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"{listing.keys[i]} cannot be read: {error}") from error
        return str(error) or type(error).__name__

"""Decoding: odd and damaged images, and when images are decoded again."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.image_files import image_source, photo, photos, settings_of
from trainables.data.decoding import to_rgb
from trainables.data.image_set import ImageSet, subset


def test_the_world_of_image_files(tmp_path: Path) -> None:
    """Odd but sound images are read as open_clip reads them; damaged ones are named, with labels and words gone."""
    folder = tmp_path / "photos"
    folder.mkdir()
    odd = {
        "label=a_text=b.png": Image.fromarray(np.full((8, 8), 30000, np.uint16)),
        "label=b_text=c.jpg": Image.new("CMYK", (8, 8), (0, 255, 255, 0)),
        "label=c_text=d.png": Image.new("RGB", (8, 8), (1, 2, 3)).quantize(2),
        "label=d_text=a.png": Image.new("RGBA", (8, 8), (10, 20, 30, 0)),
    }
    for name, image in odd.items():
        image.save(folder / name)
    whole = photo(folder / "label=a_text=c.jpg", 7).read_bytes()
    (folder / "label=a_text=d.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "label=b_text=a.jpg").write_bytes(b"")
    (folder / "label=e_text=a.png").write_text("not a picture")
    raw: dict[str, Any] = {"kind": "rta100", "path": folder}
    with pytest.raises(ValueError, match=r"1 of the first \d of 8 images .*\(label=a_text=d.jpg: .*0.05"):
        image_source(tmp_path / "cache").load("rta", settings_of(**raw), "test")
    images = image_source(tmp_path / "cache").load("rta", settings_of(**raw, max_broken_share=0.4), "test")
    assert images.keys == tuple(sorted([*odd, "label=a_text=c.jpg"])) and images.images.shape == (5, 8, 8, 3)
    assert [name.split(":")[0] for name in images.broken] == [
        "label=a_text=d.jpg", "label=b_text=a.jpg", "label=e_text=a.png",
    ]  # fmt: skip
    assert images.written is not None and len(images.class_names) == 5
    pairs = [(images.class_names[i], images.class_names[j]) for i, j in zip(images.labels, images.written, strict=True)]
    assert [f"label={i}_text={j}" for i, j in pairs] == [key[:-4] for key in images.keys]
    by_key = {key: pixels[0, 0].tolist() for key, pixels in zip(images.keys, images.images, strict=True)}
    assert by_key["label=a_text=b.png"] == [30000 // 256] * 3
    assert by_key["label=c_text=d.png"] == [1, 2, 3] and by_key["label=d_text=a.png"] == [10, 20, 30]
    red, green, blue = by_key["label=b_text=c.jpg"]
    assert red > 250 and green < 5 and blue < 5
    with pytest.raises(ValueError, match="3 of 8 images cannot be decoded"):
        image_source(tmp_path / "cache").load("rta", settings_of(**raw), "test")
    some = subset(images, 2, seed=0)
    assert some.written is not None and some.keys[1] == images.keys[images.keys.index(some.keys[1])]
    assert some.broken == images.broken and some.digest != images.digest


def test_prepared_images_are_made_anew_only_when_files_change(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 2)
    settings = settings_of(kind="image_folder", train=root)

    def load() -> ImageSet:
        return image_source(tmp_path / "cache").load("own", settings, "train")

    def builds() -> int:
        return len(list((tmp_path / "cache").glob("*/images.npy")))

    first = load()
    assert load().digest == first.digest and builds() == 1
    os.utime(root / "cat" / "image_0001.jpg", (1, 1))
    assert load().digest == first.digest and builds() == 2, "a touched file is decoded again and found to be the same"
    photo(root / "cat" / "image_0003.jpg", 99)
    added = load()
    assert builds() == 3 and added.keys == (*first.keys[:2], "cat/image_0003.jpg", *first.keys[2:])
    assert torch.equal(added.images[[0, 1, 3, 4]], first.images) and added.digest != first.digest
    root.rename(tmp_path / "moved")
    settings = settings_of(kind="image_folder", train=tmp_path / "moved")
    elsewhere = image_source(tmp_path / "other").load("own", settings, "train")
    assert elsewhere.digest == added.digest and elsewhere.keys == added.keys, "another node, another place"


def test_16_bit_images_that_would_be_black_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for largest in (0, 255, 4095, 16384, 65535):
        pixels = np.full((8, 8), largest, np.uint16)
        pixels[0] = 0
        Image.fromarray(pixels).save(folder / f"label=a_text=b{largest:05d}.{'tiff' if largest == 4095 else 'png'}")
    raw: dict[str, Any] = {"kind": "rta100", "path": folder, "max_broken_share": 0.5}
    images = image_source(tmp_path / "cache").load("rta", settings_of(**raw), "test")
    assert images.images[:, 4, 4, 0].tolist() == [0, 64, 255]
    assert [line.partition(",")[0] for line in images.broken] == [
        "label=a_text=b00255.png: 16-bit pixels of at most 255 of 65535",
        "label=a_text=b04095.tiff: 16-bit pixels of at most 4095 of 65535",
    ]


def a_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint16 as PNG, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(("bits", "served"), [(8, False), (12, False), (14, False), (16, True)])
def test_colour_images_of_16_bits_are_judged_like_grey_ones(bits: int, served: bool, tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 2**bits - 1, np.uint16)
    a_png(tmp_path / "a.png", pixels)
    (tmp_path / "a.ppm").write_bytes(b"P6 8 8 65535\n" + pixels.astype(">u2").tobytes())
    for name in ("a.png", "a.ppm"):
        with Image.open(tmp_path / name) as image:
            if served:
                assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)
            else:
                with pytest.raises(ValueError, match="16-bit pixels of at most"):
                    to_rgb(image)


def test_images_whose_content_is_their_transparency_are_named(tmp_path: Path) -> None:
    drawing = np.zeros((8, 8, 4), np.uint8)
    drawing[2:5, :, 3] = 255
    with pytest.raises(ValueError, match="differ in transparency alone"):
        to_rgb(Image.fromarray(drawing))
    drawing[0, :, 0] = 200
    assert to_rgb(Image.fromarray(drawing)).getpixel((0, 0)) == (200, 0, 0), "as in open_clip"


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"<!DOCTYPE html><p>", "a web page"), (b"\0\0\0\x18ftypheic\0", "a HEIC photograph"), (b"", "empty")],
)
def test_files_that_are_no_images_are_called_what_they_are(content: bytes, what: str, tmp_path: Path) -> None:
    photos(tmp_path / "train", ["cat", "dog"], 9)
    (tmp_path / "train" / "cat" / "a.jpg").write_bytes(content)
    settings = settings_of(kind="image_folder", train=tmp_path / "train", max_broken_share=0.1)
    images = image_source(tmp_path / "cache").load("own", settings, "train")
    assert len(images.broken) == 1 and images.broken[0].startswith(f"cat/a.jpg: is {what}")

"""Labelled image sets, decoded once to uint8 at the model's size, and their attacked copies.

There is no random augmentation: a view of an image is (image, copy), so the reference's embedding of every view can be
kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainables.attack.rendering import RECIPES, Variant, attack_image, generator, write
from trainables.data.cache import Allocate, Store, digest_of
from trainables.data.decoding import decode_into, refuse_too_many
from trainables.data.image_set import ImageSet, View
from trainables.data.listing import Listing
from trainables.data.readers.kinds import list_clean, list_images, reader_of
from trainables.settings.sets import ImageSetSettings, Split

PREPARED_FORMAT = 1
"""To be increased when prepared pixels change for the same inputs: old prepared files are then ignored."""
DECODED_FORMAT = 3
"""To be increased when decoding changes.

Digests of decoded images cover their pixels, so sweeps go on if no pixel changed. 2: 16-bit images that would be black
are left out. 3: so are 16-bit images that would be dark, of any mode, and images whose content is their transparency.
"""


class DataSource:
    """Reader of image sets at one model's image size, with a store that all processes of a node share."""

    def __init__(self, store: Store, crop: Callable[[Any], Any], image_size: int, preprocessing: Any) -> None:
        self._store, self._crop, self._image_size = store, crop, image_size
        self._preprocessing = preprocessing

    def load(self, name: str, settings: ImageSetSettings, split: Split) -> ImageSet:
        """Return a split, decoded once, and again only when files are added, removed or changed.

        Broken images are left out and reported.

        Raises:
            ValueError: the images cannot be read, or more than ``max_broken_share`` of them are broken.
        """
        listing = list_images(name, settings, split)
        if listing.generated:
            return self._generated(f"{name}/{split}", listing)
        return self._prepared(f"{name}/{split}", listing)

    def load_clean(self, name: str, settings: ImageSetSettings) -> ImageSet | None:
        """Return the scenes of a typographic set without words, equal keys for equal scenes; or None."""
        listing = list_clean(name, settings)
        return None if listing is None else self._prepared(f"{name}/clean", listing)

    def attacked(self, images: ImageSet, variant: Variant, *, seed: int, copies: int = 1) -> View:
        """Return each of N images with a word on it, ``copies`` times; the same pixels on every node.

        Returns:
            A view (copies * N, H, W, 3) whose row ``c * N + i`` is copy c of image i.
        """
        key = {"attack": repr(variant), "of": images.digest, "seed": seed, "copies": copies, "format": PREPARED_FORMAT}

        def build(allocate: Allocate) -> dict[str, np.ndarray]:
            pixels = allocate("images", (copies * len(images.labels), *images.images.shape[1:]), np.uint8)
            written = np.empty(len(pixels), np.int64)
            for copy in range(copies):
                for i, image_key in enumerate(images.keys):
                    row = copy * len(images.keys) + i
                    rng = generator(seed, "attack", image_key, copy)
                    image, label = images.images[i].numpy(), int(images.labels[i])
                    pixels[row], words = attack_image(image, label, images.class_names, variant, rng)
                    written[row] = words[0]
            return {"written": written}

        arrays = self._store.filled(key, build)
        return View(arrays["images"], images.labels.repeat(copies), arrays["written"], digest_of(key))

    def signs(self, images: ImageSet, recipe: str, settings: ImageSetSettings, *, seed: int) -> ImageSet:
        """Return as many images without an object as ``images``, with words on them and labelled with the word."""
        count = len(images.labels)
        key = {"signs": recipe, "of": images.digest, "seed": seed, "format": PREPARED_FORMAT}

        def build() -> dict[str, np.ndarray]:
            empty = reader_of(settings).empty_images(count)
            if empty is not None:
                blank = np.stack([self._cropped(image) for image in empty])
            else:
                blank = np.full((count, self._image_size, self._image_size, 3), 128, np.uint8)
            written = np.arange(count) % len(images.class_names)
            pixels = np.empty_like(blank)
            for i, label in enumerate(written):
                rng = generator(seed, "sign", str(i))
                pixels[i] = write(blank[i], [images.class_names[int(label)]], RECIPES[recipe], rng)
            return {"images": pixels, "labels": written.astype(np.int64)}

        arrays = self._store.get(key, build)
        return ImageSet(
            f"{images.name}/signs",
            arrays["images"],
            arrays["labels"],
            tuple(str(i) for i in range(count)),
            images.class_names,
            ("a sign that says {}", "the word {}"),
            digest_of(key),
        )

    def _generated(self, name: str, listing: Listing) -> ImageSet:
        count = len(listing.keys)
        key = {**listing.inputs, "crop": self._preprocessing, "format": PREPARED_FORMAT}

        def build(allocate: Allocate) -> dict[str, np.ndarray]:
            pixels = allocate("images", (count, self._image_size, self._image_size, 3), np.uint8)
            for i in range(count):
                pixels[i] = self._cropped(listing.open(i))
            return {"labels": listing.labels}

        arrays = self._store.filled(key, build)
        return ImageSet(
            name,
            arrays["images"],
            arrays["labels"],
            listing.keys,
            listing.class_names,
            listing.templates,
            digest_of(key),
            values=None if listing.values is None else torch.from_numpy(listing.values),
            value_names=listing.value_names,
        )

    def _cropped(self, image: Image.Image) -> np.ndarray:
        """Return an RGB image at the model's size, (H, W, 3) uint8."""
        return np.asarray(self._crop(image).convert("RGB"))

    def _prepared(self, name: str, listing: Listing) -> ImageSet:
        count = len(listing.keys)

        def build(allocate: Allocate) -> dict[str, np.ndarray]:
            pixels = allocate("images", (count, self._image_size, self._image_size, 3), np.uint8)
            decoded = decode_into(pixels, listing, self._crop)
            about = json.dumps({"broken": decoded.broken, "pixels": decoded.pixels_digest}).encode()
            return {"rows": np.array(decoded.rows, np.int64), "about": np.frombuffer(about, np.uint8)}

        key = {"inputs": listing.inputs, "crop": self._preprocessing, "format": DECODED_FORMAT}
        try:
            arrays = self._store.filled(key, build)
            about = json.loads(bytes(arrays["about"].numpy()))
            refuse_too_many(about["broken"], count, listing.max_broken_share)
        except ValueError as error:
            raise ValueError(f"set {name!r}: {error}") from error
        rows = arrays["rows"]
        labels = torch.from_numpy(listing.labels)[rows]
        keys = tuple(listing.keys[row] for row in rows.tolist())
        written = None if listing.written is None else torch.from_numpy(listing.written)[rows]
        values = None if listing.values is None else torch.from_numpy(listing.values)[rows]
        digested = [about["pixels"], listing.class_names, labels.tolist(), keys]
        if values is not None:
            digested += [listing.value_names, values.tolist()]
        return ImageSet(
            name,
            arrays["images"][: len(rows)],
            labels,
            keys,
            listing.class_names,
            listing.templates,
            digest_of(digested),
            written,
            (*listing.left_out, *about["broken"]),
            values,
            listing.value_names,
        )

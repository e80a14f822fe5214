"""Labelled image sets, decoded once to uint8 at the model's size, and their attacked copies.

No random augmentation: a view of an image is (image, copy), so the reference's embedding of every view can be kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trainables.attack.rendering import RECIPES, Variant, attack_image, generator, variants, write
from trainables.data.cache import Allocate, Store, digest_of
from trainables.data.decoding import decode_into, refuse_too_many
from trainables.data.image_set import AttackedImages, ImageSet
from trainables.data.listing import Listing
from trainables.data.readers import list_clean, list_images
from trainables.settings.sets import ImageSetSettings, ScamSet, Split, WorldSet
from trainables.settings.task import AttackSettings

PREPARED_FORMAT = 1
"""Raise it when prepared pixels change for the same inputs: old prepared files are then left alone and made anew."""


class DataSource:
    """Reads image sets for one model's image size, through a store that all processes of a node share."""

    def __init__(self, store: Store, crop: Callable[[Any], Any], image_size: int, preprocessing: Any) -> None:
        self._store, self._crop, self._image_size = store, crop, image_size
        self._preprocessing = preprocessing

    def load(self, name: str, settings: ImageSetSettings, split: Split) -> ImageSet:
        """Decoded once, again only when files are added, removed or changed; broken images are left out and named.

        Raises ValueError where the images cannot be had, or where more than ``max_broken_share`` of them are broken.
        """
        if isinstance(settings, WorldSet):
            return self._world(name, settings, split)
        return self._prepared(f"{name}/{split}", list_images(name, settings, split), settings.max_broken_share)

    def load_clean(self, name: str, settings: ScamSet) -> ImageSet | None:
        """The scenes of a typographic set without words, equal keys for equal scenes; None where there are none."""
        listing = list_clean(name, settings)
        return None if listing is None else self._prepared(f"{name}/clean", listing, settings.max_broken_share)

    def attacked(self, images: ImageSet, variant: Variant, *, seed: int, copies: int = 1) -> AttackedImages:
        """Each image with a word on it, ``copies`` times; the same pixels on every node."""
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
        return AttackedImages(arrays["images"], arrays["written"], digest_of(key))

    def signs(self, images: ImageSet, recipe: str, settings: ImageSetSettings, *, seed: int) -> ImageSet:
        """Words on images without an object, labelled with the word: what a model reads. As many as ``images``."""
        count = len(images.labels)
        key = {"signs": recipe, "of": images.digest, "seed": seed, "format": PREPARED_FORMAT}

        def build() -> dict[str, np.ndarray]:
            if isinstance(settings, WorldSet):
                from trainables.world.scenes import empty_scenes

                blank = self._cropped(empty_scenes("test", settings.seed, count))
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

    def _world(self, name: str, settings: WorldSet, split: Split) -> ImageSet:
        from trainables.world.icons import CLASSES
        from trainables.world.scenes import scenes

        count = {"train": settings.train, "validation": settings.validation, "test": settings.test}[split]
        key = {"world": settings.seed, "split": split, "count": count, "crop": self._preprocessing}
        key["format"] = PREPARED_FORMAT

        def build() -> dict[str, np.ndarray]:
            pixels, labels = scenes(split, settings.seed, count)
            return {"images": self._cropped(pixels), "labels": labels}

        arrays = self._store.get(key, build)
        keys = tuple(f"world/{settings.seed}/{split}/{i}" for i in range(count))
        return ImageSet(
            f"{name}/{split}",
            arrays["images"],
            arrays["labels"],
            keys,
            CLASSES,
            tuple(settings.templates),
            digest_of(key),
        )

    def _cropped(self, pixels: np.ndarray) -> np.ndarray:
        from PIL import Image

        if pixels.shape[1:3] == (self._image_size, self._image_size):
            return pixels
        return np.stack([np.asarray(self._crop(Image.fromarray(image)).convert("RGB")) for image in pixels])

    def _prepared(self, name: str, listing: Listing, max_broken_share: float) -> ImageSet:
        count = len(listing.keys)

        def build(allocate: Allocate) -> dict[str, np.ndarray]:
            pixels = allocate("images", (count, self._image_size, self._image_size, 3), np.uint8)
            found = decode_into(pixels, listing, self._crop, max_broken_share)
            about = json.dumps({"broken": found.broken, "pixels": found.pixels_digest}).encode()
            return {"rows": np.array(found.rows, np.int64), "about": np.frombuffer(about, np.uint8)}

        key = {"inputs": listing.inputs, "crop": self._preprocessing, "format": PREPARED_FORMAT}
        try:
            arrays = self._store.filled(key, build)
            about = json.loads(bytes(arrays["about"].numpy()))
            refuse_too_many(about["broken"], count, max_broken_share)
        except ValueError as error:
            raise ValueError(f"set {name!r}: {error}") from error
        rows = arrays["rows"]
        labels = torch.from_numpy(listing.labels)[rows]
        keys = tuple(listing.keys[row] for row in rows.tolist())
        written = None if listing.written is None else torch.from_numpy(listing.written)[rows]
        return ImageSet(
            name,
            arrays["images"][: len(rows)],
            labels,
            keys,
            listing.class_names,
            listing.templates,
            digest_of([about["pixels"], listing.class_names, labels.tolist(), keys]),
            written,
            tuple(about["broken"]),
        )


def held_out_variants(settings: AttackSettings) -> dict[str, Variant]:
    """The attacks that preference data never show, by name."""
    return variants(settings.recipe)


def trained_attack(settings: AttackSettings) -> Variant:
    """The attack of the preference data and of the goals."""
    return Variant(style=RECIPES[settings.recipe])

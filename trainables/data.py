"""Labelled image sets, decoded once to uint8 at the model's size, and their attacked copies.

No random augmentation: a view of an image is (image, copy), so the reference's embedding of every view can be kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.attack import RECIPES, Variant, attack_image, generator, variants, write
from trainables.listing import Listing
from trainables.prepare import decode_into, refuse_too_many
from trainables.set_settings import ImageSetSettings, ScamSet, Split, WorldSet
from trainables.sets import list_clean, list_images
from trainables.settings import AttackSettings, TrainSettings
from trainables.store import Allocate, Store, digest_of

PREPARED_FORMAT = 1
"""Raise it when prepared pixels change for the same inputs: old prepared files are then left alone and made anew."""

IN_MEMORY_BYTES = 64 * 2**20
"""Chosen images up to this size are copied for each process."""


@dataclass(frozen=True)
class ImageSet:
    """One split of a set."""

    name: str
    images: Tensor
    """(N, H, W, 3) uint8."""
    labels: Tensor
    """(N,) int64, indices into ``class_names``."""
    keys: tuple[str, ...]
    """Names an image for its attack: independent of order and of the other images."""
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    digest: str
    """Of pixels, labels and keys: equal digest, equal images in equal order, wherever they lie."""
    written: Tensor | None = None
    """(N,) int64: of real typographic sets, the class of the word in the picture."""
    broken: tuple[str, ...] = ()
    """Images that could not be decoded and are left out, each with its reason."""

    def take(
        self, index: Sequence[int], class_names: tuple[str, ...], labels: Tensor, store: Store | None = None
    ) -> ImageSet:
        """The images at ``index`` with new labels over ``class_names``.

        All images, or the first ones, stay where they are; other choices are copied: into memory, or into ``store``
        where they are large.
        """
        chosen = torch.as_tensor(list(index), dtype=torch.int64)
        digest = digest_of([self.digest, chosen.tolist(), class_names])
        if chosen.equal(torch.arange(len(chosen))):
            images = self.images[: len(chosen)]
        elif store is None or len(chosen) * self.images[:1].nbytes <= IN_MEMORY_BYTES:
            images = self.images[chosen]
        else:
            images = store.filled({"taken": digest}, lambda allocate: self._copy(chosen, allocate))["images"]
        keys = tuple(self.keys[i] for i in index)
        written = None if self.written is None else self.written[chosen]
        return ImageSet(self.name, images, labels, keys, class_names, self.templates, digest, written, self.broken)

    def _copy(self, chosen: Tensor, allocate: Allocate) -> dict[str, np.ndarray]:
        pixels = allocate("images", (len(chosen), *self.images.shape[1:]), np.uint8)
        for start in range(0, len(chosen), 256):
            pixels[start : start + 256] = self.images[chosen[start : start + 256]].numpy()
        return {}


@dataclass(frozen=True)
class AttackedImages:
    """Copies of an image set with words on them, copy after copy: row ``c * N + i`` is copy c of image i."""

    images: Tensor
    """(copies * N, H, W, 3) uint8."""
    written: Tensor
    """(copies * N,) int64: index of the written class; -1 where the word names no class."""
    digest: str


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
                from trainables.world import empty_scenes

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
        from trainables.world import CLASSES, scenes

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


def preference_classes(settings: TrainSettings, class_names: Sequence[str]) -> list[int]:
    """Indices of the classes that preference data cover.

    Raises ValueError for unknown names or fewer than two classes.
    """
    if settings.classes == "all":
        chosen = list(range(len(class_names)))
    elif isinstance(settings.classes, float):
        share = settings.classes
        chosen = [i for i in range(len(class_names)) if math.ceil((i + 1) * share) > math.ceil(i * share)]
    else:
        unknown = [name for name in settings.classes if name not in class_names]
        if unknown:
            raise ValueError(f"train.classes: no class {', '.join(unknown)}; there are {', '.join(class_names)}")
        chosen = sorted(class_names.index(name) for name in set(settings.classes))
    if len(chosen) < 2:
        raise ValueError("preference data need at least two classes: one to prefer, another to be written")
    return chosen


def preference_images(images: ImageSet, settings: TrainSettings, *, seed: int, store: Store | None = None) -> ImageSet:
    """The images of the preference classes, relabelled over those classes; at most ``settings.images`` of them."""
    chosen = preference_classes(settings, images.class_names)
    position = {label: i for i, label in enumerate(chosen)}
    index = [i for i, label in enumerate(images.labels.tolist()) if label in position]
    if settings.images is not None and settings.images < len(index):
        order = generator(seed, "subset").permutation(len(index))[: settings.images]
        index = [index[i] for i in sorted(order)]
    labels = torch.tensor([position[int(images.labels[i])] for i in index], dtype=torch.int64)
    return images.take(index, tuple(images.class_names[label] for label in chosen), labels, store)


def subset(images: ImageSet, count: int | None, *, seed: int, store: Store | None = None) -> ImageSet:
    """At most ``count`` images, drawn with ``seed``."""
    if count is None or count >= len(images.labels):
        return images
    index = sorted(generator(seed, "subset", images.name).permutation(len(images.labels))[:count].tolist())
    return images.take(index, images.class_names, images.labels[torch.tensor(index)], store)


def held_out_variants(settings: AttackSettings) -> dict[str, Variant]:
    """The attacks that preference data never show, by name."""
    return variants(settings.recipe)


def trained_attack(settings: AttackSettings) -> Variant:
    """The attack of the preference data and of the goals."""
    return Variant(style=RECIPES[settings.recipe])

"""Labelled image sets, decoded once to uint8 at the model's size, and their attacked copies.

No random augmentation: a view of an image is (image, copy), so the reference's embedding of every view can be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.attack import RECIPES, Variant, attack_image, generator, variants, write
from trainables.folders import class_names_of, image_files, preference_classes
from trainables.set_settings import ImageFolderSet, ImageSetSettings, Split, WorldSet
from trainables.settings import AttackSettings, TrainSettings
from trainables.store import Store, digest_of

PREPARED_FORMAT = 1
"""Raise it when prepared pixels change for the same inputs: old prepared files are then left alone and made anew."""


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
    """Of the pixels' origin: equal digest, equal images in equal order."""
    written: Tensor | None = None
    """(N,) int64: of real typographic sets, the class of the word in the picture."""
    broken: tuple[str, ...] = ()
    """Images that could not be decoded and are left out, each with its reason."""

    def take(self, index: Sequence[int], class_names: tuple[str, ...], labels: Tensor) -> ImageSet:
        """The images at ``index`` with new labels over ``class_names``."""
        chosen = torch.as_tensor(list(index), dtype=torch.int64)
        digest = digest_of([self.digest, chosen.tolist(), class_names])
        keys = tuple(self.keys[i] for i in index)
        return ImageSet(self.name, self.images[chosen], labels, keys, class_names, self.templates, digest)


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
        """Raises ValueError for folders without images, unknown class folders, unreadable images."""
        if isinstance(settings, WorldSet):
            return self._world(name, settings, split)
        return self._folder(name, settings, split)

    def attacked(self, images: ImageSet, variant: Variant, *, seed: int, copies: int = 1) -> AttackedImages:
        """Each image with a word on it, ``copies`` times; the same pixels on every node."""
        key = {"attack": repr(variant), "of": images.digest, "seed": seed, "copies": copies, "format": PREPARED_FORMAT}

        def build() -> dict[str, np.ndarray]:
            pixels = np.empty((copies * len(images.labels), *images.images.shape[1:]), np.uint8)
            written = np.empty(len(pixels), np.int64)
            for copy in range(copies):
                for i, image_key in enumerate(images.keys):
                    row = copy * len(images.keys) + i
                    rng = generator(seed, "attack", image_key, copy)
                    image, label = images.images[i].numpy(), int(images.labels[i])
                    pixels[row], words = attack_image(image, label, images.class_names, variant, rng)
                    written[row] = words[0]
            return {"images": pixels, "written": written}

        arrays = self._store.get(key, build)
        return AttackedImages(arrays["images"], arrays["written"], digest_of(key))

    def signs(self, images: ImageSet, recipe: str, settings: ImageSetSettings, *, seed: int) -> ImageSet:
        """Words on images without an object, labelled with the word: what a model reads. As many as ``images``."""
        count = len(images.labels)
        key = {"signs": recipe, "of": images.digest, "seed": seed, "format": PREPARED_FORMAT}

        def build() -> dict[str, np.ndarray]:
            if isinstance(settings, WorldSet):
                from trainables.world import empty_scenes

                blank = empty_scenes("test", settings.seed, count)
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

    def _folder(self, name: str, settings: ImageFolderSet, split: Split) -> ImageSet:
        folders, class_names = class_names_of(name, settings)
        files = image_files(name, settings, split)
        index = {folder: i for i, folder in enumerate(folders)}
        labels = np.array([index[path.parent.name] for path in files], np.int64)
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        key = {"files": digest_of(stats), "crop": self._preprocessing, "format": PREPARED_FORMAT}
        arrays = self._store.get(key, lambda: {"images": self._decoded(name, files)})
        keys = tuple(f"{path.parent.name}/{path.name}" for path in files)
        return ImageSet(
            f"{name}/{split}",
            arrays["images"],
            torch.from_numpy(labels),
            keys,
            class_names,
            tuple(settings.templates),
            digest_of([key, class_names, labels.tolist()]),
        )

    def _decoded(self, name: str, files: Sequence[Path]) -> np.ndarray:
        from PIL import Image

        pixels = np.empty((len(files), self._image_size, self._image_size, 3), np.uint8)
        broken: list[str] = []
        for i, path in enumerate(files):
            try:
                with Image.open(path) as image:
                    pixels[i] = np.asarray(self._crop(image.convert("RGB")).convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                broken.append(f"{path} ({error})")
        if broken:
            raise ValueError(
                f"set {name!r}: {len(broken)} of {len(files)} images cannot be read, for instance {broken[0]}; "
                "mend or remove them"
            )
        return pixels


def preference_images(images: ImageSet, settings: TrainSettings, *, seed: int) -> ImageSet:
    """The images of the preference classes, relabelled over those classes; at most ``settings.images`` of them."""
    chosen = preference_classes(settings, images.class_names)
    position = {label: i for i, label in enumerate(chosen)}
    index = [i for i, label in enumerate(images.labels.tolist()) if label in position]
    if settings.images is not None and settings.images < len(index):
        order = generator(seed, "subset").permutation(len(index))[: settings.images]
        index = [index[i] for i in sorted(order)]
    labels = torch.tensor([position[int(images.labels[i])] for i in index], dtype=torch.int64)
    return images.take(index, tuple(images.class_names[label] for label in chosen), labels)


def subset(images: ImageSet, count: int | None, *, seed: int) -> ImageSet:
    """At most ``count`` images, drawn with ``seed``."""
    if count is None or count >= len(images.labels):
        return images
    index = sorted(generator(seed, "subset", images.name).permutation(len(images.labels))[:count].tolist())
    return images.take(index, images.class_names, images.labels[torch.tensor(index)])


def held_out_variants(settings: AttackSettings) -> dict[str, Variant]:
    """The attacks that preference data never show, by name."""
    return variants(settings.recipe)


def trained_attack(settings: AttackSettings) -> Variant:
    """The attack of the preference data and of the goals."""
    return Variant(style=RECIPES[settings.recipe])

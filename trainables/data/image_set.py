"""Image sets in memory or in a memory-mapped file, their subsets, and views: the images that a policy gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainables.attack.rendering import generator
from trainables.data.cache import Allocate, Store, digest_of
from trainables.data.readers.class_names import listed
from trainables.settings.task import TrainSettings
from trainables.spelling import same_word

IN_MEMORY_BYTES = 64 * 2**20
"""Images of a subset up to this size are copied for each process."""


@dataclass(frozen=True)
class View:
    """Images that a policy gets, with their labels."""

    images: Tensor
    """(N, H, W, 3) uint8."""
    labels: Tensor
    """(N,) int64: class of each image."""
    written: Tensor | None
    """(N,) int64: class of the word in the picture, -1 if the word is not a class; None if no word is pasted."""
    digest: str
    """Views with equal digests have equal images in equal order."""


@dataclass(frozen=True)
class ImageSet:
    """One split of a set."""

    name: str
    images: Tensor
    """(N, H, W, 3) uint8."""
    labels: Tensor
    """(N,) int64, indices into ``class_names``."""
    keys: tuple[str, ...]
    """Names of the images, from which their attacks are drawn: independent of order and of the other images."""
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    digest: str
    """Digest of pixels, labels and keys: sets with equal digests have equal images in equal order, in any folder."""
    written: Tensor | None = None
    """(N,) int64: for real typographic sets, class of the word in the picture."""
    broken: tuple[str, ...] = ()
    """Images that were left out because they could not be decoded or have no usable label, each with its reason."""
    values: Tensor | None = None
    """(N,) int64, indices into ``value_names``: the attribute's value of each image."""
    value_names: tuple[str, ...] = ()

    def view(self) -> View:
        """Return the unchanged images as a view."""
        return View(self.images, self.labels, self.written, self.digest)

    def take(
        self, index: Sequence[int], class_names: tuple[str, ...], labels: Tensor, store: Store | None = None
    ) -> ImageSet:
        """Return the images at ``index`` with new labels over ``class_names``.

        All images, or the first ones, are not copied; other choices are copied into memory, or into ``store`` if they
        are large.
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
        values = None if self.values is None else self.values[chosen]
        return replace(
            self, images=images, labels=labels, keys=keys, class_names=class_names, digest=digest, written=written,
            values=values,
        )  # fmt: skip

    def _copy(self, chosen: Tensor, allocate: Allocate) -> dict[str, np.ndarray]:
        pixels = allocate("images", (len(chosen), *self.images.shape[1:]), np.uint8)
        for start in range(0, len(chosen), 256):
            pixels[start : start + 256] = self.images[chosen[start : start + 256]].numpy()
        return {}


def preference_classes(settings: TrainSettings, class_names: Sequence[str]) -> list[int]:
    """Return the indices of the classes in the preference data.

    Raises:
        ValueError: a name is unknown, or there are fewer than two classes.
    """
    if settings.classes == "all":
        chosen = list(range(len(class_names)))
    elif isinstance(settings.classes, float):
        share = settings.classes
        chosen = [i for i in range(len(class_names)) if math.ceil((i + 1) * share) > math.ceil(i * share)]
    else:
        named = {name: same_word(name, class_names) for name in settings.classes}
        if unknown := [name for name, class_name in named.items() if class_name is None]:
            raise ValueError(f"train.classes: no class {', '.join(unknown)}; there are {', '.join(class_names)}")
        chosen = sorted({class_names.index(class_name) for class_name in named.values() if class_name is not None})
    if len(chosen) < 2:
        raise ValueError("preference data need at least two classes: the preferred class and the written class")
    return chosen


def preference_images(images: ImageSet, settings: TrainSettings, *, seed: int, store: Store | None = None) -> ImageSet:
    """Return the images of the preference classes, relabelled over these classes; at most ``settings.images``."""
    chosen = preference_classes(settings, images.class_names)
    position = {label: i for i, label in enumerate(chosen)}
    index = [i for i, label in enumerate(images.labels.tolist()) if label in position]
    if settings.images is not None and settings.images < len(index):
        order = generator(seed, "subset").permutation(len(index))[: settings.images]
        index = [index[i] for i in sorted(order)]
    labels = torch.tensor([position[int(images.labels[i])] for i in index], dtype=torch.int64)
    return images.take(index, tuple(images.class_names[label] for label in chosen), labels, store)


def subset(images: ImageSet, count: int | None, *, seed: int, store: Store | None = None) -> ImageSet:
    """Return at most ``count`` images, drawn with ``seed``."""
    if count is None or count >= len(images.labels):
        return images
    return _taken(images, _drawn(images, seed)[:count], store)


def unseen(images: ImageSet, seen: int, most: int, *, seed: int, store: Store | None = None) -> ImageSet | None:
    """Return at most ``most`` of the images that ``subset`` with ``seen`` leaves out; None if there are none."""
    rest = _drawn(images, seed)[seen:]
    return _taken(images, rest[:most], store) if len(rest) else None


def _drawn(images: ImageSet, seed: int) -> np.ndarray:
    """Return the indices of all images (N,) in the order in which ``seed`` draws them."""
    return generator(seed, "subset", images.name).permutation(len(images.labels))


def _taken(images: ImageSet, rows: np.ndarray, store: Store | None) -> ImageSet:
    index = sorted(rows.tolist())
    return images.take(index, images.class_names, images.labels[torch.tensor(index)], store)


def without_images(labels: Tensor, class_names: Sequence[str]) -> str:
    """Return a note on classes without images: folders that only another split has, often misspelt."""
    with_images = set(labels.tolist())
    missing = [name for i, name in enumerate(class_names) if i not in with_images]
    return f", no images of {listed(missing)}" if missing else ""

"""The image sets of a task, each loaded on first use, and their images that could not be read."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from trainables.attack.rendering import generator
from trainables.data.cache import Store
from trainables.data.image_set import ImageSet, subset, unseen
from trainables.data.source import DataSource
from trainables.settings.parameters import Parameters
from trainables.settings.sets import ImageSetSettings, Split
from trainables.settings.task import TaskSettings, split_of


class TaskImages:
    """The image sets of a task. Every method that loads images raises ValueError if they cannot be read."""

    def __init__(self, task: TaskSettings, source: DataSource, store: Store, *, seed: int) -> None:
        """Prepare to load the sets of ``task``.

        Args:
            seed: the sweep's seed, for subsets and other draws of the task.
        """
        self.source, self.store, self.seed = source, store, seed
        self._sets, self._evaluate = task.sets, task.evaluate
        self._broken: dict[str, tuple[str, ...]] = {}

    def load(self, reference: str, default: Split) -> ImageSet:
        """Return the images of ``name/split``, or of the default split of ``name``."""
        name, split = split_of(reference, default)
        images = self.source.load(name, self._sets[name], cast(Split, split))
        self._broken[images.name] = images.broken
        return images

    def subset(self, reference: str, default: Split, count: int | None) -> ImageSet:
        """Return at most ``count`` of these images, drawn with the sweep's seed."""
        return subset(self.load(reference, default), count, seed=self.seed, store=self.store)

    def unseen(self, reference: str) -> ImageSet | None:
        """Return the images of a validation set that the second look uses and the search does not see; None if there
        are none.
        """
        look, seen = self._evaluate.second_look, self._evaluate.search.images
        if look is None or seen is None:
            return None
        images = self.load(reference, "validation")
        return unseen(images, seen, look.images, seed=self.seed, store=self.store)

    def unseen_counts(self) -> list[int]:
        """Return the number of images of ``unseen`` for each validation set of the search."""
        look, search = self._evaluate.second_look, self._evaluate.search
        if look is None or search.images is None:
            return [0] * len(search.sets)
        counts = [len(self.load(name, "validation").labels) for name in search.sets]
        return [min(max(0, count - search.images), look.images) for count in counts]

    def settings(self, reference: str) -> ImageSetSettings:
        """Return the settings of the set in ``name`` or ``name/split``."""
        return self._sets[reference.partition("/")[0]]

    def sample(self, reference: str, most: int) -> tuple[ImageSet, int]:
        """Return at most ``most`` images of ``name`` (its test split) or ``name/split``, and the total number."""
        images = self.load(reference, "test")
        return subset(images, most, seed=self.seed), len(images.labels)

    def broken(self) -> dict[str, list[str]]:
        """Return the images that could not be decoded and were left out, for each split read so far that has such
        images.
        """
        return {name: list(images) for name, images in self._broken.items() if images}

    def rows_of_trial(self, parameters: Parameters, images: int) -> Tensor:
        """Return the training images of a trial, as rising indices (M,).

        Args:
            images: number of training images.

        Raises:
            ValueError: the trial asks for more images.
        """
        if parameters.images is None:
            return torch.arange(images)
        if parameters.images > images:
            raise ValueError(f"images {parameters.images}: the preference data have {images} images")
        order = generator(self.seed, "images of a trial").permutation(images)
        return torch.from_numpy(np.sort(order[: parameters.images]))

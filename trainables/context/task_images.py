"""The image sets of a task, each loaded when it is first asked for, and what of them could not be read."""

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
    """All of it raises ValueError where images cannot be had."""

    def __init__(self, task: TaskSettings, source: DataSource, store: Store, *, seed: int) -> None:
        """``seed``: of the sweep, for subsets and whatever a task draws."""
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
        """Return at most so many of these images, drawn with the sweep's seed."""
        return subset(self.load(reference, default), count, seed=self.seed, store=self.store)

    def unseen(self, reference: str) -> ImageSet | None:
        """Return the validation images of a set that the search does not see, as many as the second look takes; None
        where there are none."""
        look, seen = self._evaluate.second_look, self._evaluate.search.images
        if look is None or seen is None:
            return None
        images = self.load(reference, "validation")
        return unseen(images, seen, look.images, seed=self.seed, store=self.store)

    def unseen_counts(self) -> list[int]:
        """Return how many images ``unseen`` has of each set that is searched on."""
        look, search = self._evaluate.second_look, self._evaluate.search
        if look is None or search.images is None:
            return [0] * len(search.sets)
        counts = [len(self.load(name, "validation").labels) for name in search.sets]
        return [min(max(0, count - search.images), look.images) for count in counts]

    def settings(self, reference: str) -> ImageSetSettings:
        """Return the settings of the set in ``name`` or ``name/split``."""
        return self._sets[reference.partition("/")[0]]

    def sample(self, reference: str, most: int) -> tuple[ImageSet, int]:
        """Return at most so many images of ``name`` (its test split) or ``name/split``, and how many it has."""
        images = self.load(reference, "test")
        return subset(images, most, seed=self.seed), len(images.labels)

    def broken(self) -> dict[str, list[str]]:
        """Return images that could not be decoded and were left out, by split read so far; not of splits without."""
        return {name: list(images) for name, images in self._broken.items() if images}

    def rows_of_trial(self, parameters: Parameters, images: int) -> Tensor:
        """Return the training images of a trial, rising (M,), of which there are ``images``.

        Raise ValueError where the trial asks for more.
        """
        if parameters.images is None:
            return torch.arange(images)
        if parameters.images > images:
            raise ValueError(f"images {parameters.images}: preference data have {images} images")
        order = generator(self.seed, "images of a trial").permutation(images)
        return torch.from_numpy(np.sort(order[: parameters.images]))

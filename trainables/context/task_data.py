"""The images of a task: what is trained on, searched on and tested on, each loaded when it is first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from trainables.attack.rendering import Variant, generator
from trainables.data.cache import Store, digest_of
from trainables.data.image_set import ImageSet, View, preference_images, subset
from trainables.data.source import DataSource
from trainables.data.typographic import (
    EvaluationSet,
    PreferencePairs,
    held_out_variants,
    pasted_set,
    preference_pairs,
    sign_set,
    trained_attack,
    typographic_set,
)
from trainables.settings.parameters import Parameters
from trainables.settings.sets import Split, TypographicSet
from trainables.settings.task import TaskSettings, split_of

VARIANT_IMAGES = 2000
"""Of each test set, under each held-out attack and as signs: evaluating every image of a large set ten times more would
cost more than it tells (95 % intervals are within 0.022 at this size)."""


class TaskData:
    """Preference pairs and evaluation sets; all of it raises ValueError where images cannot be had."""

    def __init__(self, task: TaskSettings, source: DataSource, store: Store, *, seed: int) -> None:
        """``seed``: of the sweep, for attacks and subsets."""
        self._task, self._source, self._store, self._seed = task, source, store, seed
        self._broken: dict[str, tuple[str, ...]] = {}

    @cached_property
    def pairs(self) -> PreferencePairs:
        """Images of the preference classes and their attacked copies."""
        train, seed = self._task.train, self._seed
        loaded = self._load(f"{train.set}/train", "train")
        images = preference_images(loaded, train, seed=seed, store=self._store)
        return preference_pairs(self._source, images, self._attack, copies=train.copies, seed=seed)

    def pair_rows(self, parameters: Parameters) -> Tensor:
        """Return the rows of ``pairs.attacked`` that a trial trains on: the first copies, of the images it may have.

        Raises ValueError where there are fewer copies or images than asked for.
        """
        images, most = len(self.pairs.images.labels), self._task.train.copies
        copies = most if parameters.copies is None else parameters.copies
        if copies > most:
            raise ValueError(f"copies {copies}: preference data have {most}; raise train.copies")
        chosen = torch.arange(images)
        if parameters.images is not None:
            if parameters.images > images:
                raise ValueError(f"images {parameters.images}: preference data have {images} images")
            order = generator(self._seed, "images of a trial").permutation(images)
            chosen = torch.from_numpy(np.sort(order[: parameters.images]))
        return torch.cat([copy * images + chosen for copy in range(copies)])

    @cached_property
    def search_sets(self) -> list[EvaluationSet]:
        """Validation: a trial is evaluated on these after each epoch, and its goals are measured on them."""
        search = self._task.evaluate.search
        return [self._pasted(self._subset(name, "validation", search.images)) for name in search.sets]

    @cached_property
    def test_sets(self) -> list[EvaluationSet]:
        """Images that no decision was taken on, with words pasted on them."""
        return [self._pasted(images) for images in self._test_images]

    @cached_property
    def typographic_sets(self) -> list[EvaluationSet]:
        """Test sets of real photographs of written words."""
        sets = []
        for reference in self._task.evaluate.test.sets:
            if self._is_typographic(reference):
                name, _ = split_of(reference, "test")
                images = subset(self._load(reference, "test"), self._task.evaluate.test.images, seed=self._seed)
                sets.append(typographic_set(self._source, name, self._task.sets[name], images))
        return sets

    @cached_property
    def variant_sets(self) -> dict[str, list[EvaluationSet]]:
        """``test_sets`` under attacks that preference data never show, by the attack's name; at most
        ``VARIANT_IMAGES`` of each set."""
        return {
            name: [self._pasted(images, attack) for images in self._variant_images]
            for name, attack in held_out_variants(self._task.attack).items()
        }

    @cached_property
    def sign_sets(self) -> list[EvaluationSet]:
        """Words on images without an object, as attacked views labelled with the word; one per set of ``test_sets``."""
        recipe, sets = self._task.attack.recipe, self._task.sets
        return [
            sign_set(self._source, images, recipe, sets[images.name.partition("/")[0]], seed=self._seed)
            for images in self._variant_images
        ]

    def clean_sample(self, reference: str, most: int) -> tuple[ImageSet, int]:
        """Return at most so many images of ``name`` (its test split) or ``name/split``, and how many it has."""
        images = self._load(reference, "test")
        return subset(images, most, seed=self._seed), len(images.labels)

    def search_views(self) -> list[View]:
        return [view for searched in self.search_sets for view in searched.views()]

    def trial_views(self) -> list[View]:
        """Return every view that a trial is shown."""
        return [self.pairs.clean, self.pairs.attacked, *self.search_views()]

    def broken(self) -> dict[str, list[str]]:
        """Return images that could not be decoded and were left out, by split read so far; not of splits without."""
        return {name: list(images) for name, images in self._broken.items() if images}

    def digest(self) -> str:
        """Return the digest of everything that is trained and searched on."""
        searched = [view.digest for view in self.search_views()]
        return digest_of([self.pairs.attacked.digest, self.pairs.clean.digest, *searched])

    def validation_digest(self) -> str:
        """Return the digest of everything that is searched on: points with equal digests may stand on one front."""
        return digest_of([view.digest for view in self.search_views()])

    def _load(self, reference: str, default: Split) -> ImageSet:
        name, split = split_of(reference, default)
        images = self._source.load(name, self._task.sets[name], cast(Split, split))
        self._broken[images.name] = images.broken
        return images

    def _subset(self, reference: str, default: Split, count: int | None) -> ImageSet:
        return subset(self._load(reference, default), count, seed=self._seed, store=self._store)

    def _is_typographic(self, reference: str) -> bool:
        return isinstance(self._task.sets[split_of(reference, "test")[0]], TypographicSet)

    @property
    def _attack(self) -> Variant:
        return trained_attack(self._task.attack)

    def _pasted(self, images: ImageSet, attack: Variant | None = None) -> EvaluationSet:
        return pasted_set(self._source, images, attack or self._attack, seed=self._seed)

    @cached_property
    def _test_images(self) -> list[ImageSet]:
        """Of the sets on which words are pasted."""
        test = self._task.evaluate.test
        return [self._subset(name, "test", test.images) for name in test.sets if not self._is_typographic(name)]

    @cached_property
    def _variant_images(self) -> list[ImageSet]:
        return [subset(images, VARIANT_IMAGES, seed=self._seed, store=self._store) for images in self._test_images]

"""The images of the typographic task: for training, for the search and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from trainables.attack.rendering import Variant, variants
from trainables.context.task_images import TaskImages
from trainables.data.cache import digest_of
from trainables.data.image_set import ImageSet, View, preference_images, subset, without_images
from trainables.data.preferences import Preferences, Prompts
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
from trainables.settings.sets import TypographicSet
from trainables.settings.task import split_of
from trainables.settings.typographic import TypographicSettings

VARIANT_IMAGES = 2000
"""Images of each test set under each held-out attack and as signs. All images of a large set would cost ten times more
for little gain (95 % intervals are within 0.022 at this size).
"""


class TypographicData:
    """Implements ``TaskData``: preference pairs and evaluation sets."""

    def __init__(self, task: TypographicSettings, images: TaskImages) -> None:
        self._task, self._images = task, images

    @cached_property
    def pairs(self) -> PreferencePairs:
        """Return images of the preference classes and their attacked copies."""
        train, seed, store = self._task.train, self._images.seed, self._images.store
        loaded = self._images.load(f"{train.set}/train", "train")
        images = preference_images(loaded, train, seed=seed, store=store)
        return preference_pairs(self._images.source, images, self._attack, copies=train.copies, seed=seed)

    @cached_property
    def preferences(self) -> Preferences:
        """Return preference data: the true class is preferred to the written one; answers on clean images are kept."""
        pairs = self.pairs
        prompts = Prompts(pairs.images.class_names, pairs.images.templates)
        return Preferences(pairs.attacked, prompts, pairs.chosen, pairs.rejected, pairs.clean, prompts)

    def preference_rows(self, parameters: Parameters) -> Tensor:
        """Return the rows (M,) of ``pairs.attacked`` that a trial trains on: the first copies, of the images it may
        use.

        Raises:
            ValueError: there are fewer copies or images than the trial asks for.
        """
        images, most = len(self.pairs.images.labels), self._task.train.copies
        copies = most if parameters.copies is None else parameters.copies
        if copies > most:
            raise ValueError(f"copies {copies}: the preference data have {most}; raise train.copies")
        chosen = self._images.rows_of_trial(parameters, images)
        return torch.cat([copy * images + chosen for copy in range(copies)])

    @cached_property
    def search_sets(self) -> list[EvaluationSet]:
        """Return the validation sets on which a trial is evaluated after each epoch; the goals are measured on them."""
        search = self._task.evaluate.search
        return [self._pasted(self._images.subset(name, "validation", search.images)) for name in search.sets]

    @cached_property
    def unseen_sets(self) -> list[EvaluationSet]:
        """Return the validation images that the search does not see, for the sets of ``search_sets`` that have some."""
        of_sets = [self._images.unseen(name) for name in self._task.evaluate.search.sets]
        return [self._pasted(images) for images in of_sets if images is not None]

    @cached_property
    def test_sets(self) -> list[EvaluationSet]:
        """Return the test sets with words pasted on them: images on which no decision was based."""
        return [self._pasted(images) for images in self._test_images]

    @cached_property
    def typographic_sets(self) -> list[EvaluationSet]:
        """Return the test sets of real photographs of written words."""
        sets = []
        for reference in self._task.evaluate.test.sets:
            if self._is_typographic(reference):
                name, _ = split_of(reference, "test")
                loaded, most = self._images.load(reference, "test"), self._task.evaluate.test.images
                images = subset(loaded, most, seed=self._images.seed)
                sets.append(typographic_set(self._images.source, name, self._images.settings(name), images))
        return sets

    @cached_property
    def variant_sets(self) -> dict[str, list[EvaluationSet]]:
        """Return ``test_sets`` under attacks that preference data never show, by the attack's name.

        Each set has at most ``VARIANT_IMAGES`` images. Attacks for which one of the sets has too few classes are left
        out.
        """
        by_name: dict[str, list[EvaluationSet]] = {}
        for images in self._variant_images:
            for name, attack in held_out_variants(self._task.attack, images.class_names).items():
                by_name.setdefault(name, []).append(self._pasted(images, attack))
        return {name: sets for name, sets in by_name.items() if len(sets) == len(self._variant_images)}

    @cached_property
    def sign_sets(self) -> list[EvaluationSet]:
        """Return sets of words on images without an object, as attacked views labelled with the word.

        There is one set for each of ``test_sets``.
        """
        return [self._signs(images) for images in self._variant_images]

    @cached_property
    def search_sign_sets(self) -> list[EvaluationSet]:
        """Return the same as ``sign_sets``, for ``search_sets``."""
        return [self._signs(self._at_most(searched.images, VARIANT_IMAGES)) for searched in self.search_sets]

    @cached_property
    def unseen_sign_sets(self) -> list[EvaluationSet]:
        """Return the same as ``sign_sets``, for ``unseen_sets``."""
        return [self._signs(self._at_most(shown.images, VARIANT_IMAGES)) for shown in self.unseen_sets]

    def pasted(self, reference: str) -> EvaluationSet:
        """Return the validation images of a set with words pasted on them, at most as many as the search uses."""
        return self._pasted(self._images.subset(reference, "validation", self._task.evaluate.search.images))

    def unseen_pasted(self, reference: str) -> EvaluationSet | None:
        """Return the validation images of a set that ``pasted`` leaves out, with words pasted on them; None without
        any.
        """
        images = self._images.unseen(reference)
        return None if images is None else self._pasted(images)

    def under(self, variant: str, sets: Sequence[EvaluationSet]) -> list[EvaluationSet]:
        """Return sets under an attack that preference data never show; at most ``VARIANT_IMAGES`` images of each.

        Raises:
            ValueError: a set has too few classes for the attack.
        """
        attack = variants(self._task.attack.recipe)[variant]
        return [self._pasted(self._at_most(shown.images, VARIANT_IMAGES), attack) for shown in sets]

    def searched_prompts(self) -> list[Prompts]:
        shown = [searched.images for searched in self.search_sets]
        return [Prompts(images.class_names, images.templates) for images in shown]

    def searched_views(self) -> list[View]:
        return [view for searched in self.search_sets for view in searched.views()]

    def validation_images(self) -> list[int]:
        return [len(searched.images.keys) for searched in self.search_sets]

    def unseen_images(self) -> list[int]:
        return self._images.unseen_counts()

    def chance(self) -> float:
        chances = [1 / len(searched.images.class_names) for searched in self.search_sets]
        return sum(chances) / len(chances)

    def described(self) -> list[str]:
        names, count = self.pairs.images.class_names, len(self.pairs.attacked.labels)
        without = without_images(self.pairs.images.labels, names)
        lines = [f"training: {count} preference pairs over {len(names)} classes{without}"]
        parts = [("validation", searched) for searched in self.search_sets]
        parts += [("test", tested) for tested in (*self.test_sets, *self.typographic_sets)]
        for what, evaluated in parts:
            images, names = evaluated.images, evaluated.images.class_names
            without = "" if evaluated.clean is None else without_images(evaluated.clean.labels, names)
            lines.append(f"{what}: {images.name}, {len(images.keys)} images, {len(names)} classes{without}")
        return lines + self._left_out()

    def _left_out(self) -> list[str]:
        """Return a line for each attack that is not measured because a test set has too few classes for it."""
        every = variants(self._task.attack.recipe) if self._task.evaluate.test.variants else {}
        return [
            f"test: {images.name} has {len(images.class_names)} classes, too few for the attack {name}: it is left out"
            for images in self._test_images
            for name in every.keys() - held_out_variants(self._task.attack, images.class_names).keys()
        ]

    def broken(self) -> dict[str, list[str]]:
        return self._images.broken()

    def digest(self) -> str:
        searched = [view.digest for view in self.searched_views()]
        return digest_of([self.pairs.attacked.digest, self.pairs.clean.digest, *searched])

    def validation_digest(self) -> str:
        return digest_of([view.digest for view in self.searched_views()])

    def _is_typographic(self, reference: str) -> bool:
        return isinstance(self._images.settings(reference), TypographicSet)

    @property
    def _attack(self) -> Variant:
        return trained_attack(self._task.attack)

    def _pasted(self, images: ImageSet, attack: Variant | None = None) -> EvaluationSet:
        return pasted_set(self._images.source, images, attack or self._attack, seed=self._images.seed)

    def _signs(self, images: ImageSet) -> EvaluationSet:
        """Return a set of words on as many images without an object."""
        recipe, settings = self._task.attack.recipe, self._images.settings(images.name)
        return sign_set(self._images.source, images, recipe, settings, seed=self._images.seed)

    def _at_most(self, images: ImageSet, count: int) -> ImageSet:
        return subset(images, count, seed=self._images.seed, store=self._images.store)

    @cached_property
    def _test_images(self) -> list[ImageSet]:
        """Return the test sets on which words are pasted."""
        test = self._task.evaluate.test
        pasted_on = [name for name in test.sets if not self._is_typographic(name)]
        return [self._images.subset(name, "test", test.images) for name in pasted_on]

    @cached_property
    def _variant_images(self) -> list[ImageSet]:
        return [self._at_most(images, VARIANT_IMAGES) for images in self._test_images]

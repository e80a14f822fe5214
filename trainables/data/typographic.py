"""Data of the typographic task from image sets: preference pairs to train on and sets to evaluate on.

The true class of an attacked image is preferred to the class of the word on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trainables.attack.rendering import RECIPES, Variant, variants
from trainables.data.cache import digest_of
from trainables.data.image_set import ImageSet, View
from trainables.data.source import DataSource
from trainables.settings.sets import ImageSetSettings
from trainables.settings.typographic import AttackSettings
from trainables.spelling import normal_form


@dataclass(frozen=True)
class PreferencePairs:
    """Training data: row p of ``attacked`` is a copy of row ``p % len(images)`` of ``images``."""

    images: ImageSet
    attacked: View

    @property
    def clean(self) -> View:
        return self.images.view()

    @property
    def chosen(self) -> Tensor:
        """Return the preferred class of each attacked image, its true class: (copies * N,) int64."""
        return self.attacked.labels

    @property
    def rejected(self) -> Tensor:
        """Return the class of the word on each attacked image: (copies * N,) int64."""
        assert self.attacked.written is not None, "preference data have words on them"
        return self.attacked.written


@dataclass(frozen=True)
class EvaluationSet:
    """Views of an image set on which a policy is evaluated, over all classes of the set."""

    images: ImageSet
    """Names, keys and classes; the images themselves are those of the views."""
    clean: View | None
    """None if there are only images with words."""
    attacked: View

    def views(self) -> list[View]:
        return [self.attacked] if self.clean is None else [self.clean, self.attacked]


def preference_pairs(
    source: DataSource, images: ImageSet, attack: Variant, *, copies: int, seed: int
) -> PreferencePairs:
    """Return the images with ``copies`` attacked copies of each."""
    return PreferencePairs(images, source.attacked(images, attack, seed=seed, copies=copies))


def pasted_set(source: DataSource, images: ImageSet, attack: Variant, *, seed: int) -> EvaluationSet:
    """Return the images, and the same images with a word pasted on each."""
    return EvaluationSet(images, images.view(), source.attacked(images, attack, seed=seed))


def sign_set(
    source: DataSource, images: ImageSet, recipe: str, settings: ImageSetSettings, *, seed: int
) -> EvaluationSet:
    """Return words on images without an object, as attacked view labelled with the word; as many as ``images``."""
    signs = source.signs(images, recipe, settings, seed=seed)
    return EvaluationSet(signs, None, signs.view())


def typographic_set(source: DataSource, name: str, settings: ImageSetSettings, images: ImageSet) -> EvaluationSet:
    """Return photographs of written words, and the same scenes without words if the set has them."""
    assert images.written is not None, "typographic sets know what is written"
    clean = source.load_clean(name, settings)
    if clean is None:
        return EvaluationSet(images, None, images.view())
    row = {key: i for i, key in enumerate(clean.keys)}
    both = [i for i, key in enumerate(images.keys) if key in row]  # a scene that is broken in one view is in neither
    images = images.take(both, images.class_names, images.labels[both])
    index = [row[key] for key in images.keys]
    scenes = View(clean.images[index], clean.labels[index], images.written, digest_of([clean.digest, index]))
    return EvaluationSet(images, scenes, images.view())


def trained_attack(settings: AttackSettings) -> Variant:
    """Return the attack of the preference data and of the goals."""
    return Variant(style=RECIPES[settings.recipe])


def held_out_variants(settings: AttackSettings, class_names: Sequence[str]) -> dict[str, Variant]:
    """Return the attacks that preference data never show, by name.

    Attacks that write more wrong names than the classes allow (two words over two classes) are left out.
    """
    wrong = len(set(map(normal_form, class_names))) - 1
    return {name: variant for name, variant in variants(settings.recipe).items() if variant.style.words <= wrong}

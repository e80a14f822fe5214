"""What a policy is shown: images with their meaning, as preference pairs to train on and as sets to measure on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainables.attack.rendering import Variant
from trainables.data.cache import digest_of
from trainables.data.image_set import ImageSet
from trainables.data.source import DataSource
from trainables.settings.sets import ImageSetSettings, ScamSet


@dataclass(frozen=True)
class View:
    """Images as a policy is shown them, with what they mean."""

    images: Tensor
    """(N, H, W, 3) uint8."""
    labels: Tensor
    """(N,) int64: the true class."""
    written: Tensor | None
    """(N,) int64: the written class, -1 for a word that names none; None for clean images."""
    digest: str


@dataclass(frozen=True)
class PreferencePairs:
    """Training data: row p of ``attacked`` is a copy of row ``p % len(clean)`` of ``clean``."""

    clean: View
    attacked: View
    class_names: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationSet:
    """What is measured on: an image set clean and attacked, over all its classes."""

    name: str
    keys: tuple[str, ...]
    clean: View | None
    """None where photographs show written words only."""
    attacked: View
    class_names: tuple[str, ...]
    templates: tuple[str, ...]


def pasted_set(source: DataSource, images: ImageSet, attack: Variant, *, seed: int) -> EvaluationSet:
    """Images, and the same images with a word written on each."""
    attacked = source.attacked(images, attack, seed=seed)
    return EvaluationSet(
        images.name,
        images.keys,
        View(images.images, images.labels, None, images.digest),
        View(attacked.images, images.labels, attacked.written, attacked.digest),
        images.class_names,
        images.templates,
    )


def typographic_set(source: DataSource, name: str, settings: ImageSetSettings, images: ImageSet) -> EvaluationSet:
    """Photographs of written words, and the same scenes without them where the set has those."""
    assert images.written is not None, "typographic sets know what is written"
    without, clean = None, source.load_clean(name, settings) if isinstance(settings, ScamSet) else None
    if clean is not None:
        row = {key: i for i, key in enumerate(clean.keys)}
        both = [i for i, key in enumerate(images.keys) if key in row]  # a scene that is broken in one is in neither
        images = images.take(both, images.class_names, images.labels[both])
        index = [row[key] for key in images.keys]
        without = View(clean.images[index], clean.labels[index], images.written, digest_of([clean.digest, index]))
    assert images.written is not None
    attacked = View(images.images, images.labels, images.written, images.digest)
    return EvaluationSet(images.name, images.keys, without, attacked, images.class_names, images.templates)

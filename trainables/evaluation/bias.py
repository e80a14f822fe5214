"""Bias of any model on any set with an attribute; the model is one of open_clip or a function that scores images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trainables.context.attribute_data import LabelledSet, labelled_set
from trainables.data.cache import Store
from trainables.data.image_set import subset
from trainables.data.preferences import Prompts
from trainables.data.source import DataSource
from trainables.evaluation.attribute import (
    Looked,
    further_values_of,
    intervals_of,
    resampled_skew,
    skew_name,
    values_of,
)
from trainables.evaluation.scoring import SCORING_BATCH, Scorer
from trainables.records import Measurement
from trainables.settings.attribute import AttributeSection
from trainables.settings.sets import ImageSetSettings, Split


@dataclass(frozen=True)
class Seen:
    """A labelled set, and a model's outputs for it."""

    labelled: LabelledSet
    looked: Looked


@dataclass(frozen=True, kw_only=True)
class SkewDifference:
    """MaxSkew of two models on the same images; ``difference`` is second minus first."""

    first: float
    second: float
    low: float
    high: float
    """Upper end, with ``low`` the lower end, of the 95 % paired bootstrap interval of the difference."""


def look_at_set(
    scorer: Scorer,
    name: str,
    settings: ImageSetSettings,
    split: Split,
    *,
    section: AttributeSection,
    store: Store,
    seed: int = 0,
    count: int | None = None,
) -> Seen:
    """Return a model's outputs for a set.

    Args:
        count: at most this number of images, drawn with ``seed``.

    Raises:
        ValueError: the images cannot be read or have no attribute.
    """
    source = DataSource(store, scorer.crop, scorer.image_size, scorer.geometry)
    images = subset(source.load(name, settings, split), count, seed=seed)
    if images.values is None:
        raise ValueError(f"set {name!r} has no attribute of its images")
    labelled = labelled_set(images, section)
    parts = [_prompts(prompts) for prompts in labelled.prompts]
    contents, count_v = len(images.class_names), len(images.value_names)
    content, own, similarities = [], [], []
    for rows in torch.arange(len(images.labels)).split(SCORING_BATCH):
        neutral, of_values, queries = (scorer.logits(images.images[rows], part) for part in parts)
        content.append(neutral.argmax(-1))
        own.append(of_values.gather(1, torch.arange(count_v) * contents + images.labels[rows][:, None]))
        similarities.append(queries)
    looked = Looked(
        torch.cat(content).numpy(),
        torch.cat(own).double().numpy(),
        torch.cat(similarities).double().numpy(),
        np.zeros(len(images.labels)),
    )
    return Seen(labelled, looked)


def bias_of(section: AttributeSection, seen: Seen) -> Measurement:
    """Return the metrics of the attribute task, with their intervals over images; without KL from a reference."""
    sets = [(seen.labelled, seen.looked)]
    values = values_of(section, *sets[0]) | further_values_of(section, *sets[0])
    intervals = intervals_of(section, sets)
    del values["reference_kl"], intervals["reference_kl"]
    return Measurement(values=values, intervals=intervals, images=len(seen.labelled.images.keys))


def skew_difference(section: AttributeSection, first: Seen, second: Seen) -> SkewDifference:
    """Compare the MaxSkew of two models on the same images.

    Raises:
        ValueError: the models were shown different images.
    """
    if first.labelled.images.keys != second.labelled.images.keys:
        raise ValueError("the two models were shown different images")
    values = [values_of(section, seen.labelled, seen.looked)[skew_name(section)] for seen in (first, second)]
    samples = [resampled_skew(section, seen.labelled, seen.looked) for seen in (first, second)]
    difference, drawn = values[1] - values[0], samples[1] - samples[0]
    low, high = np.percentile(drawn - drawn.mean() + difference, [2.5, 97.5])
    return SkewDifference(first=values[0], second=values[1], low=float(low), high=float(high))


def _prompts(prompts: Prompts) -> list[list[str]]:
    """Return a list of T prompts for each name."""
    return [[template.format(name) for template in prompts.templates] for name in prompts.names]

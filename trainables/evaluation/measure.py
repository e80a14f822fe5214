"""Functions that every task measures with: means and intervals of scores, the untouched model as a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from trainables.context.trial_context import TrialContext
from trainables.evaluation.metrics import bootstrap_interval, mean_score
from trainables.evaluation.zero_shot import IMAGES, ZeroShot
from trainables.models.policy import TransformPolicy
from trainables.records import Measurement
from trainables.settings.parameters import Parameters
from trainables.settings.task import split_of

Scores = dict[str, list[np.ndarray]]
"""Metric -> for each image set a score per image (N,): 0 or 1 for accuracies and rates, nats for ``reference_kl``."""


def means(scores: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
    """Return the mean over sets of every metric."""
    return {metric: mean_score(of_sets) for metric, of_sets in scores.items()}


def zero_shot_scores(context: TrialContext, reference: str, most: int) -> tuple[np.ndarray, int, int]:
    """Return the untouched model's scores on the unchanged images of a set, over all its classes.

    Args:
        reference: ``name`` (its test split) or ``name/split``.
        most: largest number of images to score.

    Returns:
        Right or wrong (N,), the number of classes, and the number of images in the set.
    """
    images, total = context.images.sample(reference, most)
    embeddings = context.reference.embeddings(images.view())
    text = context.reference.text_embeddings(images.class_names, images.templates)
    with torch.no_grad():
        answers = (embeddings @ text.T).argmax(-1).cpu()
    return (answers == images.labels).numpy(), len(images.class_names), total


def zero_shot(context: TrialContext) -> ZeroShot:
    """Measure the untouched model on ``IMAGES`` unchanged validation images, the same number from each set.

    Raises:
        ValueError: images cannot be read.
    """
    names = context.task.evaluate.search.sets
    most = max(1, IMAGES // len(names))
    right, images, guessed, most_classes = 0, 0, 0.0, 0
    for name in names:
        scores, classes, _ = zero_shot_scores(context, "/".join(split_of(name, "validation")), most)
        right, images = right + int(scores.sum()), images + len(scores)
        guessed, most_classes = guessed + len(scores) / classes, max(most_classes, classes)
    return ZeroShot(right=right, images=images, chance=guessed / images, classes=most_classes)


def untouched_policy(context: TrialContext) -> TransformPolicy:
    """Return the reference as a policy: W = I on its own embeddings."""
    parameters = Parameters(objective="cross_entropy", tune="transform", learning_rate=1.0)
    identity = torch.eye(context.clip.embed_dim)
    policy = TransformPolicy(context.clip, parameters, identity)
    policy.set_weights({"w": identity})
    return policy


def measurement(
    scores: Mapping[str, Sequence[np.ndarray]], broken: Mapping[str, list[str]], *, images: str = "clean_accuracy"
) -> Measurement:
    """Return means and 95 % bootstrap intervals by metric.

    Args:
        broken: images left out, by split.
        images: the metric that has a score for every image.
    """
    return Measurement(
        values=means(scores),
        intervals={metric: bootstrap_interval(of_sets) for metric, of_sets in scores.items()},
        images=sum(len(correct) for correct in scores[images]),
        broken=dict(broken),
    )

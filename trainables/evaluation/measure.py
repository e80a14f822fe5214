"""Measuring a policy: goals on validation after each epoch, everything else once on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from trainables.context.trial_context import TrialContext
from trainables.data.typographic import EvaluationSet
from trainables.distributed import WorkerGroup
from trainables.evaluation.answers import ATTACKED, CLEAN, Answers
from trainables.evaluation.metrics import bootstrap_interval, mean_score
from trainables.evaluation.predictions import accuracy, answers_from_indices, predict, text_confusion
from trainables.models.policy import Policy, TransformPolicy
from trainables.records import VALIDATION_METRICS, Measurement
from trainables.settings.parameters import Parameters
from trainables.settings.task import split_of

Scores = dict[str, list[np.ndarray]]
"""Metric -> per image set a score per image (N,): 0 or 1 for accuracies and rates, nats for ``reference_kl``."""

_GOALS = {
    "clean_accuracy": (CLEAN, "accuracy"),
    "robust_accuracy": (ATTACKED, "accuracy"),
    "text_confusion_rate": (ATTACKED, "text_confusion_rate"),
}
_ON_TEST = {**_GOALS, "two_way_accuracy": (ATTACKED, "two_way_accuracy"), "reference_kl": (CLEAN, "reference_kl")}
"""Metric -> (view, measure of its answers)."""


def goal_scores(context: TrialContext, policy: Policy, sets: Sequence[EvaluationSet], group: WorkerGroup) -> Scores:
    """Return the scores of ``VALIDATION_METRICS`` over all class prompts of each set.

    Workers share the images; every one of them gets all scores. The text-confusion rate counts attacked images answered
    with the written class; a set without such images has none.
    """
    scores: Scores = {metric: [] for metric in VALIDATION_METRICS}
    for evaluated in sets:
        images, clean, attacked = evaluated.images, evaluated.clean, evaluated.attacked
        if clean is not None:
            predictions = predict(context, policy, images, clean, group)
            scores["clean_accuracy"].append(accuracy(predictions, images, clean))
        predictions = predict(context, policy, images, attacked, group)
        scores["robust_accuracy"].append(accuracy(predictions, images, attacked))
        confused = text_confusion(predictions, images, attacked)
        if len(confused):
            scores["text_confusion_rate"].append(confused)
    return {metric: of_sets for metric, of_sets in scores.items() if of_sets}


def means(scores: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
    """Return the mean over sets of every metric."""
    return {metric: mean_score(of_sets) for metric, of_sets in scores.items()}


def test_answers(context: TrialContext, policy: Policy, group: WorkerGroup) -> list[Answers]:
    """Return what the policy answers on every test set, clean (with KL from the reference) and attacked."""
    answers = []
    for tested in (*context.data.test_sets, *context.data.typographic_sets):
        images = tested.images
        if tested.clean is not None:
            predictions = predict(context, policy, images, tested.clean, group, reference_kl=True)
            answers.append(answers_from_indices(images, tested.clean, CLEAN, predictions))
        predictions = predict(context, policy, images, tested.attacked, group)
        answers.append(answers_from_indices(images, tested.attacked, ATTACKED, predictions))
    return answers


def test_scores(
    context: TrialContext, policy: Policy, answers: Sequence[Answers], group: WorkerGroup, *, variants: bool = True
) -> Scores:
    """Return the metrics on test that follow from ``test_answers``; with ``variants``, if the task has them, unseen
    attacks and sign reading too.

    ``clean_accuracy``, ``robust_accuracy`` and so on are over the sets whose words are pasted; ``SET/robust_accuracy``
    is of one set: always given for real typographic sets, and where there are several. ``transfer/...`` is over the
    sets that were not trained on, where the training set is tested too. ``robust_accuracy/VARIANT`` is under an attack
    that preference data never show.
    """
    data, task = context.data, context.task
    pasted = [tested.images.name for tested in data.test_sets]
    scores = _scores_of(pasted, answers, _ON_TEST)
    alone = [tested.images.name for tested in data.typographic_sets] + (pasted if len(pasted) > 1 else [])
    for name in alone:
        of_set = _scores_of([name], answers, _ON_TEST)
        scores |= {f"{_short(name, alone)}/{metric}": of_sets for metric, of_sets in of_set.items()}
    transfer = [name for name in pasted if split_of(name, "test")[0] != task.train.set]
    if 0 < len(transfer) < len(pasted):
        of_transfer = _scores_of(transfer, answers, _GOALS)
        scores |= {f"transfer/{metric}": of_sets for metric, of_sets in of_transfer.items()}
    if variants and task.evaluate.test.variants:
        for variant, sets in data.variant_sets.items():
            scores[f"robust_accuracy/{variant}"] = _attacked_accuracy(context, policy, sets, group)
        scores["sign_reading"] = _attacked_accuracy(context, policy, data.sign_sets, group)
    return scores


def zero_shot_scores(context: TrialContext, reference: str, most: int) -> tuple[np.ndarray, int, int]:
    """Return how the untouched model does on a set as it is, over all its classes: right or wrong (N,) of ``most``
    images at most, the number of classes, and of images in the set.

    ``reference``: ``name`` (its test split) or ``name/split``.
    """
    images, total = context.data.clean_sample(reference, most)
    embeddings = context.reference.embeddings(images.view())
    text = context.reference.text_embeddings(images.class_names, images.templates)
    with torch.no_grad():
        answers = (embeddings @ text.T).argmax(-1).cpu()
    return (answers == images.labels).numpy(), len(images.class_names), total


def untouched_policy(context: TrialContext) -> TransformPolicy:
    """Return the reference as a policy: W = I on its own embeddings."""
    parameters = Parameters(objective="cross_entropy", tune="transform", learning_rate=1.0)
    identity = torch.eye(context.clip.embed_dim)
    policy = TransformPolicy(context.clip, parameters, identity)
    policy.set_weights({"w": identity})
    return policy


def measurement(scores: Mapping[str, Sequence[np.ndarray]], broken: Mapping[str, list[str]]) -> Measurement:
    """Return means and 95 % bootstrap intervals by metric. ``broken``: images left out, by split."""
    return Measurement(
        values=means(scores),
        intervals={metric: bootstrap_interval(of_sets) for metric, of_sets in scores.items()},
        images=sum(len(correct) for correct in scores["clean_accuracy"]),
        broken=dict(broken),
    )


def _attacked_accuracy(
    context: TrialContext, policy: Policy, sets: Sequence[EvaluationSet], group: WorkerGroup
) -> list[np.ndarray]:
    return [
        accuracy(predict(context, policy, shown.images, shown.attacked, group), shown.images, shown.attacked)
        for shown in sets
    ]


def _scores_of(names: Sequence[str], answers: Sequence[Answers], metrics: Mapping[str, tuple[str, str]]) -> Scores:
    """Each metric over the answers of its view on the sets called ``names``; left out where none of them has it."""
    measured = [(of_view.view, of_view.measures()) for of_view in answers if of_view.set in names]
    scores: Scores = {}
    for metric, (view, measure) in metrics.items():
        of_sets = [measures[measure] for name, measures in measured if name == view and measure in measures]
        if of_sets:
            scores[metric] = of_sets
    return scores


def _short(name: str, names: Sequence[str]) -> str:
    """``in100/test`` -> ``in100``, unless another split of the set is measured too."""
    short = name.partition("/")[0]
    return short if sum(other.partition("/")[0] == short for other in names) == 1 else name.replace("/", "-")

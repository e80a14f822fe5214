"""Measurement of a policy in the typographic task: goals on validation after each epoch, the rest once on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from trainables.context.task import Validation
from trainables.context.trial_context import TrialContext
from trainables.context.typographic_data import TypographicData
from trainables.data.image_set import ImageSet, View
from trainables.data.typographic import EvaluationSet
from trainables.distributed import WorkerGroup
from trainables.evaluation.answers import ATTACKED, CLEAN, Answers, write_answers
from trainables.evaluation.measure import Scores, means, measurement
from trainables.evaluation.predictions import (
    Predictions,
    accuracy,
    answers_from_indices,
    class_embeddings,
    image_kl_scores,
    predict,
    text_confusion,
)
from trainables.models.policy import Policy
from trainables.records import Measurement
from trainables.settings.task import split_of
from trainables.settings.typographic import OwnMetric, TypographicSettings

VALIDATION_METRICS = ("clean_accuracy", "robust_accuracy", "text_confusion_rate")
"""Metrics of a trial after each epoch, the goals among them."""

_GOALS = {
    "clean_accuracy": (CLEAN, "accuracy"),
    "robust_accuracy": (ATTACKED, "accuracy"),
    "text_confusion_rate": (ATTACKED, "text_confusion_rate"),
}
_ON_TEST = {**_GOALS, "two_way_accuracy": (ATTACKED, "two_way_accuracy"), "reference_kl": (CLEAN, "reference_kl")}
"""Metric -> (view, measure of its answers)."""


class TypographicMeasures:
    """Implements ``Measures``."""

    def findings(self, context: TrialContext) -> list[str]:
        return []

    def validation(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> Validation:
        scores = goal_scores(context, policy, data_of(context).search_sets, group)
        hits = {goal: scores[goal] for goal in ("clean_accuracy", "robust_accuracy")}
        return Validation(values=means(scores), hits=hits)

    def kept(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        return means(kept_scores(context, policy, group, unseen=False))

    def second_look(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        scores = goal_scores(context, policy, data_of(context).unseen_sets, group)
        return means(scores | kept_scores(context, policy, group, unseen=True))

    def solved_strength(self, context: TrialContext, policy: Policy, weights: Mapping[str, Tensor]) -> float | None:
        return None

    def test(
        self, context: TrialContext, policy: Policy, group: WorkerGroup, *, variants: bool, answers: Path | None = None
    ) -> Measurement:
        of_sets = test_answers(context, policy, group)
        if answers is not None and group.is_first:
            write_answers(answers, of_sets)
        scores = test_scores(context, policy, of_sets, group, variants=variants)
        return measurement(scores, context.data.broken())


def data_of(context: TrialContext) -> TypographicData:
    assert isinstance(context.data, TypographicData), "the context of a typographic task"
    return context.data


def settings_of(context: TrialContext) -> TypographicSettings:
    assert isinstance(context.task, TypographicSettings), "the context of a typographic task"
    return context.task


def goal_scores(context: TrialContext, policy: Policy, sets: Sequence[EvaluationSet], group: WorkerGroup) -> Scores:
    """Return the scores of ``VALIDATION_METRICS`` and of the user's own metrics over all class prompts of each set.

    Workers share the images; every worker gets all scores. The text-confusion rate is the share of attacked images that
    are answered with the written class; a set without attacked images has none.
    """
    own = settings_of(context).metrics
    scores: Scores = {metric: [] for metric in (*VALIDATION_METRICS, *own)}

    def predicted(images: ImageSet, view: View, name: str, prompts: Tensor) -> Predictions:
        predictions = predict(context, policy, images, view, group, prompts=prompts, own=_of_view(own, name))
        for metric, values in predictions.own.items():
            if np.isfinite(values).any():
                scores[metric].append(values[np.isfinite(values)])
        return predictions

    for evaluated in sets:
        images, clean, attacked = evaluated.images, evaluated.clean, evaluated.attacked
        prompts = class_embeddings(context, policy, images)
        if clean is not None:
            predictions = predicted(images, clean, CLEAN, prompts)
            scores["clean_accuracy"].append(accuracy(predictions, images, clean))
        predictions = predicted(images, attacked, ATTACKED, prompts)
        scores["robust_accuracy"].append(accuracy(predictions, images, attacked))
        confused = text_confusion(predictions, images, attacked)
        if len(confused):
            scores["text_confusion_rate"].append(confused)
    return {metric: of_sets for metric, of_sets in scores.items() if of_sets}


def kept_scores(context: TrialContext, policy: Policy, group: WorkerGroup, *, unseen: bool) -> Scores:
    """Return the scores on validation of the metrics that ``keep`` names and ``goal_scores`` does not have.

    Args:
        unseen: use the images that the search does not see; a metric of a set without such images is left out.
    """
    measured = (*VALIDATION_METRICS, *settings_of(context).metrics)
    further = [metric for metric in context.task.keep if metric not in measured]
    scores = {metric: _kept_scores(context, policy, metric, group, unseen=unseen) for metric in further}
    return {metric: of_sets for metric, of_sets in scores.items() if of_sets}


def _kept_scores(
    context: TrialContext, policy: Policy, metric: str, group: WorkerGroup, *, unseen: bool
) -> list[np.ndarray]:
    data = data_of(context)
    sets = data.unseen_sets if unseen else data.search_sets
    if metric == "sign_reading":
        signs = data.unseen_sign_sets if unseen else data.search_sign_sets
        return _attacked_accuracy(context, policy, signs, group)
    if metric == "reference_kl":
        shown = [(of_set.images, of_set.images.view()) for of_set in sets]
        return [image_kl_scores(context, policy, images, view, group) for images, view in shown]
    before, _, after = metric.rpartition("/")
    if before == "robust_accuracy":
        return _attacked_accuracy(context, policy, data.under(after, sets), group)
    pasted = data.unseen_pasted(before) if unseen else data.pasted(before)
    return [] if pasted is None else goal_scores(context, policy, [pasted], group)[after]


def test_answers(context: TrialContext, policy: Policy, group: WorkerGroup) -> list[Answers]:
    """Return the policy's answers on every test set, clean (with KL from the reference) and attacked."""
    answers, data, own = [], data_of(context), settings_of(context).metrics
    for tested in (*data.test_sets, *data.typographic_sets):
        images = tested.images
        prompts = class_embeddings(context, policy, images)
        if tested.clean is not None:
            metrics = _of_view(own, CLEAN)
            predictions = predict(
                context, policy, images, tested.clean, group, reference_kl=True, prompts=prompts, own=metrics
            )
            answers.append(answers_from_indices(images, tested.clean, CLEAN, predictions))
        metrics = _of_view(own, ATTACKED)
        predictions = predict(context, policy, images, tested.attacked, group, prompts=prompts, own=metrics)
        answers.append(answers_from_indices(images, tested.attacked, ATTACKED, predictions))
    return answers


def test_scores(
    context: TrialContext, policy: Policy, answers: Sequence[Answers], group: WorkerGroup, *, variants: bool = True
) -> Scores:
    """Return the metrics on test that follow from ``test_answers``.

    ``clean_accuracy``, ``robust_accuracy`` and so on are over the sets whose words are pasted; ``SET/robust_accuracy``
    is of one set: always given for real typographic sets, and if there are several. ``transfer/...`` is over the sets
    that were not trained on, if the training set is tested too. ``robust_accuracy/VARIANT`` is under an attack that
    preference data never show.

    Args:
        variants: whether to add unseen attacks and sign reading, if the task has them.
    """
    data, task = data_of(context), settings_of(context)
    pasted = [tested.images.name for tested in data.test_sets]
    on_test = _ON_TEST | {name: (metric.view, name) for name, metric in task.metrics.items()}
    scores = _scores_of(pasted, answers, on_test)
    alone = [tested.images.name for tested in data.typographic_sets] + (pasted if len(pasted) > 1 else [])
    for name in alone:
        of_set = _scores_of([name], answers, on_test)
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


def _of_view(own: Mapping[str, OwnMetric], view: str) -> dict[str, OwnMetric]:
    """Return the user's own metrics that are measured on a view."""
    return {name: metric for name, metric in own.items() if metric.view == view}


def _attacked_accuracy(
    context: TrialContext, policy: Policy, sets: Sequence[EvaluationSet], group: WorkerGroup
) -> list[np.ndarray]:
    return [
        accuracy(predict(context, policy, shown.images, shown.attacked, group), shown.images, shown.attacked)
        for shown in sets
    ]


def _scores_of(names: Sequence[str], answers: Sequence[Answers], metrics: Mapping[str, tuple[str, str]]) -> Scores:
    """Return each metric over the answers of its view on the sets ``names``; a metric that no set has is left out."""
    measured = [(of_view.view, of_view.measures()) for of_view in answers if of_view.set in names]
    scores: Scores = {}
    for metric, (view, measure) in metrics.items():
        of_sets = [measures[measure] for name, measures in measured if name == view and measure in measures]
        if of_sets:
            scores[metric] = of_sets
    return scores


def _short(name: str, names: Sequence[str]) -> str:
    """Return ``in100`` for ``in100/test``, unless another split of the set is measured too."""
    short = name.partition("/")[0]
    return short if sum(other.partition("/")[0] == short for other in names) == 1 else name.replace("/", "-")

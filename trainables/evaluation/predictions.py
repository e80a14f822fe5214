"""Answers of a model on one view of an image set, as class indices and scores per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.context.trial_context import TrialContext
from trainables.data.image_set import ImageSet, View
from trainables.distributed import WorkerGroup
from trainables.evaluation.answers import Answers
from trainables.evaluation.own_metric import own_values
from trainables.memory import in_batches
from trainables.models.policy import Policy
from trainables.settings.typographic import OwnMetric
from trainables.spelling import normal_form


@dataclass(frozen=True)
class Predictions:
    """Predictions for the N images of a view."""

    answers: np.ndarray
    """(N,) int64: class with the highest logit."""
    margins: np.ndarray
    """(N,) float64, see ``margins``."""
    reference_kl: np.ndarray | None = None
    """(N,) float64, see ``image_kl``."""
    own: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Metric of the user's own -> a number for each image (N,) float64; NaN for images that it is not about."""


@torch.no_grad()
def predict(
    context: TrialContext,
    policy: Policy,
    images: ImageSet,
    view: View,
    group: WorkerGroup,
    *,
    reference_kl: bool = False,
    prompts: Tensor | None = None,
    own: Mapping[str, OwnMetric] | None = None,
) -> Predictions:
    """Return the policy's answers on a view of ``images``, over all their classes.

    Each worker evaluates the rows ``rank::world_size``; all of them get all predictions.

    Args:
        reference_kl: whether to compute KL from the reference too.
        prompts: the policy's embeddings (C, r) of the classes, see ``class_embeddings``; by default computed here.
        own: metrics of the user's own to compute too, by name.
    """
    names, templates = images.class_names, images.templates
    classes = class_embeddings(context, policy, images) if prompts is None else prompts
    device = classes.device
    labels, written = view.labels.to(device), None if view.written is None else view.written.to(device)
    rows_of_worker = torch.arange(len(view.labels))[group.rank :: group.world_size]
    metrics = own or {}
    scores = torch.zeros(3 + len(metrics), len(view.labels), dtype=torch.float64, device=group.device)
    compares = reference_kl or bool(metrics)
    reference = context.reference.embeddings(view) if compares else None
    reference_text = context.reference.text_embeddings(names, templates) if compares else None

    def evaluate_batch(rows: Tensor) -> bool:
        logits = policy.logits(policy.image_embeddings(context.inputs.rows(policy, view, rows)), classes)
        index = rows.to(device)
        scores[0, index] = logits.argmax(-1).to(scores)
        scores[1, index] = margins(logits, labels[index], None if written is None else written[index]).to(scores)
        if reference is not None and reference_text is not None:
            reference_logits = context.reference.logits(reference[index], reference_text)
            if reference_kl:
                scores[2, index] = image_kl(logits, reference_logits).to(scores)
            second = torch.full_like(index, -1) if written is None else written[index]
            for number, metric in enumerate(metrics.values(), start=3):
                values = own_values(metric, (logits, reference_logits, labels[index], second))
                scores[number, index] = values.to(scores)
        return True

    sizes = context.batch_sizes
    _, sizes.evaluation = in_batches(rows_of_worker, sizes.evaluation, evaluate_batch, "scoring images")
    answers, logit_margins, kl, *of_own = group.sum(scores).cpu().numpy()
    own_scores = dict(zip(metrics, of_own, strict=True))
    return Predictions(answers.astype(np.int64), logit_margins, kl if reference_kl else None, own_scores)


@torch.no_grad()
def class_embeddings(context: TrialContext, policy: Policy, images: ImageSet) -> Tensor:
    """Return the policy's text embeddings (C, r) of the classes of a set, means over its templates."""
    return policy.text_embeddings(context.inputs.measured_prompts(policy, images.class_names, images.templates))


def margins(logits: Tensor, labels: Tensor, written: Tensor | None) -> Tensor:
    """Return the logit of the true minus that of the written class: (B, C) -> (B,), NaN if no class is written."""
    if written is None:
        return logits.new_full((len(logits),), torch.nan)
    labels, written = labels.to(logits.device), written.to(logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    differences = logits[rows, labels] - logits[rows, written.clamp(min=0)]
    return differences.masked_fill(written < 0, torch.nan)


def image_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Return KL(reference || policy) of every image over all class prompts: two (B, C) logits -> (B,) nats."""
    policy, reference = F.log_softmax(policy_logits.double(), -1), F.log_softmax(reference_logits.double(), -1)
    return (reference.exp() * (reference - policy)).sum(-1)


def image_kl_scores(
    context: TrialContext, policy: Policy, images: ImageSet, view: View, group: WorkerGroup
) -> np.ndarray:
    """Return KL(reference || policy) of each image of a view: (N,) nats."""
    kl = predict(context, policy, images, view, group, reference_kl=True).reference_kl
    assert kl is not None
    return kl


def accuracy(predictions: Predictions, images: ImageSet, view: View) -> np.ndarray:
    """Return whether each image of the view was answered correctly: (N,) bool."""
    words = word_indices(images.class_names)
    return np.asarray(words[predictions.answers] == words[view.labels.numpy()])


def text_confusion(predictions: Predictions, images: ImageSet, view: View) -> np.ndarray:
    """Return whether the answer is the written class, for the M images with the name of a class on them: (M,) bool."""
    assert view.written is not None, "only images with words on them can be confused by words"
    words, written = word_indices(images.class_names), view.written.numpy()
    named = written >= 0
    return np.asarray(words[predictions.answers[named]] == words[written[named]])


def word_indices(class_names: Sequence[str]) -> np.ndarray:
    """Return for each of C classes the first class whose name is the same to the tokenizer: (C,) int64.

    open_clip's names of ImageNet hold "missile" and "sunglasses" twice; an answer counts by its words.
    """
    first: dict[str, int] = {}
    return np.array([first.setdefault(normal_form(name), i) for i, name in enumerate(class_names)], np.int64)


def answers_from_indices(images: ImageSet, view: View, view_name: str, predictions: Predictions) -> Answers:
    """Return the predictions on a view of ``images`` as words."""
    names = images.class_names
    written = ("",) * len(view.labels)
    if view.written is not None:
        written = tuple(names[i] if i >= 0 else "" for i in view.written.tolist())
    return Answers(
        set=images.name,
        view=view_name,
        images=images.keys,
        true=tuple(names[i] for i in view.labels.tolist()),
        written=written,
        answer=tuple(names[i] for i in predictions.answers.tolist()),
        margin=None if view.written is None else predictions.margins,
        reference_kl=predictions.reference_kl,
        own=predictions.own,
    )

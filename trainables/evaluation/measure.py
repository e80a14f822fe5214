"""Measuring a policy: goals on validation after each epoch, everything else once on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.views import EvaluationSet, View
from trainables.distributed import WorkerGroup
from trainables.evaluation.answers import ATTACKED, CLEAN, Answers
from trainables.evaluation.metrics import bootstrap_interval, mean_score
from trainables.memory import in_parts
from trainables.models.policy import Policy
from trainables.settings.parameters import Parameters
from trainables.settings.task import split_of
from trainables.trial_context import TrialContext

Scores = dict[str, list[np.ndarray]]
"""Metric -> per image set a score per image (N,): 0 or 1 for accuracies and rates, nats for ``reference_kl``."""

_GOALS = {
    "clean_accuracy": (CLEAN, "accuracy"),
    "robust_accuracy": (ATTACKED, "accuracy"),
    "text_confusion_rate": (ATTACKED, "text_confusion_rate"),
}
_ON_TEST = {**_GOALS, "two_way_accuracy": (ATTACKED, "two_way_accuracy"), "reference_kl": (CLEAN, "reference_kl")}
"""Metric -> (view, measure of its answers)."""


def goal_scores(bench: TrialContext, policy: Policy, sets: Sequence[EvaluationSet], group: WorkerGroup) -> Scores:
    """Clean accuracy, robust accuracy and text-confusion rate over all class prompts of each set.

    Workers share the images; every one of them gets all scores. The text-confusion rate counts attacked images answered
    with the written class.
    """
    return _scores([answers for one in sets for answers in _both_views(bench, policy, one, group)], _GOALS)


def means(scores: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
    """Mean over sets of every metric."""
    return {name: mean_score(sets) for name, sets in scores.items()}


def test_answers(bench: TrialContext, policy: Policy, group: WorkerGroup) -> list[Answers]:
    """What the policy answers on every test set, clean and attacked; with KL from the reference on clean images."""
    sets = [*bench.test_sets, *bench.typographic_sets]
    return [answers for one in sets for answers in _both_views(bench, policy, one, group, reference_kl=True)]


def test_scores(
    bench: TrialContext, policy: Policy, answers: Sequence[Answers], group: WorkerGroup, *, variants: bool = True
) -> Scores:
    """The metrics on test that follow from ``test_answers``; with ``variants``, if the task has them, unseen attacks
    and sign reading too.

    ``clean_accuracy``, ``robust_accuracy`` and so on are over the sets whose words are pasted; ``SET/robust_accuracy``
    is of one set: always given for real typographic sets, and where there are several. ``transfer/...`` is over the
    sets that were not trained on, where the training set is tested too. ``robust_accuracy/VARIANT`` is under an attack
    that preference data never show.
    """
    pasted = [one.name for one in bench.test_sets]
    scores = _scores([one for one in answers if one.set in pasted], _ON_TEST)
    alone = [one.name for one in bench.typographic_sets] + (pasted if len(pasted) > 1 else [])
    for name in alone:
        own = _scores([one for one in answers if one.set == name], _ON_TEST)
        scores |= {f"{_short(name, alone)}/{metric}": sets for metric, sets in own.items()}
    transfer = [name for name in pasted if split_of(name, "test")[0] != bench.task.train.set]
    if 0 < len(transfer) < len(pasted):
        own = _scores([one for one in answers if one.set in transfer], _GOALS)
        scores |= {f"transfer/{metric}": sets for metric, sets in own.items()}
    if variants and bench.task.evaluate.test.variants:
        for variant, sets in bench.variant_sets.items():
            shown = [_answers(bench, policy, one, one.attacked, variant, group) for one in sets]
            scores[f"robust_accuracy/{variant}"] = [one.measures()["accuracy"] for one in shown]
        signs = [_answers(bench, policy, one, one.attacked, "signs", group) for one in bench.sign_sets]
        scores["sign_reading"] = [one.measures()["accuracy"] for one in signs]
    return scores


def zero_shot_scores(bench: TrialContext, reference: str, most: int) -> tuple[np.ndarray, int, int]:
    """The untouched model on a set as it is, over all its classes: right or wrong (N,) of ``most`` images at most, the
    number of classes, and of images in the set. ``reference``: ``name`` (its test split) or ``name/split``."""
    view, one, total = bench.clean_sample(reference, most)
    with torch.no_grad():
        answers = (bench.embeddings(view) @ bench.text(one.class_names, one.templates).T).argmax(-1).cpu()
    return (answers == view.labels).numpy(), len(one.class_names), total


def untouched_policy(bench: TrialContext) -> Policy:
    """The reference as a policy: W = I on its own embeddings."""
    parameters = Parameters(objective="cross_entropy", tune="transform", learning_rate=1.0)
    policy = Policy(bench.clip, parameters, embeddings=torch.eye(bench.clip.embed_dim))
    with torch.no_grad():
        policy.w.copy_(torch.eye(bench.clip.embed_dim))
    return policy


def measurement(scores: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Any]:
    """JSON-able: ``values`` and 95 % bootstrap ``intervals`` by metric, ``images`` counted."""
    return {
        "values": means(scores),
        "intervals": {name: list(bootstrap_interval(sets)) for name, sets in scores.items()},
        "images": sum(len(one) for one in scores["clean_accuracy"]),
    }


def image_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(reference || policy) of every image over all class prompts: two (B, C) logits -> (B,) nats."""
    ours, theirs = F.log_softmax(policy_logits.double(), -1), F.log_softmax(reference_logits.double(), -1)
    return (theirs.exp() * (theirs - ours)).sum(-1)


def judged(
    one: EvaluationSet,
    view: View,
    view_name: str,
    answer: np.ndarray,
    margin: np.ndarray,
    reference_kl: np.ndarray | None = None,
) -> Answers:
    """Class indices (N,) and logit margins (N,) as words."""
    names, written = one.class_names, view.written
    words = () if written is None else tuple(names[i] if i >= 0 else "" for i in written.tolist())
    return Answers(
        set=one.name,
        view=view_name,
        images=one.keys,
        true=tuple(names[i] for i in view.labels.tolist()),
        written=words or ("",) * len(view.labels),
        answer=tuple(names[i] for i in answer.tolist()),
        margin=None if written is None else margin,
        reference_kl=reference_kl,
    )


def margins(logits: Tensor, labels: Tensor, written: Tensor | None) -> Tensor:
    """Logit of the true class minus logit of the written one: (B, C) logits -> (B,), NaN where none is written."""
    if written is None:
        return logits.new_full((len(logits),), torch.nan)
    labels, written = labels.to(logits.device), written.to(logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    found = logits[rows, labels] - logits[rows, written.clamp(min=0)]
    return found.masked_fill(written < 0, torch.nan)


def _both_views(
    bench: TrialContext, policy: Policy, one: EvaluationSet, group: WorkerGroup, *, reference_kl: bool = False
) -> list[Answers]:
    found = []
    if one.clean is not None:
        found.append(_answers(bench, policy, one, one.clean, CLEAN, group, reference_kl=reference_kl))
    found.append(_answers(bench, policy, one, one.attacked, ATTACKED, group))
    return found


@torch.no_grad()
def _answers(
    bench: TrialContext,
    policy: Policy,
    one: EvaluationSet,
    view: View,
    view_name: str,
    group: WorkerGroup,
    *,
    reference_kl: bool = False,
) -> Answers:
    """Workers answer rows ``rank::world_size`` and share what they found."""
    prompts = policy.text_embeddings(bench.prompts(policy, one.class_names, one.templates))
    mine = torch.arange(len(view.labels))[group.rank :: group.world_size]
    found = torch.zeros(3, len(view.labels), dtype=torch.float64, device=group.device)
    reference = bench.embeddings(view) if reference_kl else None
    reference_text = bench.text(one.class_names, one.templates) if reference_kl else None

    def look(rows: Tensor) -> bool:
        logits = policy.logits(policy.image_embeddings(bench.input_rows(policy, view, rows)), prompts)
        written = None if view.written is None else view.written[rows]
        found[0, rows] = logits.argmax(-1).to(found)
        found[1, rows] = margins(logits, view.labels[rows], written).to(found)
        if reference is not None and reference_text is not None:
            found[2, rows] = image_kl(logits, bench.reference_logits(reference[rows], reference_text)).to(found)
        return True

    _, bench.evaluation_batch_size = in_parts(mine, bench.evaluation_batch_size, look)
    answer, margin, kl = group.sum(found).cpu().numpy()
    return judged(one, view, view_name, answer.astype(np.int64), margin, kl if reference_kl else None)


def _scores(answers: Sequence[Answers], metrics: Mapping[str, tuple[str, str]]) -> Scores:
    """Each metric over the answers of its view; a metric that none of them has is left out."""
    measured = [(one.view, one.measures()) for one in answers]
    found: Scores = {}
    for name, (view, measure) in metrics.items():
        sets = [measures[measure] for its_view, measures in measured if its_view == view and measure in measures]
        if sets:
            found[name] = sets
    return found


def _short(name: str, names: Sequence[str]) -> str:
    """``in100/test`` -> ``in100``, unless another split of the set is measured too."""
    short = name.partition("/")[0]
    return short if sum(other.partition("/")[0] == short for other in names) == 1 else name.replace("/", "-")

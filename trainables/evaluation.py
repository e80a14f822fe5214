"""Measuring a policy: goals on validation after each epoch, everything else once on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.group import WorkerGroup
from trainables.metrics import Count, bootstrap_interval, mean_share
from trainables.policy import Policy
from trainables.settings import Parameters
from trainables.workbench import EvaluationSet, View, Workbench

EVALUATION_BATCH = 512

Counts = dict[str, list[Count]]
"""Metric -> a count per image set."""


def goal_counts(bench: Workbench, policy: Policy, sets: Sequence[EvaluationSet], group: WorkerGroup) -> Counts:
    """Clean accuracy, robust accuracy and text-confusion rate over all class prompts of each set.

    Workers share the images; every one of them gets the sums. The text-confusion rate counts attacked images answered
    with the written class.
    """
    counts: Counts = {"clean_accuracy": [], "robust_accuracy": [], "text_confusion_rate": []}
    for one in sets:
        prompts = policy_prompts(bench, policy, one.class_names, one.templates)
        clean = _predictions(bench, policy, one.clean, prompts, group)
        attacked = _predictions(bench, policy, one.attacked, prompts, group)
        assert one.attacked.written is not None
        mine = slice(group.rank, None, group.world_size)
        labels, written = one.clean.labels[mine], one.attacked.written[mine]
        hits = torch.stack([(clean == labels).sum(), (attacked == labels).sum(), (attacked == written).sum()])
        totals = group.sum(hits.double().to(group.device)).cpu()
        for name, total in zip(counts, totals.tolist(), strict=True):
            counts[name].append(Count(int(total), len(one.clean.labels)))
    return counts


def shares(counts: Mapping[str, Sequence[Count]]) -> dict[str, float]:
    """Mean over sets of every metric."""
    return {name: mean_share(sets) for name, sets in counts.items()}


def intervals(counts: Mapping[str, Sequence[Count]]) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of every metric in ``shares``."""
    return {name: bootstrap_interval(sets) for name, sets in counts.items()}


def test_counts(bench: Workbench, policy: Policy, group: WorkerGroup) -> Counts:
    """Goals on the test sets; with ``variants`` also robust accuracy under unseen attacks and the reading of signs."""
    counts = goal_counts(bench, policy, bench.test_sets, group)
    if not bench.task.evaluate.test.variants:
        return counts
    for name, sets in bench.variant_sets.items():
        counts[f"robust_accuracy/{name}"] = [_accuracy(bench, policy, one, group) for one in sets]
    counts["sign_reading"] = []
    for view, class_names, templates in bench.sign_views:
        prompts = policy_prompts(bench, policy, class_names, templates)
        answers = _predictions(bench, policy, view, prompts, group)
        counts["sign_reading"].append(_count(answers, view.labels, group))
    return counts


def untouched_policy(bench: Workbench) -> Policy:
    """The reference as a policy: W = I on its own embeddings."""
    parameters = Parameters(objective="cross_entropy", tune="transform", learning_rate=1.0)
    policy = Policy(bench.clip, parameters, embeddings=torch.eye(bench.clip.embed_dim))
    with torch.no_grad():
        policy.w.copy_(torch.eye(bench.clip.embed_dim))
    return policy


def policy_prompts(
    bench: Workbench, policy: Policy, class_names: tuple[str, ...], templates: tuple[str, ...]
) -> Tensor:
    """The policy's own text embeddings (C, r)."""
    with torch.no_grad():
        return policy.text_embeddings(bench.prompts(policy, class_names, templates))


def measurement(counts: Counts) -> dict[str, Any]:
    """JSON-able: ``values`` and ``intervals`` by metric, ``images`` counted."""
    return {
        "values": shares(counts),
        "intervals": {name: list(interval) for name, interval in intervals(counts).items()},
        "images": sum(count.images for count in counts["clean_accuracy"]),
    }


def _accuracy(bench: Workbench, policy: Policy, one: EvaluationSet, group: WorkerGroup) -> Count:
    prompts = policy_prompts(bench, policy, one.class_names, one.templates)
    return _count(_predictions(bench, policy, one.attacked, prompts, group), one.attacked.labels, group)


def _count(answers: Tensor, labels: Tensor, group: WorkerGroup) -> Count:
    hits = (answers == labels[group.rank :: group.world_size]).sum().double().to(group.device)
    return Count(int(group.sum(hits).item()), len(labels))


@torch.no_grad()
def _predictions(bench: Workbench, policy: Policy, view: View, prompts: Tensor, group: WorkerGroup) -> Tensor:
    """This worker's share of the answers: class indices for rows ``rank::world_size``, on the CPU."""
    rows = bench.inputs(policy, view)[group.rank :: group.world_size]
    answers = [(policy.image_embeddings(part) @ prompts.T).argmax(-1).cpu() for part in rows.split(EVALUATION_BATCH)]
    return torch.cat(answers)

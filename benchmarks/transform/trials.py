"""Trials of the transform W with any start, form and penalty, on embeddings that are computed once.

``trainables`` trains one form, W (r, d) from ``initial_transform``. Here its alternatives are trained with the same
objectives, schedule and optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.context.trial_context import TrialContext
from trainables.data.typographic import EvaluationSet
from trainables.models.transform import (
    apply_transform,
    identity_distance,
    initial_transform,
    penalty,
    residual_transform,
)
from trainables.settings.parameters import Parameters
from trainables.training.objectives import cross_entropy, dpo, ipo, kto, reference_kl
from trainables.training.optimizer import schedule

Start = Literal[
    "images", "images centred", "images and texts", "preference texts", "all class texts", "random", "I + BA"
]
STARTS: tuple[Start, ...] = (
    "images",
    "images centred",
    "images and texts",
    "preference texts",
    "all class texts",
    "random",
    "I + BA",
)


@dataclass(frozen=True)
class EmbeddedSet:
    """An evaluation set as embeddings."""

    clean: Tensor
    """(N, d)."""
    attacked: Tensor
    """(N, d)."""
    labels: Tensor
    """(N,) int64."""
    written: Tensor
    """(N,) int64: the written class."""
    text: Tensor
    """(C, d) class prompts."""
    seen: Tensor
    """(N,) bool: the label is a class of the preference data."""


@dataclass(frozen=True)
class Embeddings:
    """Inputs of a trial of W: embeddings of the reference, which never changes."""

    clean: Tensor
    """(N, d) preference images."""
    attacked: Tensor
    """(P, d): row p is a copy of clean row p % N."""
    chosen: Tensor
    rejected: Tensor
    text: Tensor
    """(C, d) prompts of the preference classes."""
    all_text: Tensor
    """(A, d) prompts of the preference classes and of the classes of all validation sets."""
    scale: float
    bias: float
    validation: tuple[EmbeddedSet, ...]
    tests: tuple[EmbeddedSet, ...]
    signs: tuple[tuple[Tensor, Tensor, Tensor], ...]
    """(images, labels, prompts) of words on images without an object."""

    @property
    def width(self) -> int:
        return self.clean.shape[1]

    def logits(self, w: Tensor, images: Tensor, text: Tensor) -> Tensor:
        """Return the logits (N, C) of images (N, d) over class prompts (C, d)."""
        return self.scale * apply_transform(w, images) @ apply_transform(w, text).T + self.bias


def embed(context: TrialContext) -> Embeddings:
    """Return the embeddings of a context, computed or read from its cache."""
    pairs, model = context.data.pairs, context.clip.model
    classes = pairs.images.class_names
    text = context.reference.text_embeddings(classes, pairs.images.templates)
    searched = [
        context.reference.text_embeddings(evaluation_set.images.class_names, evaluation_set.images.templates)
        for evaluation_set in context.data.search_sets
    ]
    bias = getattr(model, "logit_bias", None)
    signs = [
        (
            context.reference.embeddings(sign_set.attacked),
            sign_set.attacked.labels,
            context.reference.text_embeddings(sign_set.images.class_names, sign_set.images.templates),
        )
        for sign_set in context.data.sign_sets
    ]
    return Embeddings(
        clean=context.reference.embeddings(pairs.clean),
        attacked=context.reference.embeddings(pairs.attacked),
        chosen=pairs.chosen,
        rejected=pairs.rejected,
        text=text,
        all_text=torch.cat([text, *searched]),
        scale=float(model.logit_scale.exp().detach()),
        bias=0.0 if bias is None else float(bias.detach()),
        validation=tuple(
            _embedded(context, evaluation_set, pairs.images.class_names) for evaluation_set in context.data.search_sets
        ),
        tests=tuple(
            _embedded(context, evaluation_set, pairs.images.class_names) for evaluation_set in context.data.test_sets
        ),
        signs=tuple(signs),
    )


def _embedded(context: TrialContext, evaluation_set: EvaluationSet, preference_classes: tuple[str, ...]) -> EmbeddedSet:
    assert evaluation_set.clean is not None and evaluation_set.attacked.written is not None
    seen = torch.tensor([name in preference_classes for name in evaluation_set.images.class_names])
    return EmbeddedSet(
        context.reference.embeddings(evaluation_set.clean),
        context.reference.embeddings(evaluation_set.attacked),
        evaluation_set.clean.labels,
        evaluation_set.attacked.written,
        context.reference.text_embeddings(evaluation_set.images.class_names, evaluation_set.images.templates),
        seen[evaluation_set.clean.labels],
    )


def started(data: Embeddings, start: Start, rank: int, seed: int) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Return the trained tensors of a form at step 0, and the function that computes W from them."""
    images = torch.cat([data.clean, data.attacked])
    if start == "I + BA":
        a, b = initial_transform(images, rank).requires_grad_(True), torch.zeros(data.width, rank, requires_grad=True)
        return [b, a], lambda: residual_transform(a, b)
    if start == "images":
        w = initial_transform(images, rank)
    elif start == "images centred":
        w = initial_transform(images - images.mean(0), rank)
    elif start == "images and texts":
        share = math.sqrt(len(images) / len(data.all_text))  # images and texts have the same energy
        w = initial_transform(torch.cat([images, share * data.all_text]), rank)
    elif start == "random":
        generator = torch.Generator().manual_seed(seed)
        w = torch.linalg.qr(torch.randn(data.width, rank, generator=generator)).Q.T.contiguous()
    else:
        w = initial_transform(images, rank, data.text if start == "preference texts" else data.all_text)
    w.requires_grad_(True)
    return [w], lambda: w


def train(
    data: Embeddings,
    tensors: list[Tensor],
    matrix: Callable[[], Tensor],
    parameters: Parameters,
    *,
    epochs: int,
    batch: int,
    warmup_share: float,
    seed: int,
    squared: bool = True,
) -> tuple[Tensor, list[float]]:
    """Train as ``run_trial`` does with one worker; return the last W and its identity distance after each epoch."""
    steps_per_epoch = math.ceil(len(data.chosen) / batch)
    steps = epochs * steps_per_epoch
    optimizer = torch.optim.Adamax(tensors, lr=parameters.learning_rate, foreach=True)
    identity = torch.eye(data.width)
    reference_clean = data.logits(identity, data.clean, data.text)
    reference_attacked = data.logits(identity, data.attacked, data.text)
    distances = [float(identity_distance(matrix().detach()))]
    for epoch in range(epochs):
        order = torch.randperm(len(data.chosen), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        for i, pairs in enumerate(torch.tensor_split(order, steps_per_epoch)):
            w, rows = matrix(), pairs % len(data.clean)
            logits = data.logits(w, torch.cat([data.attacked[pairs], data.clean[rows]]), data.text)
            kl = reference_kl(logits[len(pairs) :], reference_clean[rows])
            loss = preference_loss(
                parameters,
                logits[: len(pairs)],
                reference_attacked[pairs],
                data.chosen[pairs],
                data.rejected[pairs],
                kl,
            )
            loss = loss + parameters.lambda_reg * kl
            if parameters.penalty:
                gap = penalty(w)
                loss = loss + parameters.penalty * (gap if squared else (gap + 1e-12).sqrt())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            factor = schedule(epoch * steps_per_epoch + i, steps=steps, warmup=int(warmup_share * steps))
            optimizer.param_groups[0]["lr"] = parameters.learning_rate * factor
            optimizer.step()
        distances.append(float(identity_distance(matrix().detach())))
    return matrix().detach(), distances


def preference_loss(
    parameters: Parameters, logits: Tensor, reference: Tensor, chosen: Tensor, rejected: Tensor, kl: Tensor
) -> Tensor:
    """Return the preference loss (scalar) of the logits (B, C) of attacked images."""
    if parameters.objective == "cross_entropy":
        return cross_entropy(logits, chosen)
    assert parameters.beta is not None
    if parameters.objective == "kto":
        return kto(logits, reference, chosen, rejected, beta=parameters.beta, kl=kl)
    function = dpo if parameters.objective == "dpo" else ipo
    return function(logits, reference, chosen, rejected, beta=parameters.beta)


@torch.no_grad()
def goals(data: Embeddings, w: Tensor, sets: tuple[EmbeddedSet, ...]) -> tuple[float, float]:
    """Return clean and robust accuracy, means over sets."""
    hits = [
        (
            (data.logits(w, images.clean, images.text).argmax(-1) == images.labels).double().mean(),
            (data.logits(w, images.attacked, images.text).argmax(-1) == images.labels).double().mean(),
        )
        for images in sets
    ]
    clean, robust = torch.tensor(hits, dtype=torch.float64).mean(0).tolist()
    return clean, robust


@torch.no_grad()
def measure(data: Embeddings, w: Tensor) -> dict[str, float]:
    """Return metric -> mean over the test sets: shares of images, and KL(reference || policy) in nats."""
    by_set: dict[str, list[float]] = {}

    def add(name: str, hits: Tensor) -> None:
        if len(hits):
            by_set.setdefault(name, []).append(hits.double().mean().item())

    identity = torch.eye(data.width)
    for test in data.tests:
        clean_logits = data.logits(w, test.clean, test.text)
        clean = clean_logits.argmax(-1)
        attacked = data.logits(w, test.attacked, test.text).argmax(-1)
        add("clean", clean == test.labels)
        add("robust", attacked == test.labels)
        add("says the word", attacked == test.written)
        for name, group in (("seen", test.seen), ("unseen", ~test.seen)):
            add(f"clean {name}", (clean == test.labels)[group])
            add(f"robust {name}", (attacked == test.labels)[group])
        kl = reference_kl(clean_logits, data.logits(identity, test.clean, test.text))
        by_set.setdefault("KL", []).append(float(kl))
    for images, labels, text in data.signs:
        add("reads signs", data.logits(w, images, text).argmax(-1) == labels)
    return {name: sum(values) / len(values) for name, values in by_set.items()}

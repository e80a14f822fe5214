"""Trials of the transform W with any start, form and penalty, on embeddings that are computed once.

The library trains one form, W (r, d) from ``initial_transform``; here the alternatives to it are trained by the same
objectives, schedule and optimiser, so that only what is compared differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.data.views import EvaluationSet
from trainables.models.transform import (
    apply_transform,
    identity_distance,
    initial_transform,
    penalty,
    residual_transform,
)
from trainables.settings.parameters import Parameters
from trainables.training.objectives import cross_entropy, dpo, ipo, kto, reference_kl
from trainables.training.trial import schedule
from trainables.trial_context import TrialContext

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
class Measured:
    """One evaluation set as embeddings: (N, d) images, (C, d) class prompts."""

    clean: Tensor
    attacked: Tensor
    labels: Tensor
    written: Tensor
    text: Tensor
    seen: Tensor
    """(N,) bool: the label is a class of the preference data."""


@dataclass(frozen=True)
class Embeddings:
    """All that a trial of W sees; the reference never changes."""

    clean: Tensor
    """(N, d) preference images."""
    attacked: Tensor
    """(P, d): row p is a copy of clean row p % N."""
    chosen: Tensor
    rejected: Tensor
    text: Tensor
    """(C, d) prompts of the preference classes."""
    all_text: Tensor
    """(A, d) prompts of the preference classes and of all classes that are searched on."""
    scale: float
    bias: float
    validation: tuple[Measured, ...]
    tests: tuple[Measured, ...]
    signs: tuple[tuple[Tensor, Tensor, Tensor], ...]
    """(images, labels, prompts) of words on images without an object."""

    @property
    def width(self) -> int:
        return self.clean.shape[1]

    def logits(self, w: Tensor, images: Tensor, text: Tensor) -> Tensor:
        """(N, C)."""
        return self.scale * apply_transform(w, images) @ apply_transform(w, text).T + self.bias


def embed(bench: TrialContext) -> Embeddings:
    """Everything once, through the library's own cache."""
    pairs, model = bench.pairs, bench.clip.model
    assert pairs.attacked.written is not None
    text = bench.text(pairs.class_names, pairs.templates)
    searched = [bench.text(one.class_names, one.templates) for one in bench.search_sets]
    bias = getattr(model, "logit_bias", None)
    signs = [
        (bench.embeddings(one.attacked), one.attacked.labels, bench.text(one.class_names, one.templates))
        for one in bench.sign_sets
    ]
    return Embeddings(
        clean=bench.embeddings(pairs.clean),
        attacked=bench.embeddings(pairs.attacked),
        chosen=pairs.attacked.labels,
        rejected=pairs.attacked.written,
        text=text,
        all_text=torch.cat([text, *searched]),
        scale=float(model.logit_scale.exp().detach()),
        bias=0.0 if bias is None else float(bias.detach()),
        validation=tuple(_measured(bench, one, pairs.class_names) for one in bench.search_sets),
        tests=tuple(_measured(bench, one, pairs.class_names) for one in bench.test_sets),
        signs=tuple(signs),
    )


def _measured(bench: TrialContext, one: EvaluationSet, preference_classes: tuple[str, ...]) -> Measured:
    assert one.clean is not None and one.attacked.written is not None
    seen = torch.tensor([name in preference_classes for name in one.class_names])
    return Measured(
        bench.embeddings(one.clean),
        bench.embeddings(one.attacked),
        one.clean.labels,
        one.attacked.written,
        bench.text(one.class_names, one.templates),
        seen[one.clean.labels],
    )


def started(data: Embeddings, start: Start, rank: int, seed: int) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """The trained tensors of one form at step 0, and the function that makes W of them."""
    images = torch.cat([data.clean, data.attacked])
    if start == "I + BA":
        a, b = initial_transform(images, rank).requires_grad_(True), torch.zeros(data.width, rank, requires_grad=True)
        return [b, a], lambda: residual_transform(a, b)
    if start == "images":
        w = initial_transform(images, rank)
    elif start == "images centred":
        w = initial_transform(images - images.mean(0), rank)
    elif start == "images and texts":
        share = math.sqrt(len(images) / len(data.all_text))  # both with the same energy
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
    """What ``trainables.train`` does with one worker: W after the last step, and its identity distance by epoch."""
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
    """Scalar, of attacked images' logits (B, C)."""
    if parameters.objective == "cross_entropy":
        return cross_entropy(logits, chosen)
    assert parameters.beta is not None
    if parameters.objective == "kto":
        return kto(logits, reference, chosen, rejected, beta=parameters.beta, kl=kl)
    function = dpo if parameters.objective == "dpo" else ipo
    return function(logits, reference, chosen, rejected, beta=parameters.beta)


@torch.no_grad()
def goals(data: Embeddings, w: Tensor, sets: tuple[Measured, ...]) -> tuple[float, float]:
    """Clean and robust accuracy, means over sets."""
    hits = [
        (
            (data.logits(w, one.clean, one.text).argmax(-1) == one.labels).double().mean(),
            (data.logits(w, one.attacked, one.text).argmax(-1) == one.labels).double().mean(),
        )
        for one in sets
    ]
    clean, robust = torch.tensor(hits, dtype=torch.float64).mean(0).tolist()
    return clean, robust


@torch.no_grad()
def measure(data: Embeddings, w: Tensor) -> dict[str, float]:
    """Shares of test images (means over sets), over all class prompts; KL(reference || policy) in nats."""
    found: dict[str, list[float]] = {}

    def add(name: str, hits: Tensor) -> None:
        if len(hits):
            found.setdefault(name, []).append(hits.double().mean().item())

    identity = torch.eye(data.width)
    for one in data.tests:
        clean_logits = data.logits(w, one.clean, one.text)
        clean = clean_logits.argmax(-1)
        attacked = data.logits(w, one.attacked, one.text).argmax(-1)
        add("clean", clean == one.labels)
        add("robust", attacked == one.labels)
        add("says the word", attacked == one.written)
        for name, group in (("seen", one.seen), ("unseen", ~one.seen)):
            add(f"clean {name}", (clean == one.labels)[group])
            add(f"robust {name}", (attacked == one.labels)[group])
        kl = reference_kl(clean_logits, data.logits(identity, one.clean, one.text))
        found.setdefault("KL", []).append(float(kl))
    for images, labels, text in data.signs:
        add("reads signs", data.logits(w, images, text).argmax(-1) == labels)
    return {name: sum(values) / len(values) for name, values in found.items()}

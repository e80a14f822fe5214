"""Trains anchors, interpolates their weights or transforms, and trains a line of policies between two ends at once.

Weights are dicts of the tuned parameters by name, as ``Policy.tuned`` has them.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.goals import TYPOGRAPHIC
from benchmarks.search.response_table import image_count
from trainables.context.trial_context import TrialContext
from trainables.data.typographic import EvaluationSet
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import means
from trainables.evaluation.typographic import goal_scores
from trainables.records import Report, goal_values
from trainables.settings.parameters import Parameters
from trainables.training.hooks import Hooks
from trainables.training.objectives import cross_entropy, reference_kl
from trainables.training.optimizer import schedule
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

Weights = dict[str, Tensor]
Value = tuple[float, float]
"""(clean accuracy, robust accuracy)."""

BACKWARD = 3
"""Cost of training on an image, in forward passes: a backward pass costs as much as two of them."""


@dataclass
class Cost:
    """What one strategy has used so far."""

    image_steps: int = 0
    evaluation_images: int = 0
    trainings: float = 0.0
    evaluations: int = 0

    @property
    def images(self) -> int:
        """Forward passes of one image, training included."""
        return BACKWARD * self.image_steps + self.evaluation_images


@dataclass(frozen=True)
class MixedPoint:
    """A point that a strategy offers to the front."""

    name: str
    weights: Weights
    validation: Value
    test: Value | None = None
    """None: still to be measured from ``weights``."""


@dataclass(frozen=True)
class Anchor:
    """A trained trial, and what its training used."""

    weights: Weights
    validation: Value
    image_steps: int
    evaluations: int
    progress: float


AnchorKey = tuple[str, float, int]
"""(parameters as JSON, share of the steps that is trained, multiple of the sweep's epochs)."""


class _RungReached(Exception):
    """Ends a trial at its rung."""


@dataclass
class Mixer:
    """Trains, mixes and evaluates with one training seed, and counts the cost of it."""

    context: TrialContext
    seed: int
    anchors: dict[AnchorKey, Anchor]
    """Anchors of this seed, shared by all strategies: each is trained once, and each strategy that uses it pays."""
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        self._group = WorkerGroup(device=self.context.device)

    @property
    def validation_images(self) -> int:
        return image_count(self.context.data.search_sets)

    def retrain(self, parameters: Parameters, seed: int) -> Weights:
        """Return the weights of a trial whose cost the caller counts."""
        return self._train(parameters, 1.0, seed).weights

    def train_anchor(self, parameters: Parameters, *, until: float = 1.0, longer: int = 1) -> Anchor:
        """Train a trial to the share ``until`` of its steps, unless the same one has been trained, and count its cost.

        ``longer``: multiple of the epochs of the sweep's trials.
        """
        key = (parameters.model_dump_json(), until, longer)
        if key not in self.anchors:
            task = self.context.task
            epochs = longer * task.training.epochs
            try:
                self.context.task = task.model_copy(
                    update={"training": task.training.model_copy(update={"epochs": epochs})}
                )
                self.anchors[key] = self._train(parameters, until, self.seed)
            finally:
                self.context.task = task
        anchor = self.anchors[key]
        self.cost.image_steps += anchor.image_steps
        self.cost.evaluation_images += anchor.evaluations * self.validation_images
        self.cost.trainings += longer * anchor.progress
        self.cost.evaluations += anchor.evaluations
        return anchor

    def _train(self, parameters: Parameters, until: float, seed: int) -> Anchor:
        reports: list[Report] = []

        def on_report(report: Report) -> None:
            reports.append(report)
            if report.progress >= until:
                raise _RungReached

        rungs = () if until == 1.0 else (until,)
        with tempfile.TemporaryDirectory() as name:
            folder, hooks = TrialFolder(Path(name)), Hooks(report=on_report)
            with contextlib.suppress(_RungReached):
                run_trial(
                    self.context, parameters, seed=seed, folder=folder, group=self._group, hooks=hooks, rungs=rungs
                )
            state = folder.load_checkpoint()
        assert state is not None, "an evaluation comes after its checkpoint"
        last, pairs = reports[-1], len(self.context.data.preference_rows(parameters))
        image_steps = round(2 * pairs * last.epoch)
        return Anchor(state["policy"], goal_values(last.values, TYPOGRAPHIC), image_steps, len(reports), last.progress)

    def untouched(self, parameters: Parameters) -> Weights:
        """Return the weights from which a trial of ``parameters`` starts."""
        policy = self.context.policy(parameters)
        return {name: value.detach().clone() for name, value in policy.tuned().items()}

    def evaluate(self, parameters: Parameters, mixes: Iterator[tuple[str, Weights]]) -> list[MixedPoint]:
        """Return each mix with its goals on validation; the evaluations are counted."""
        points = []
        for name, weights in mixes:
            points.append(MixedPoint(name, weights, self._goals(parameters, weights, self.context.data.search_sets)))
            self.cost.evaluation_images += self.validation_images
            self.cost.evaluations += 1
        return points

    def test(self, parameters: Parameters, weights: Weights) -> Value:
        """Return the goals on test. No decision depends on them, so they cost a strategy nothing."""
        return self._goals(parameters, weights, self.context.data.test_sets)

    def _goals(self, parameters: Parameters, weights: Weights, sets: Sequence[EvaluationSet]) -> Value:
        policy = self.context.policy(parameters)
        try:
            policy.set_weights(weights)
            values = means(goal_scores(self.context, policy, sets, self._group))
        finally:
            policy.restore()
        return goal_values(values, TYPOGRAPHIC)

    def train_line(
        self, parameters: Parameters, lambdas: tuple[float, float], *, epochs: int, generator: torch.Generator
    ) -> tuple[Weights, Weights]:
        """Train both ends of a line of policies at once and return their weights; each step is at a random place.

        At place w in [0, 1] the weights are (1 - w) first + w second and the loss is cross-entropy on attacked images +
        lambda(w) KL on clean ones, where lambda(w) is ``lambdas`` interpolated geometrically: a Pareto manifold with
        two members (Dimitriadis et al. 2023, arXiv 2210.09759).
        """
        context, pairs, training = self.context, self.context.data.pairs, self.context.task.training
        policy = context.policy(parameters)
        rows = context.data.preference_rows(parameters)
        per_epoch = math.ceil(len(rows) / training.global_batch_size)
        steps = epochs * per_epoch
        inputs_clean = context.inputs.whole_view(policy, pairs.clean)
        inputs_attacked = context.inputs.whole_view(policy, pairs.attacked)
        names, templates = pairs.images.class_names, pairs.images.templates
        prompts = context.inputs.prompts(policy, names, templates)
        text = context.reference.text_embeddings(names, templates)
        reference = context.reference.logits(context.reference.embeddings(pairs.clean), text)
        tuned = policy.tuned()
        ends = [{name: value.detach().clone().requires_grad_(True) for name, value in tuned.items()} for _ in range(2)]
        optimizer = torch.optim.Adamax([*ends[0].values(), *ends[1].values()], lr=1.0, foreach=True)
        try:
            for step in range(steps):
                if step % per_epoch == 0:
                    order = rows[torch.randperm(len(rows), generator=generator)]
                    batches = torch.tensor_split(order, per_epoch)
                batch = batches[step % per_epoch]
                clean = batch % len(pairs.images.labels)
                place = float(torch.rand((), generator=generator))
                with torch.no_grad():
                    for name, value in tuned.items():
                        value.copy_(torch.lerp(ends[0][name], ends[1][name], place))
                logits = policy(torch.cat([inputs_attacked[batch], inputs_clean[clean]]), prompts)
                kl = reference_kl(logits[len(batch) :], reference[clean])
                loss = cross_entropy(logits[: len(batch)], pairs.chosen[batch])
                loss = loss + lambdas[0] ** (1 - place) * lambdas[1] ** place * kl
                for value in tuned.values():
                    value.grad = None
                loss.backward()
                for share, end in ((1 - place, ends[0]), (place, ends[1])):
                    for name, value in tuned.items():
                        assert value.grad is not None
                        end[name].grad = share * value.grad
                factor = schedule(step, steps=steps, warmup=int(training.warmup_share * steps))
                optimizer.param_groups[0]["lr"] = parameters.learning_rate * factor
                optimizer.step()
        finally:
            policy.restore()
        self.cost.image_steps += 2 * epochs * len(rows)
        self.cost.trainings += epochs / training.epochs
        first, second = ({name: value.detach() for name, value in end.items()} for end in ends)
        return first, second


Mix = Callable[[Weights, Sequence[Weights], Sequence[float]], Weights]
"""(untouched, anchors, shares of the anchors) -> weights; the untouched weights have the rest of the shares."""


def linear(untouched: Weights, anchors: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Return untouched + sum of share x (anchor - untouched): rewarded soups (Rame et al. 2023, arXiv 2306.04488)."""
    return {
        name: start + sum(share * (anchor[name] - start) for share, anchor in zip(shares, anchors, strict=True))
        for name, start in untouched.items()
    }


def metric(untouched: Weights, anchors: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Return W = M^(1/2) (d, d) of M = sum of share x W^T W over transforms W (r, d) of any ranks + the rest x I.

    Cosines after a transform W depend on W^T W only.
    """
    ((name, start),) = untouched.items()
    total = (1 - sum(shares)) * torch.eye(start.shape[1], dtype=torch.float64)
    for share, anchor in zip(shares, anchors, strict=True):
        w = anchor[name].double()
        total += share * w.T @ w
    return {name: _function(total, lambda values: values.clamp(min=0).sqrt()).float()}


def logarithmic(untouched: Weights, anchors: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Return exp(sum of share x log(W^T W) / 2) of transforms W (d, d).

    With one anchor: W^t at t = its share, up to a rotation.
    """
    ((name, start),) = untouched.items()
    total = torch.zeros(start.shape[1], start.shape[1], dtype=torch.float64)
    for share, anchor in zip(shares, anchors, strict=True):
        w = anchor[name].double()
        total += share * _function(w.T @ w, lambda values: values.clamp(min=1e-6).log())
    return {name: _function(total / 2, torch.exp).float()}


def _function(symmetric: Tensor, of_eigenvalues: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a function of a symmetric matrix (d, d), taken of its eigenvalues (d,)."""
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * of_eigenvalues(values)) @ vectors.T


def lines(
    mix: Mix, untouched: Weights, anchors: Sequence[Weights], places: Sequence[float], strengths: Sequence[float]
) -> Iterator[tuple[str, Weights]]:
    """Yield (name, weights) of each anchor and of each pair of anchors at ``places`` in (0, 1), at all strengths."""
    for index, anchor in enumerate(anchors):
        for strength in strengths:
            yield f"{index} at {strength:g}", mix(untouched, [anchor], [strength])
    for (i, first), (j, second) in itertools.combinations(enumerate(anchors), 2):
        for place, strength in itertools.product(places, strengths):
            shares = [strength * (1 - place), strength * place]
            yield f"{i} to {j} by {place:g} at {strength:g}", mix(untouched, [first, second], shares)

"""Anchors, and what is mixed from them: interpolated weights and transforms, and one training along a line of policies.

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
from typing import Any

import torch
from torch import Tensor

from trainables.data.views import EvaluationSet
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import goal_scores, means
from trainables.settings.parameters import Parameters
from trainables.training.checkpoint import TrialFolder
from trainables.training.objectives import cross_entropy, reference_kl
from trainables.training.trial import Hooks, run_trial, schedule
from trainables.trial_context import TrialContext

Weights = dict[str, Tensor]
Value = tuple[float, float]
"""(clean accuracy, robust accuracy)."""

BACKWARD = 3
"""An image that is trained on costs as much as three that are looked at: one pass forward, two backward."""


@dataclass
class Usage:
    """What was spent."""

    image_steps: int = 0
    evaluation_images: int = 0
    trainings: float = 0.0
    evaluations: int = 0

    @property
    def cost(self) -> int:
        """In images looked at."""
        return BACKWARD * self.image_steps + self.evaluation_images


@dataclass(frozen=True)
class Mixed:
    """One point that a soup offers."""

    name: str
    weights: Weights
    validation: Value
    test: Value | None = None
    """Where it is known already."""


@dataclass(frozen=True)
class Trained:
    weights: Weights
    validation: Value
    image_steps: int
    evaluations: int
    progress: float


Key = tuple[str, float, int]
"""Parameters, share of the steps, how many times as long."""


class _Enough(Exception):
    """Ends a trial at its rung."""


@dataclass
class Kitchen:
    """One workbench, one training seed; everything that is trained or looked at is on the bill."""

    bench: TrialContext
    seed: int
    trained: dict[Key, Trained]
    """Of this seed, by whatever recipe: none is trained twice."""
    bill: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._group = WorkerGroup(device=self.bench.device)

    @property
    def validation_images(self) -> int:
        return _images(self.bench.search_sets)

    def again(self, parameters: Parameters, seed: int) -> Weights:
        """A trial whose training was paid for elsewhere."""
        return self._train(parameters, 1.0, seed).weights

    def anchor(self, parameters: Parameters, *, until: float = 1.0, longer: int = 1) -> Trained:
        """One trial, to its end or to the share ``until`` of its steps; each recipe pays for it.

        ``longer``: so many times the epochs of the sweep's trials.
        """
        key = (parameters.model_dump_json(), until, longer)
        if key not in self.trained:
            task = self.bench.task
            epochs = longer * task.training.epochs
            try:
                self.bench.task = task.model_copy(
                    update={"training": task.training.model_copy(update={"epochs": epochs})}
                )
                self.trained[key] = self._train(parameters, until, self.seed)
            finally:
                self.bench.task = task
        found = self.trained[key]
        self.bill.image_steps += found.image_steps
        self.bill.evaluation_images += found.evaluations * self.validation_images
        self.bill.trainings += longer * found.progress
        self.bill.evaluations += found.evaluations
        return found

    def _train(self, parameters: Parameters, until: float, seed: int) -> Trained:
        reports: list[dict[str, Any]] = []

        def report(line: dict[str, Any]) -> None:
            reports.append(line)
            if line["progress"] >= until:
                raise _Enough

        rungs = () if until == 1.0 else (until,)
        with tempfile.TemporaryDirectory() as name:
            folder, hooks = TrialFolder(Path(name)), Hooks(report=report)
            with contextlib.suppress(_Enough):
                run_trial(self.bench, parameters, seed=seed, folder=folder, group=self._group, hooks=hooks, rungs=rungs)
            state = folder.load_checkpoint(self.bench.device)
        assert state is not None, "an evaluation comes after its checkpoint"
        last, pairs = reports[-1], len(self.bench.pair_rows(parameters))
        goals = last["clean_accuracy"], last["robust_accuracy"]
        return Trained(state["policy"], goals, round(2 * pairs * last["epoch"]), len(reports), last["progress"])

    def untouched(self, parameters: Parameters) -> Weights:
        """Where such trials start."""
        policy = self.bench.policy(parameters)
        return {name: value.detach().clone() for name, value in policy.tuned().items()}

    def taste(self, parameters: Parameters, mixes: Iterator[tuple[str, Weights]]) -> list[Mixed]:
        """Goals on validation of each mix."""
        found = []
        for name, weights in mixes:
            found.append(Mixed(name, weights, self._goals(parameters, weights, self.bench.search_sets)))
            self.bill.evaluation_images += self.validation_images
            self.bill.evaluations += 1
        return found

    def test(self, parameters: Parameters, weights: Weights) -> Value:
        """Goals on test: a measurement, no decision, and not on the bill."""
        return self._goals(parameters, weights, self.bench.test_sets)

    def _goals(self, parameters: Parameters, weights: Weights, sets: Sequence[EvaluationSet]) -> Value:
        policy = self.bench.policy(parameters)
        try:
            policy.set_weights(weights)
            values = means(goal_scores(self.bench, policy, sets, self._group))
        finally:
            policy.restore()
        return values["clean_accuracy"], values["robust_accuracy"]

    def line(
        self, parameters: Parameters, lambdas: tuple[float, float], *, epochs: int, generator: torch.Generator
    ) -> tuple[Weights, Weights]:
        """Trains the two ends of a line of policies at once, each step at a random place of it.

        At place w in [0, 1] the weights are (1 - w) first + w second and the loss is cross-entropy on attacked images +
        lambda(w) KL on clean ones, lambda(w) between ``lambdas`` in the logarithm: a Pareto manifold of Dimitriadis et
        al. (2023, arXiv 2210.09759) with two members.
        """
        bench, pairs, training = self.bench, self.bench.pairs, self.bench.task.training
        policy = bench.policy(parameters)
        rows = bench.pair_rows(parameters)
        per_epoch = math.ceil(len(rows) / training.global_batch_size)
        steps = epochs * per_epoch
        inputs_clean, inputs_attacked = bench.inputs(policy, pairs.clean), bench.inputs(policy, pairs.attacked)
        prompts, text = bench.prompts(policy, pairs.class_names, pairs.templates), bench.text(*_words(bench))
        reference = bench.reference_logits(bench.embeddings(pairs.clean), text)
        tuned = policy.tuned()
        ends = [{name: value.detach().clone().requires_grad_(True) for name, value in tuned.items()} for _ in range(2)]
        optimizer = torch.optim.Adamax([*ends[0].values(), *ends[1].values()], lr=1.0, foreach=True)
        try:
            for step in range(steps):
                if step % per_epoch == 0:
                    order = rows[torch.randperm(len(rows), generator=generator)]
                    batches = torch.tensor_split(order, per_epoch)
                batch = batches[step % per_epoch]
                clean = batch % len(pairs.clean.labels)
                place = float(torch.rand((), generator=generator))
                with torch.no_grad():
                    for name, value in tuned.items():
                        value.copy_(torch.lerp(ends[0][name], ends[1][name], place))
                logits = policy(torch.cat([inputs_attacked[batch], inputs_clean[clean]]), prompts)
                kl = reference_kl(logits[len(batch) :], reference[clean])
                loss = cross_entropy(logits[: len(batch)], pairs.attacked.labels[batch])
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
        self.bill.image_steps += 2 * epochs * len(rows)
        self.bill.trainings += epochs / training.epochs
        first, second = ({name: value.detach() for name, value in end.items()} for end in ends)
        return first, second


Mix = Callable[[Weights, Sequence[Weights], Sequence[float]], Weights]
"""(untouched, anchors, their shares) -> weights; shares that add up to less than 1 leave the rest to the untouched."""


def linear(untouched: Weights, anchors: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """untouched + sum of share x (anchor - untouched): rewarded soups (Rame et al. 2023, arXiv 2306.04488)."""
    return {
        name: start + sum(share * (anchor[name] - start) for share, anchor in zip(shares, anchors, strict=True))
        for name, start in untouched.items()
    }


def metric(untouched: Weights, anchors: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Of transforms W (r, d) of any ranks: M = share of each W^T W, the rest I; W = M^(1/2) (d, d).

    Cosines after W see W^T W only.
    """
    ((name, start),) = untouched.items()
    total = (1 - sum(shares)) * torch.eye(start.shape[1], dtype=torch.float64)
    for share, anchor in zip(shares, anchors, strict=True):
        w = anchor[name].double()
        total += share * w.T @ w
    return {name: _function(total, lambda values: values.clamp(min=0).sqrt()).float()}


def logarithmic(untouched: Weights, anchors: Sequence[Weights], shares: Sequence[float]) -> Weights:
    """Of transforms W (d, d): exp(sum of share x log(W^T W) / 2); with one anchor W^t at t = its share, rotated."""
    ((name, start),) = untouched.items()
    total = torch.zeros(start.shape[1], start.shape[1], dtype=torch.float64)
    for share, anchor in zip(shares, anchors, strict=True):
        w = anchor[name].double()
        total += share * _function(w.T @ w, lambda values: values.clamp(min=1e-6).log())
    return {name: _function(total / 2, torch.exp).float()}


def _function(symmetric: Tensor, of_eigenvalues: Callable[[Tensor], Tensor]) -> Tensor:
    """(d, d) -> (d, d)."""
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * of_eigenvalues(values)) @ vectors.T


def lines(
    mix: Mix, untouched: Weights, anchors: Sequence[Weights], places: Sequence[float], strengths: Sequence[float]
) -> Iterator[tuple[str, Weights]]:
    """Between any two anchors at each place in (0, 1), and at every anchor; each at all strengths."""
    for index, anchor in enumerate(anchors):
        for strength in strengths:
            yield f"{index} at {strength:g}", mix(untouched, [anchor], [strength])
    for (i, first), (j, second) in itertools.combinations(enumerate(anchors), 2):
        for place, strength in itertools.product(places, strengths):
            shares = [strength * (1 - place), strength * place]
            yield f"{i} to {j} by {place:g} at {strength:g}", mix(untouched, [first, second], shares)


def _words(bench: TrialContext) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return bench.pairs.class_names, bench.pairs.templates


def _images(sets: Sequence[EvaluationSet]) -> int:
    return sum(len(one.attacked.labels) + (0 if one.clean is None else len(one.clean.labels)) for one in sets)

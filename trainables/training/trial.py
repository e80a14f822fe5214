"""One trial: steps, averaging, evaluation after each epoch, checkpoint and resume, the strength curve at its end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import goal_scores, means
from trainables.memory import MicroBatchReduced, halve, in_memory
from trainables.models.policy import Policy
from trainables.models.transform import identity_distance
from trainables.numerics import flushed_denormals
from trainables.settings.parameters import Parameters
from trainables.training.averaging import BetaAverage
from trainables.training.checkpoint import CheckpointWriter, TrialFolder
from trainables.training.objectives import preference_loss, reference_kl
from trainables.trial_context import TrialContext

GOALS = ("clean_accuracy", "robust_accuracy", "text_confusion_rate")


class Interrupted(Exception):
    """Asked to stop; the checkpoint holds everything."""


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or not a number: every worker of the trial sees it in the same step."""


@dataclass(frozen=True)
class Hooks:
    """How the outside follows a trial and stops it. Called by every worker."""

    report: Callable[[dict[str, Any]], None] = lambda report: None
    """After each evaluation, once its checkpoint and metric line are on disk. May raise to end the trial. An attempt
    that goes on from a checkpoint repeats the last report."""
    interrupted: Callable[[], bool] = lambda: False
    """Asked at each step, must be cheap. True: checkpoint, then ``Interrupted``."""
    alive: Callable[[], None] = lambda: None
    """Called at each step, so that a watchdog knows."""
    log: Callable[[str], None] = lambda line: None
    """Told what a user may want to know of how the trial ran."""


def run_trial(
    bench: TrialContext,
    parameters: Parameters,
    *,
    seed: int,
    folder: TrialFolder,
    group: WorkerGroup | None = None,
    hooks: Hooks | None = None,
    rungs: Sequence[float] = (),
) -> dict[str, Any]:
    """Trains one policy, or goes on from its checkpoint, and returns its final record (also in ``result.json``).

    It is evaluated after each epoch and at ``rungs``, shares of its steps in (0, 1), where whoever follows it may
    decide that it is not worth going on.

    The record has ``values`` (goals on validation with the last weights at strength 1), ``points`` (validation at
    other strengths and of the averaged weights), ``epochs``, ``train_s``, ``evaluation_s`` and, of a transform, the
    ``identity_distance`` of the last W.

    Raises:
        NonFiniteLoss, Interrupted, checkpoint.Superseded; ValueError for parameters that do not fit the model;
        memory.OutOfMemory where not even one pair of images fits; memory.MicroBatchReduced (several workers only).
    """
    group = group or WorkerGroup(device=bench.device)
    finished = folder.result()
    if finished is not None:
        return finished
    if group.is_first:
        folder.claim()
    policy = bench.policy(parameters)
    writer = CheckpointWriter(folder)
    try:
        with flushed_denormals():
            return _Trial(bench, policy, parameters, seed, folder, writer, group, hooks or Hooks(), rungs).run()
    finally:
        writer.close()
        policy.restore()


class _Trial:
    def __init__(
        self,
        bench: TrialContext,
        policy: Policy,
        parameters: Parameters,
        seed: int,
        folder: TrialFolder,
        writer: CheckpointWriter,
        group: WorkerGroup,
        hooks: Hooks,
        rungs: Sequence[float],
    ) -> None:
        self._bench, self._policy, self._parameters, self._seed = bench, policy, parameters, seed
        self._folder, self._writer, self._group, self._hooks = folder, writer, group, hooks
        settings, pairs = bench.task.training, bench.pairs
        self._settings, self._pairs = settings, pairs
        self._rows = bench.pair_rows(parameters)
        count = len(self._rows)
        self._steps_per_epoch = math.ceil(count / settings.global_batch_size)
        if count // self._steps_per_epoch < group.world_size:
            raise ValueError(
                f"global_batch_size {settings.global_batch_size} with {count} pairs leaves workers without images; "
                f"{group.world_size} workers need at least that many pairs in each step"
            )
        self._steps = settings.epochs * self._steps_per_epoch
        sizes = (settings.micro_batch_size, bench.micro_batch_size(parameters), folder.micro_batch_size())
        self._micro_batch_size = min([size for size in sizes if size is not None] or [settings.global_batch_size])
        self._wrapped: nn.Module = group.wrap(policy)
        self._optimizer = _optimizer(policy, parameters, settings.optimizer)
        self._average = BetaAverage(policy.tuned(), steps=self._steps, beta=settings.averaging_beta)
        self._step = 0
        """Updates done."""
        self._rungs = {min(self._steps, math.ceil(share * self._steps - 1e-9)) for share in rungs} - {self._steps}
        epoch_ends = range(self._steps_per_epoch, self._steps + 1, self._steps_per_epoch)
        self._milestones = sorted({*self._rungs, *epoch_ends})
        """Steps after which the policy is evaluated."""
        self._batches: tuple[int, tuple[Tensor, ...]] = (-1, ())
        """An epoch and the rows of its batches."""
        self._sums = torch.zeros(3, dtype=torch.float64)
        """Since the last evaluation: preference loss, reference KL, steps."""
        self._times_s = {"train_s": 0.0, "evaluation_s": 0.0}
        self._goals: dict[str, float] = {}
        """On validation at the last evaluation."""
        self._clean_inputs = bench.inputs(policy, pairs.clean)
        self._attacked_inputs = bench.inputs(policy, pairs.attacked)
        self._prompts = bench.prompts(policy, pairs.class_names, pairs.templates)
        self._reference_clean = bench.embeddings(pairs.clean)
        self._reference_attacked = bench.embeddings(pairs.attacked)
        self._reference_text = bench.text(pairs.class_names, pairs.templates)

    def run(self) -> dict[str, Any]:
        self._resume()
        for milestone in self._milestones:
            if milestone > self._step:
                self._train_until(milestone)
                self._checkpoint()
                self._evaluate()
        return self._finish()

    def _resume(self) -> None:
        state = self._folder.load_checkpoint(self._group.device)
        if state is None:
            return
        with torch.no_grad():
            for name, parameter in self._policy.tuned().items():
                parameter.copy_(state["policy"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        self._step = state["step"]
        self._sums, self._times_s = state["sums"].cpu(), dict(state["times_s"])
        if self._step in self._milestones and not self._recall_evaluation():  # killed before the metric line
            self._evaluate()

    def _recall_evaluation(self) -> bool:
        """Whether the first worker finds the goals of this step on disk; all workers go by its answer.

        They are reported again: the kill may have come between line and report.
        """
        line = self._folder.metrics().get(self._step) if self._group.is_first else None
        values = torch.zeros(1 + len(GOALS), dtype=torch.float64, device=self._group.device)
        if line is not None:
            values += torch.tensor([1.0, *(line[name] for name in GOALS)], dtype=torch.float64).to(values.device)
        found, *goals = self._group.sum(values).tolist()
        self._goals = dict(zip(GOALS, goals, strict=True))
        if found > 0:
            self._sums.zero_()
            self._hooks.report(self._place() if line is None else line)
        return found > 0

    def _place(self) -> dict[str, Any]:
        """Where the trial is; ``rung`` is there where somebody decides whether it goes on."""
        place = {
            "step": self._step,
            "steps": self._steps,
            "epoch": round(self._step / self._steps_per_epoch, 4),
            "epochs": self._settings.epochs,
            "progress": self._step / self._steps,
        }
        return place | ({"rung": True} if self._step in self._rungs else {})

    def _checkpoint(self) -> None:
        """Written in the background: ``self._writer.wait`` before anything that must not be on disk earlier."""
        if not self._group.is_first:
            return
        self._writer.save(
            {
                "policy": {name: value.detach() for name, value in self._policy.tuned().items()},
                "optimizer": self._optimizer.state_dict(),
                "average": self._average.state_dict(),
                "step": self._step,
                "sums": self._sums,
                "times_s": self._times_s,
            }
        )

    def _train_until(self, milestone: int) -> None:
        started_s = saved_s = time.monotonic()
        while self._step < milestone:
            self._hooks.alive()
            due = time.monotonic() - saved_s > self._settings.checkpoint_every_s
            asked, save = self._update(self._batch(), asked=self._hooks.interrupted(), save=due)
            self._step += 1
            if asked or save:
                self._times_s["train_s"] += time.monotonic() - started_s
                started_s = saved_s = time.monotonic()
                self._checkpoint()
            if asked:
                self._writer.wait()
                raise Interrupted(f"step {self._step} of {self._steps}")
        self._times_s["train_s"] += time.monotonic() - started_s

    def _batch(self) -> Tensor:
        """Rows of the next global batch: each epoch has an order of its own, whatever came before."""
        epoch, position = divmod(self._step, self._steps_per_epoch)
        if self._batches[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed * 100_003 + epoch)
            order = self._rows[torch.randperm(len(self._rows), generator=generator)]
            self._batches = epoch, torch.tensor_split(order, self._steps_per_epoch)
        return self._batches[1][position]

    def _update(self, batch: Tensor, *, asked: bool, save: bool) -> tuple[bool, bool]:
        """One update on a global batch of rows of the attacked images.

        Returns whether any worker was asked to stop, and whether any was asked to save.
        """
        group = self._group
        mine = batch[group.rank :: group.world_size]
        while (losses := in_memory(partial(self._backward, mine, len(batch)))) is None:
            self._reduce_micro_batches(mine)
        values = torch.cat([losses, losses.new_tensor([float(asked), float(save)])])
        preference, kl, any_asked, any_save = group.sum(values).tolist()  # the one time a step waits for a GPU
        if not math.isfinite(preference + kl):
            raise NonFiniteLoss(f"loss is not finite in step {self._step + 1} of {self._steps}")
        self._sums += torch.tensor([preference / len(batch), kl / len(batch), 1.0], dtype=torch.float64)
        self._descend()
        return any_asked > 0, any_save > 0

    def _backward(self, mine: Tensor, batch_size: int) -> Tensor:
        """Gradients of the global batch's loss from this worker's rows of it, micro-batch by micro-batch.

        Returns the sums (2,) of preference loss and reference KL over these rows.
        """
        group, parameters = self._group, self._parameters
        micros = mine.split(self._micro_batch_size)
        z0 = self._global_kl(micros, batch_size) if parameters.objective == "kto" and len(micros) > 1 else None
        sums = torch.zeros(2, dtype=torch.float64, device=group.device)
        self._optimizer.zero_grad(set_to_none=True)
        for i, micro in enumerate(micros):
            with contextlib.nullcontext() if i == len(micros) - 1 else self._no_sync():
                attacked, clean = self._logits(self._wrapped, micro)
                micro_kl = reference_kl(clean, self._reference_logits(self._reference_clean[self._clean_rows(micro)]))
                if parameters.objective == "kto" and z0 is None:
                    z0 = group.sum(micro_kl.detach() * len(micro)) / batch_size
                micro_preference = self._preference_loss(attacked, micro, z0)
                loss = micro_preference + parameters.lambda_reg * micro_kl
                # DDP takes the mean of gradients over workers; the loss is the mean over the global batch.
                share = len(micro) / batch_size * group.world_size
                loss = loss * share + parameters.penalty * self._policy.penalty() / len(micros)
                loss.backward()
                sums += torch.stack([micro_preference, micro_kl]).detach().double() * len(micro)
        return sums

    def _reduce_micro_batches(self, mine: Tensor) -> None:
        """After memory ran out: half as many pairs at a time, for this step again and for later trials of this scope.

        Raises OutOfMemory where it was one pair; MicroBatchReduced where there are other workers.
        """
        self._optimizer.zero_grad(set_to_none=True)
        size = halve(min(self._micro_batch_size, len(mine)))
        if self._group.world_size > 1:
            # The others wait in a collective that this worker will not join: find what fits here, then leave.
            while in_memory(partial(self._fits, mine[:size])) is None:
                size = halve(size)
            self._folder.save_micro_batch_size(size)
        place = f"step {self._step + 1} of {self._steps}"
        message = f"out of memory in {place}: micro-batches of {size} pairs from now on, the loss stays as it is"
        self._hooks.log(message)
        if self._group.world_size > 1:
            raise MicroBatchReduced(message)
        self._micro_batch_size = size
        self._bench.remember_micro_batch_size(self._parameters, size)

    def _fits(self, pairs: Tensor) -> bool:
        """True, or torch.OutOfMemoryError. Gradients are not kept, so DistributedDataParallel's hooks do not run."""
        attacked, clean = self._logits(self._policy, pairs)
        torch.autograd.grad((attacked.sum(), clean.sum()), list(self._policy.tuned().values()), allow_unused=True)
        return True

    def _descend(self) -> None:
        for settings in self._optimizer.param_groups:
            settings["lr"] = self._parameters.learning_rate * schedule(
                self._step, steps=self._steps, warmup=int(self._settings.warmup_share * self._steps)
            )
        self._optimizer.step()
        self._average.update(self._policy.tuned())

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self._wrapped, nn.parallel.DistributedDataParallel):
            return self._wrapped.no_sync()
        return contextlib.nullcontext()

    def _clean_rows(self, pairs: Tensor) -> Tensor:
        return pairs % len(self._pairs.clean.labels)

    def _logits(self, policy: nn.Module, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of the attacked images and of their clean originals, in one forward pass."""
        images = torch.cat([self._attacked_inputs[pairs], self._clean_inputs[self._clean_rows(pairs)]])
        logits = policy(images, self._prompts)
        return logits[: len(pairs)], logits[len(pairs) :]

    def _reference_logits(self, embeddings: Tensor) -> Tensor:
        """(B, d) -> (B, C) of the training classes."""
        return self._bench.reference_logits(embeddings, self._reference_text)

    @torch.no_grad()
    def _global_kl(self, micros: tuple[Tensor, ...], batch_size: int) -> Tensor:
        """KTO's z0 before micro-batching: KL(reference || policy) over the clean half of the global batch."""
        total = torch.zeros((), device=self._group.device)
        for micro in micros:
            rows = self._clean_rows(micro)
            logits = self._policy(self._clean_inputs[rows], self._prompts)
            total += reference_kl(logits, self._reference_logits(self._reference_clean[rows])) * len(micro)
        return self._group.sum(total) / batch_size

    def _preference_loss(self, attacked: Tensor, pairs: Tensor, z0: Tensor | None) -> Tensor:
        """Scalar, of the attacked images' logits (B, C)."""
        view = self._pairs.attacked
        assert view.written is not None
        chosen, rejected = view.labels[pairs].to(attacked.device), view.written[pairs].to(attacked.device)
        reference = self._reference_logits(self._reference_attacked[pairs])
        return preference_loss(self._parameters, attacked, reference, chosen, rejected, kl=z0)

    def _measure(self) -> dict[str, float]:
        """Goals on validation with the policy's present weights."""
        started_s = time.monotonic()
        self._hooks.alive()
        values = means(goal_scores(self._bench, self._policy, self._bench.search_sets, self._group))
        self._times_s["evaluation_s"] += time.monotonic() - started_s
        return values

    def _evaluate(self) -> None:
        values = self._goals = self._measure()
        preference, kl, steps = self._sums.tolist()
        line = {**self._place(), **values}
        line["preference_loss"], line["reference_kl"] = preference / max(1, steps), kl / max(1, steps)
        line["loss"] = line["preference_loss"] + self._parameters.lambda_reg * line["reference_kl"]
        if self._policy.tune == "transform":
            line["identity_distance"] = float(identity_distance(self._policy.matrix.detach()))
        line |= {name: round(seconds, 4) for name, seconds in self._times_s.items()}
        line["time_s"] = time.time()
        self._sums.zero_()
        if self._group.is_first:
            self._writer.wait()
            self._folder.append_metrics(line)
        self._hooks.report(line)

    def _finish(self) -> dict[str, Any]:
        last = {name: value.detach().clone() for name, value in self._policy.tuned().items()}
        goals = self._goals
        points = [{"weights": "last", "strength": 1.0, "values": goals}]
        result: dict[str, Any] = {"values": goals, "points": points, "epochs": self._settings.epochs}
        if self._policy.tune == "transform":
            result["identity_distance"] = float(identity_distance(self._policy.matrix.detach()))
        front = self._bench.task.evaluate.front
        wanted = [("last", last, strength) for strength in front.strengths if strength != 1.0]
        wanted += [("averaged", self._average.weights, 1.0)] if front.averaged else []
        for kind, weights, strength in wanted:
            self._policy.set_weights(weights, strength)
            points.append({"weights": kind, "strength": strength, "values": self._measure()})
        result |= {name: round(seconds, 4) for name, seconds in self._times_s.items()}
        if self._group.is_first:
            weights = {f"last.{name}": value for name, value in last.items()}
            weights |= {f"averaged.{name}": value for name, value in self._average.weights.items()}
            self._folder.finish(result, weights)
        return result


def schedule(step: int, *, steps: int, warmup: int) -> float:
    """Factor of the learning rate at a 0-based step: linear warm-up, then cosine to 0 (authors: no warm-up)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def _optimizer(policy: Policy, parameters: Parameters, name: str) -> torch.optim.Optimizer:
    tuned, decay = list(policy.tuned().values()), parameters.weight_decay
    if name == "adamw":
        return torch.optim.AdamW(tuned, lr=parameters.learning_rate, weight_decay=decay, fused=True)
    return torch.optim.Adamax(tuned, lr=parameters.learning_rate, weight_decay=decay, foreach=True)  # has no fused one

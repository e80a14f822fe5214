"""One trial: steps, averaging, evaluation after each epoch, checkpoint and resume, the strength curve at its end."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.activity import busy_with
from trainables.context.task import Validation
from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.evaluation.hits import Hits
from trainables.files import StorageError
from trainables.memory import MemoryGauge, MicroBatchReduced, halve, run_or_none_on_oom
from trainables.models.policy import Policy
from trainables.numerics import flushed_denormals
from trainables.records import MemoryNeed, Point, Report, TrialResult, WeightsKind
from trainables.settings.parameters import Parameters
from trainables.training.averaging import BetaAverage
from trainables.training.batches import Batches, Rows, steps_per_epoch
from trainables.training.checkpoint import CheckpointWriter
from trainables.training.hooks import Hooks, NonFiniteLoss, TrialInterrupted
from trainables.training.micro_batches import SMALLEST, fastest_size, measure_speeds
from trainables.training.objectives import beta_of, equal_means_weights, own_beta, preference_loss, reference_kl
from trainables.training.optimizer import learning_rate_of, make_optimizer, schedule
from trainables.training.own_objective import check_own_objective
from trainables.training.trial_data import TrialData
from trainables.training.trial_folder import CHECKPOINT_FILE, UNREADABLE_FILE, CheckpointUnreadable, TrialFolder

_UNREADABLE = -1
"""Stands for the step of a checkpoint that cannot be read."""


def run_trial(
    context: TrialContext,
    parameters: Parameters,
    *,
    seed: int,
    folder: TrialFolder,
    group: WorkerGroup | None = None,
    hooks: Hooks | None = None,
    rungs: Sequence[float] = (),
    after_out_of_memory: bool = False,
) -> TrialResult:
    """Train one policy, or go on from its checkpoint, and return its final record (also in ``result.json``).

    The policy is evaluated after each epoch and at each rung; ``Hooks.report`` may end the trial there. Afterwards the
    process holds no gradients and no optimiser of the trial.

    Args:
        rungs: shares of the trial's steps, in (0, 1).

    Raises:
        NonFiniteLoss: the loss is infinite or not a number.
        TrialInterrupted: ``Hooks.interrupted`` asked the trial to stop.
        trial_folder.Superseded: a later attempt of the trial has begun.
        ValueError: the parameters do not fit the model.
        files.StorageError: the disk fails.
        memory.OutOfMemory: not even one pair of images fits into memory.
        memory.MicroBatchReduced: micro-batches must be smaller (several workers only).
    """
    group, hooks = group or WorkerGroup(device=context.device), hooks or Hooks()
    try:
        return _run(context, parameters, seed, folder, group, hooks, rungs, after_out_of_memory)
    except BaseException as error:
        _clear_frames(error)
        raise


def measure_memory(
    context: TrialContext, parameters: Parameters, *, folder: Path, group: WorkerGroup | None = None, hooks: Hooks
) -> MemoryNeed:
    """Return the memory that training needs, measured on one micro-batch; the optimiser's part is computed.

    Args:
        folder: for the trial's files, which are not needed afterwards.

    Raises:
        ValueError: the parameters do not fit the model.
        memory.OutOfMemory: not even one pair of images fits into memory.
    """
    group = group or WorkerGroup(device=context.device)
    gauge = MemoryGauge(context.device)
    policy = context.policy(parameters)
    trial_folder = TrialFolder(folder)
    writer = CheckpointWriter(trial_folder)
    try:
        with flushed_denormals():
            trial_folder.claim()
            trial = _Trial(context, policy, parameters, 0, trial_folder, writer, group, hooks, ())
            trial.set_micro_batches(after_out_of_memory=False)
            size, peak_bytes = trial.peak_of_a_micro_batch(gauge)
    finally:
        context.release(policy)
    moments_bytes = 2 * sum(parameter.nbytes for parameter in policy.tuned().values())
    return MemoryNeed(
        tune=parameters.tune,
        micro_batch_size=size,
        peak_bytes=peak_bytes + moments_bytes,
        own_bytes=gauge.own_bytes,
        free_bytes=gauge.free_bytes,
        total_bytes=gauge.total_bytes,
    )


def _run(
    context: TrialContext,
    parameters: Parameters,
    seed: int,
    folder: TrialFolder,
    group: WorkerGroup,
    hooks: Hooks,
    rungs: Sequence[float],
    after_out_of_memory: bool,
) -> TrialResult:
    with hooks.long_operation("building the policy"):
        finished = group.from_first(_finished_or_claimed(folder) if group.is_first else None)
        if finished is not None:
            return finished
        policy = context.policy(parameters)
    writer = CheckpointWriter(folder)
    try:
        with flushed_denormals():
            with hooks.long_operation("preparing the trial's images"):
                trial = _Trial(context, policy, parameters, seed, folder, writer, group, hooks, rungs)
            trial.set_micro_batches(after_out_of_memory)
            return trial.run()
    finally:
        with hooks.long_operation("waiting for the checkpoint"):
            writer.close()
        context.release(policy)


def _finished_or_claimed(folder: TrialFolder) -> TrialResult | None:
    """Return the first worker's answer for all workers: a shared file system may show the others an earlier state."""
    finished = folder.result()
    if finished is None:
        folder.claim()
    return finished


def _clear_frames(error: BaseException) -> None:
    """Clear the frames of ``error`` and its causes: they would keep optimiser, averages and graphs alive."""
    seen: list[BaseException | None] = [None]
    pending = [error]
    while pending:
        raised = pending.pop()
        if not any(raised is other for other in seen):
            seen.append(raised)
            traceback.clear_frames(raised.__traceback__)
            pending += [linked for linked in (raised.__cause__, raised.__context__) if linked is not None]


class _Trial:
    def __init__(
        self,
        context: TrialContext,
        policy: Policy,
        parameters: Parameters,
        seed: int,
        folder: TrialFolder,
        writer: CheckpointWriter,
        group: WorkerGroup,
        hooks: Hooks,
        rungs: Sequence[float],
    ) -> None:
        self._context, self._policy, self._parameters = context, policy, parameters
        self._folder, self._writer, self._group, self._hooks = folder, writer, group, hooks
        settings, rows = context.task.training, context.data.preference_rows(parameters)
        self._settings = settings
        self._steps_per_epoch = steps_per_epoch(len(rows), settings.global_batch_size, group.world_size)
        self._batches = Batches(rows, steps_per_epoch=self._steps_per_epoch, seed=seed, device=context.device)
        self._trains = parameters.objective != "none"
        self._epochs = settings.epochs_of(parameters)
        self._steps = self._epochs * self._steps_per_epoch if self._trains else 0
        sizes = (settings.micro_batch_size, context.batch_sizes.micro(parameters), folder.micro_batch_size())
        own = math.ceil(settings.global_batch_size / group.world_size)
        self._micro_batch_size = min([own, *(size for size in sizes if isinstance(size, int))])
        """Pairs per micro-batch; after ``_agreed_checkpoint`` the smallest value of all workers."""
        self._wrapped: nn.Module = group.wrap(policy)
        self._optimizer = make_optimizer(policy, parameters, settings.optimizer)
        self._average = BetaAverage(policy.tuned(), steps=self._steps, beta=settings.averaging_beta)
        self._step = 0
        """Number of updates done."""
        self._warm = False
        """Whether this attempt has done a step: the first one compiles kernels."""
        self._saved_s = time.monotonic()
        """Time of the last checkpoint, or of the beginning of the attempt."""
        self._rungs = {min(self._steps, math.ceil(share * self._steps - 1e-9)) for share in rungs} - {self._steps}
        epoch_ends = range(self._steps_per_epoch, self._steps + 1, self._steps_per_epoch)
        self._milestones = sorted({*self._rungs, *epoch_ends})
        """Steps after which the policy is evaluated."""
        self._sums = torch.zeros(3, dtype=torch.float64)
        """Sums since the last evaluation: preference loss, reference KL, number of steps."""
        self._times_s = {"train_s": 0.0, "evaluation_s": 0.0, "checkpoint_s": 0.0}
        self._values: dict[str, float] = {}
        """Validation metrics at the last evaluation."""
        self._hits: Hits | None = None
        """Hits of the goals at the last evaluation; None if it was read from disk, which holds the metrics only."""
        self._data = TrialData(context, policy)
        # Of which workers are asked to stop or to save, as tensors: making them in each step would wait for the GPU.
        self._flags = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], device=context.device).double()
        needs_margin = parameters.beta_m0 is not None or (parameters.target, parameters.objective) == ("neutral", "ipo")
        self._margin = context.mean_margin() if needs_margin else None
        if needs_margin:
            beta_of(parameters, self._margin)  # raises ValueError if beta cannot be given relative to this margin
        if parameters.own_objective is not None:
            check_own_objective(parameters, own_beta(parameters, self._margin))

    def set_micro_batches(self, after_out_of_memory: bool) -> None:
        """Choose the size of micro-batches, unless an earlier attempt has chosen it.

        Args:
            after_out_of_memory: the host's memory did not hold those of the attempt before: they are halved.

        Raises:
            OutOfMemory: a micro-batch was one pair.
        """
        if after_out_of_memory:
            self._halve_micro_batches()
        elif self._settings.micro_batch_size == "auto" and self._folder.micro_batch_size() is None:
            self._choose_micro_batches()

    def _halve_micro_batches(self) -> None:
        self._micro_batch_size = halve(self._micro_batch_size)
        if self._group.is_first:
            self._folder.save_micro_batch_size(self._micro_batch_size)
        self._context.batch_sizes.remember_micro(self._parameters, self._micro_batch_size)
        self._hooks.log(
            f"the machine ran out of memory: micro-batches of {self._micro_batch_size} pairs from now on, the loss "
            "stays as it is"
        )

    def run(self) -> TrialResult:
        self._resume()
        for milestone in self._milestones:
            if milestone > self._step:
                self._train_until(milestone)
                self._evaluate()
        if not self._trains:
            self._evaluate()
        return self._finish()

    def _choose_micro_batches(self) -> None:
        """Use the fastest size of micro-batches, which the first process that needs it measures for all others.

        Embeddings are small, so a transform takes the whole batch at once.
        """
        pairs = self._batches.of_step(0).of_worker(self._group)  # no step has more
        most = min(self._micro_batch_size, len(pairs))
        if most <= SMALLEST or not self._trains or self._policy.input_kind == "embeddings":
            return
        context, clip, parameters = self._context, self._context.clip, self._parameters
        on_gpu = context.device.type == "cuda"
        key = {
            "micro-batches": most,
            "weights": clip.digest,
            "scope": [parameters.tune, parameters.blocks, self._policy.trains_text, self._policy.input_kind],
            "gradient_checkpointing": self._settings.gradient_checkpointing,
            "bf16": context.bf16,
            "device": torch.cuda.get_device_name(context.device) if on_gpu else f"cpu {torch.get_num_threads()}",
        }
        with self._hooks.long_operation("measuring micro-batches"):
            table = context.store.get(key, partial(self._measured_speeds, pairs, most))
        speeds = dict(zip(table["pairs"].tolist(), table["pairs_per_s"].tolist(), strict=True))
        if speeds:
            # These need a pass over the kept images before the first micro-batch, unless the batch is one.
            passes = 2 if parameters.objective == "kto" or parameters.target == "equal" else 1
            self._micro_batch_size = fastest_size(speeds, most=most, passes=passes)
            if self._group.is_first:
                self._folder.save_micro_batch_size(self._micro_batch_size)
            told = ", ".join(f"{size}: {speed:.3g}" for size, speed in speeds.items())
            self._hooks.log(f"micro-batches of {self._micro_batch_size} pairs (pairs/s by size: {told})")

    def _measured_speeds(self, pairs: Rows, most: int) -> dict[str, np.ndarray]:
        """Return sizes of micro-batches, in pairs, and the speed of each, (n,) each; empty if none fits into memory."""
        busy_with("measuring micro-batches")

        def pairs_per_s(size: int) -> float | None:
            part, seconds = pairs.split(size)[0], 0.0
            for _ in range(2):  # the first pass allocates memory and compiles kernels
                self._hooks.heartbeat()
                started_s = time.monotonic()
                if run_or_none_on_oom(partial(self._fits, part)) is None:
                    return None
                seconds = time.monotonic() - started_s
            return len(part) / seconds

        speeds = measure_speeds(most, pairs_per_s)
        return {"pairs": np.array(list(speeds), dtype=np.int64), "pairs_per_s": np.array(list(speeds.values()))}

    def peak_of_a_micro_batch(self, gauge: MemoryGauge) -> tuple[int, int]:
        """Return the size of micro-batches and the peak memory, in bytes, of the passes over one of them.

        Raises:
            OutOfMemory: not even one pair fits.
        """
        pairs = self._batches.of_step(0).of_worker(self._group)
        size = min(self._micro_batch_size, len(pairs))
        with gauge:
            while run_or_none_on_oom(partial(self._fits, pairs.split(size)[0])) is None:
                size = halve(size)
        return size, gauge.peak_bytes

    def _resume(self) -> None:
        with self._hooks.long_operation("loading the checkpoint"):
            state = self._agreed_checkpoint()
            if state is not None:
                self._restore(state)
        del state  # it holds weights, averages and optimiser a second time
        if (
            self._step in self._milestones and not self._recall_evaluation()
        ):  # killed before the metric line was written
            self._evaluate()

    def _agreed_checkpoint(self) -> dict[str, Any] | None:
        """Return the checkpoint that every worker has read; None if the trial begins, or begins again.

        Afterwards all workers have the same step and micro-batch size; these decide which collectives follow.

        Raises:
            StorageError: the workers have read different checkpoints; raised on every worker.
        """
        state, reason = None, None
        try:
            state = self._folder.load_checkpoint()
        except CheckpointUnreadable as error:
            reason = str(error)
        step = _UNREADABLE if reason is not None else 0 if state is None else state["step"]
        first, minus_last, self._micro_batch_size = self._group.minimum([step, -step, self._micro_batch_size])
        if first == _UNREADABLE:
            if self._group.is_first:
                self._folder.set_checkpoint_aside()
                self._hooks.log(
                    f"{CHECKPOINT_FILE} cannot be read ({reason or 'by another worker'}): the trial begins again; the "
                    f"file is kept as {UNREADABLE_FILE}"
                )
            return None
        if first != -minus_last:
            raise StorageError(
                f"the workers read different checkpoints of {self._folder.path}: is the storage the same folder for "
                "all of them?"
            )
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self._policy.tuned().items():
                parameter.copy_(state["policy"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        self._step = state["step"]
        self._sums, self._times_s = state["sums"], self._times_s | state["times_s"]

    def _recall_evaluation(self) -> bool:
        """Return whether the first worker finds the report of this step on disk; all workers use its answer.

        The report is repeated, because the kill may have come between the metric line and the report.
        """
        recorded = self._folder.reports().get(self._step) if self._group.is_first else None
        recorded = self._group.from_first(recorded)
        if recorded is None:
            return False
        self._values, self._hits = dict(recorded.values), None
        self._sums.zero_()
        self._hooks.report(recorded)
        return True

    def _report(
        self,
        *,
        preference_loss: float,
        reference_kl: float,
        loss: float,
        identity_distance: float | None,
    ) -> Report:
        """Return a report of the present step with the values of the last evaluation."""
        return Report(
            step=self._step,
            steps=self._steps,
            epoch=round(self._step / self._steps_per_epoch, 4),
            epochs=self._epochs,
            progress=self._step / self._steps if self._trains else 1.0,
            rung=self._step in self._rungs,
            values=self._values,
            preference_loss=preference_loss,
            reference_kl=reference_kl,
            loss=loss,
            identity_distance=identity_distance,
            **{name: round(seconds, 4) for name, seconds in self._times_s.items()},
            time_s=time.time(),
        )

    def _checkpoint(self) -> None:
        """Save in the background; ``_wait_for_checkpoint`` waits until the checkpoint is on disk."""
        started_s = time.monotonic()
        with self._hooks.long_operation("waiting for the checkpoint"):  # the previous one may still be written
            if self._group.is_first:
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
            self._group.wait_for_all()
        self._saved_s = time.monotonic()
        self._times_s["checkpoint_s"] += self._saved_s - started_s

    def _wait_for_checkpoint(self) -> None:
        """Return on all workers when the last checkpoint is on disk.

        Without this, the others would wait for the first worker's disk in the next collective, without a sign to a
        watchdog.
        """
        with self._hooks.long_operation("waiting for the checkpoint"):
            if self._group.is_first:
                self._writer.wait()
            self._group.wait_for_all()

    def _train_until(self, milestone: int) -> None:
        """Train up to a step. A kill costs at most ``checkpoint_every_s`` and a step."""
        started_s = time.monotonic()
        while self._step < milestone:
            self._hooks.heartbeat()
            due = self._group.is_first and self._checkpoint_is_due()
            interrupted = self._hooks.interrupted()
            with contextlib.nullcontext() if self._warm else self._hooks.long_operation("the first step"):
                asked, save = self._update(self._batches.of_step(self._step), asked=interrupted, save=due)
            self._warm = True
            self._step += 1
            if asked or save:
                self._times_s["train_s"] += time.monotonic() - started_s
                self._checkpoint()
                started_s = time.monotonic()
            if asked:
                self._wait_for_checkpoint()
                raise TrialInterrupted(f"step {self._step} of {self._steps}")
        self._times_s["train_s"] += time.monotonic() - started_s

    def _checkpoint_is_due(self) -> bool:
        """Return whether it is time for a checkpoint, and the last one is on disk: training waits for no slow disk."""
        return time.monotonic() - self._saved_s > self._settings.checkpoint_every_s and not self._writer.busy

    def _update(self, batch: Rows, *, asked: bool, save: bool) -> tuple[bool, bool]:
        """Do one update on a global batch of rows of the attacked images.

        Returns:
            Whether any worker was asked to stop, and whether any worker was asked to save.
        """
        group, pairs = self._group, batch.of_worker(self._group)
        while (losses := run_or_none_on_oom(partial(self._backward, pairs, len(batch)))) is None:
            self._reduce_micro_batches(pairs)
        values = torch.cat([losses, self._flags[2 * asked + save]])
        preference, kl, any_asked, any_save = group.sum(values).tolist()  # the only place where a step waits for a GPU
        if not math.isfinite(preference + kl):
            raise NonFiniteLoss(f"loss is not finite in step {self._step + 1} of {self._steps}")
        self._sums += torch.tensor([preference / len(batch), kl / len(batch), 1.0], dtype=torch.float64)
        self._descend()
        return any_asked > 0, any_save > 0

    def _backward(self, pairs: Rows, batch_size: int) -> Tensor:
        """Add the gradients of the global batch's loss over this worker's ``pairs``, micro-batch by micro-batch.

        Returns:
            The sums (2,) of preference loss and reference KL over these rows.
        """
        group, parameters = self._group, self._parameters
        micros = pairs.split(self._micro_batch_size)
        # One worker may have more micro-batches than another, but whether z0 is summed here must be the same on all.
        several = math.ceil(batch_size / group.world_size) > self._micro_batch_size
        z0 = z0_before = self._global_kl(micros, batch_size) if parameters.objective == "kto" and several else None
        equal = self._equal_weights(micros) if parameters.target == "equal" else None
        sums = torch.zeros(2, dtype=torch.float64, device=group.device)
        self._optimizer.zero_grad(set_to_none=True)
        for i, micro in enumerate(micros):
            with contextlib.nullcontext() if i == len(micros) - 1 else self._no_sync():
                shown, kept = self._data.logits(self._wrapped, micro)
                self._prefetch_after(micros, i, passes=1 if z0_before is None and equal is None else 2)
                micro_kl = reference_kl(kept, self._data.reference_of_kept(micro))
                if parameters.objective == "kto" and z0 is None:
                    z0 = group.sum(micro_kl.detach() * len(micro)) / batch_size
                if equal is None:
                    micro_preference = told = self._preference_loss(shown, micro, z0)
                else:
                    told, weights = equal
                    micro_preference = self._equal_loss(kept, micro, weights) * (batch_size / len(micro))
                loss = micro_preference + parameters.lambda_reg * micro_kl
                # DDP takes the mean of gradients over workers; the loss is the mean over the global batch.
                share = len(micro) / batch_size * group.world_size
                loss = loss * share + parameters.penalty * self._policy.penalty() / len(micros)
                loss.backward()
                sums += torch.stack([told, micro_kl]).detach().double() * len(micro)
        return sums

    def _reduce_micro_batches(self, pairs: Rows) -> None:
        """Halve the micro-batches after memory ran out, for this step and for later trials of the same scope.

        Raises:
            OutOfMemory: the micro-batch was one pair.
            MicroBatchReduced: the trial has several workers.
        """
        self._optimizer.zero_grad(set_to_none=True)
        size = halve(min(self._micro_batch_size, len(pairs)))
        if self._group.world_size > 1:
            # The other workers wait in a collective that this worker will not join: find a size that fits, then leave.
            while run_or_none_on_oom(partial(self._fits, pairs.split(size)[0])) is None:
                size = halve(size)
            self._folder.save_micro_batch_size(size)
        place = f"step {self._step + 1} of {self._steps}"
        message = f"out of memory in {place}: micro-batches of {size} pairs from now on, the loss stays as it is"
        self._hooks.log(message)
        if self._group.world_size > 1:
            raise MicroBatchReduced(message)
        self._micro_batch_size = size
        self._context.batch_sizes.remember_micro(self._parameters, size)

    def _fits(self, pairs: Rows) -> bool:
        """Return True if a micro-batch fits into memory. No gradients are kept, so no hooks of DDP run.

        Raises:
            torch.OutOfMemoryError: it does not fit.
        """
        shown, kept = self._data.logits(self._policy, pairs)
        torch.autograd.grad((shown.sum(), kept.sum()), list(self._policy.tuned().values()), allow_unused=True)
        if self._group.device.type == "cuda":
            torch.cuda.synchronize(self._group.device)
        return True

    def _descend(self) -> None:
        for settings in self._optimizer.param_groups:
            settings["lr"] = learning_rate_of(self._parameters) * schedule(
                self._step, steps=self._steps, warmup=int(self._settings.warmup_share * self._steps)
            )
        self._optimizer.step()
        self._policy.limit_logit_scale()
        self._average.update(self._policy.tuned())

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self._wrapped, nn.parallel.DistributedDataParallel):
            return self._wrapped.no_sync()
        return contextlib.nullcontext()

    def _prefetch_after(self, micros: Sequence[Rows], i: int, passes: int) -> None:
        """Begin to bring the images to the GPU that the next forward pass needs.

        Args:
            passes: over the images of a step; the first of two is over the kept images alone.
        """
        if not self._data.in_host_memory:
            return
        if i + 1 < len(micros):
            self._data.prefetch(micros[i + 1])
        elif self._step + 1 < self._steps and passes == 1:
            following = self._batches.of_step(self._step + 1).of_worker(self._group)
            self._data.prefetch(following.split(self._micro_batch_size)[0])

    @torch.no_grad()
    def _global_kl(self, micros: Sequence[Rows], batch_size: int) -> Tensor:
        """Return KTO's z0 before micro-batching: KL(reference || policy) over the kept images of the global batch."""
        total = torch.zeros((), device=self._group.device)
        for micro in micros:
            logits = self._data.kept_logits(self._policy, micro)
            total += reference_kl(logits, self._data.reference_of_kept(micro)) * len(micro)
        return self._group.sum(total) / batch_size

    def _preference_loss(self, shown: Tensor, rows: Rows, z0: Tensor | None) -> Tensor:
        """Return the loss, a scalar, of the logits (B, K) of shown images."""
        reference = self._data.reference_of_shown(rows)
        chosen, rejected, candidates = self._data.preferences(rows)
        return preference_loss(
            self._parameters, shown, reference, chosen, rejected, kl=z0, margin=self._margin, candidates=candidates
        )

    @torch.no_grad()
    def _equal_weights(self, micros: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Return the loss of the target ``equal`` over the global batch and the weights (C, V) of its gradient.

        See ``equal_means_weights``.
        """
        data = self._data
        sums = torch.zeros(2, data.classes, data.attribute_values, device=self._group.device)
        for micro in micros:
            own, labels, values = data.own_logits(data.kept_logits(self._policy, micro), micro)
            sums[0].index_put_((labels, values), own, accumulate=True)
            sums[1].index_put_((labels, values), torch.ones_like(own), accumulate=True)
        total, counts = self._group.sum(sums)
        return equal_means_weights(total / counts.clamp(min=1), counts)

    def _equal_loss(self, kept: Tensor, rows: Rows, weights: Tensor) -> Tensor:
        """Return a scalar whose gradient is that of the target ``equal``.

        Args:
            kept: logits (B, C) of the kept images.
            weights: (C, V), see ``equal_means_weights``.
        """
        own, labels, values = self._data.own_logits(kept, rows)
        return (weights[labels, values] * own).sum()

    def _measure(self) -> Validation:
        """Return validation metrics and hits of the policy's present weights."""
        started_s = time.monotonic()
        self._hooks.heartbeat()
        measured = self._context.measures.validation(self._context, self._policy, self._group)
        self._times_s["evaluation_s"] += time.monotonic() - started_s
        return measured

    def _measure_kept(self) -> dict[str, float]:
        """Return the metrics besides the goals that a point of the front must keep, for the present weights."""
        started_s = time.monotonic()
        self._hooks.heartbeat()
        values = self._context.measures.kept(self._context, self._policy, self._group)
        self._times_s["evaluation_s"] += time.monotonic() - started_s
        return values

    def _evaluate(self) -> None:
        measured = self._measure()
        self._values, self._hits = measured.values, measured.hits
        preference, kl, steps = self._sums.tolist()
        preference, kl = preference / max(1, steps), kl / max(1, steps)
        report = self._report(
            preference_loss=preference,
            reference_kl=kl,
            loss=preference + self._parameters.lambda_reg * kl,
            identity_distance=self._policy.identity_distance(),
        )
        self._sums.zero_()
        if self._group.is_first:
            self._folder.append_report(report)
        self._hooks.report(report)

    def _finish(self) -> TrialResult:
        last = {name: value.detach().clone() for name, value in self._policy.tuned().items()}
        self._values = {**self._values, **self._measure_kept()}
        hits = [self._measure().hits if self._hits is None else self._hits]
        points = [Point(weights="last", strength=1.0, values=self._values)]
        distance = self._policy.identity_distance()
        front = self._context.task.evaluate.front
        further: list[tuple[WeightsKind, dict[str, Tensor], float]] = []
        further += [("last", last, strength) for strength in front.strengths if strength != 1.0]
        solved = self._context.measures.solved_strength(self._context, self._policy, last)
        # Rounding may differ between workers, and the measured points decide which collectives follow.
        solved = self._group.from_first(solved)
        further += [("last", last, solved)] if solved is not None and solved not in front.strengths else []
        further += [("averaged", self._average.weights, 1.0)] if front.averaged and self._trains else []
        for kind, weights, strength in further:
            self._policy.set_weights(weights, strength)
            measured = self._measure()
            values = {**measured.values, **self._measure_kept()}
            hits.append(measured.hits)
            points.append(Point(weights=kind, strength=strength, values=values))
        result = TrialResult(
            values=self._values,
            points=tuple(points),
            epochs=self._epochs,
            identity_distance=distance,
            **{name: round(seconds, 4) for name, seconds in self._times_s.items()},
        )
        if self._group.is_first:
            weights = {f"last.{name}": value for name, value in last.items()}
            if self._trains:
                weights |= {f"averaged.{name}": value for name, value in self._average.weights.items()}
            with self._hooks.long_operation("writing the weights"):
                self._writer.wait()  # ``finish`` deletes the checkpoint
                self._folder.finish(result, weights, hits)
        return result

"""Warm slots: long-lived Ray Train runs whose workers take job after job from the dispatcher.

A Train run per trial costs 12-17 s before its first step; a job on a warm slot some tens of milliseconds. The driver
owns the runs, the dispatcher (one actor with the job queue of all slots) and the placement groups.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.util.placement_group import get_current_placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.errors import UnavailableError, UserError
from sweeper.execution import ray_private
from sweeper.execution.capacity import SlotPlan
from sweeper.execution.dispatcher import Dispatcher
from sweeper.execution.job_queue import JobLimits
from sweeper.execution.messages import SetupError
from sweeper.execution.worker import MakeRunner, Worker, WorkerContext
from sweeper.jobs import Job, JobName, Outcome

WorkerGroupCallback, ControllerCallback = ray_private.group_callbacks()


class _GroupObserver(WorkerGroupCallback, ControllerCallback):  # type: ignore[misc, valid-type]
    """Tells the dispatcher, from Train's controller, when a slot's worker group is lost and why it failed."""

    def __init__(self, dispatcher: Any, slot: int) -> None:
        self._dispatcher = dispatcher
        self._slot = slot

    def after_controller_start(self, train_run_context: Any) -> None:
        self._dispatcher.register_controller.remote(self._slot, ray.get_runtime_context().current_actor)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        self._dispatcher.group_lost.remote(self._slot)

    def before_worker_group_abort(self, worker_group_context: Any) -> None:
        self._dispatcher.group_lost.remote(self._slot)

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if isinstance(current_state, ray_private.failure_states()):
            error = current_state.training_failed_error
            if isinstance(error, ControllerError):
                error = error.controller_failure
            if isinstance(error, WorkerGroupError) and error.worker_failures:
                error = next(iter(error.worker_failures.values()))
            if not isinstance(error, ray_private.startup_timeout_error()):  # a node is missing: Train asks again
                self._dispatcher.record_failure.remote(self._slot, str(error).strip().split("\n")[0])


class _SlotTrainer(TorchTrainer):
    """A TorchTrainer without the callbacks that slots have no use for."""

    def _create_default_callbacks(self) -> list[Any]:
        unwanted = ray_private.unwanted_callbacks()
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]


@dataclass(frozen=True, kw_only=True)
class SlotSettings:
    """What the workers of a slot are started with."""

    slot: int
    dispatcher: ActorHandle
    make_runner: MakeRunner
    limits: JobLimits
    cpus_per_worker: float


def run_worker(config: dict[str, SlotSettings]) -> None:
    """Run by a slot's Train workers: job after job until the slot is closed. ``config``: ``{"slot": settings}``."""
    import torch
    from ray import train
    from ray.train.torch import get_device

    from trainables.numerics import flushed_denormals, thread_count

    settings, context = config["slot"], train.get_context()
    device = get_device()
    group = get_current_placement_group()
    assert group is not None, "a Train worker without placement group"
    worker_context = WorkerContext(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        device=str(device),
        slot=settings.slot,
    )
    worker = Worker(worker_context, group.id.hex(), settings.dispatcher, ray.get, settings.limits)
    threads = max(1, int(settings.cpus_per_worker)) if device.type == "cpu" else torch.get_num_threads()
    # A RayActorError: the driver has ended, and its dispatcher with it.
    with suppress(RayActorError), flushed_denormals(), thread_count(threads):
        # Whoever closes the pool removes the placement group: a Train run that does not end by itself leaves its own
        # reserved until the driver ends, because nobody removes it without the dashboard's State API (Ray 2.60).
        ray.get(settings.dispatcher.register_placement_group.remote(settings.slot, group))
        worker.worker_loop(settings.make_runner)


class SlotPool:
    """The warm slots of a sweep. A context manager: leaving it closes them."""

    def __init__(self, plan: SlotPlan, make_runner: MakeRunner, folder: Path, limits: JobLimits) -> None:
        """``folder``: where Train and Tune may keep their own files; on shared storage if there are several nodes."""
        self.plan = plan
        self.limits = limits
        self.folder = folder.absolute()
        self._make_runner = make_runner
        self._name = f"slots-{uuid.uuid4().hex[:8]}"
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._closing = False
        # Beside the driver: if that node is lost, so is the sweep's driver.
        address = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.dispatcher: ActorHandle = (
            ray.remote(Dispatcher)
            .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=address)
            .remote(plan.slots, plan.workers_per_trial, limits)
        )

    def start(self) -> None:
        """Begin to warm the slots up (half a minute on a small machine). Return at once."""
        for slot in range(self.plan.slots):
            thread = threading.Thread(target=self._run, args=(slot,), daemon=True, name=f"slot {slot}")
            thread.start()
            self._threads.append(thread)

    def check(self) -> None:
        """Raise UserError or RuntimeError if a runner cannot be built, UnavailableError if the slots are lost."""
        self._state()

    def ready_count(self) -> int:
        """Return how many slots are warm. Raise as ``check`` does."""
        return self._state()

    def submit(self, job: Job) -> Future[Outcome]:
        """Run a job of the driver's own on the next free slot. The future raises as ``check`` does."""
        future: Future[Outcome] = Future()

        def pass_on(answer: Future[Outcome | SetupError]) -> None:
            error = answer.exception()
            outcome = None if error is not None else answer.result()
            if isinstance(outcome, SetupError):
                error = setup_exception(outcome)
            if error is not None:
                future.set_exception(error)
            else:
                assert isinstance(outcome, Outcome)
                future.set_result(outcome)

        self.dispatcher.perform.remote(job).future().add_done_callback(pass_on)
        return future

    def enqueue(self, job: Job) -> None:
        """Queue a job; what happens to it is read from the dispatcher (``dispatcher.follow``)."""
        ray.get(self.dispatcher.enqueue.remote(job))

    def close_barrier(self) -> None:
        """Have ``dispatcher.wait_at_barrier`` wait until ``open_barrier``."""
        ray.get(self.dispatcher.close_barrier.remote())

    def open_barrier(self) -> None:
        self.dispatcher.open_barrier.remote()

    def set_decision(self, name: JobName, attempt: int, number: int, stop: bool) -> None:
        """Give the decision on a report."""
        self.dispatcher.set_decision.remote(name, attempt, number, stop)

    def discard(self, name: JobName) -> None:
        """Have the dispatcher forget a job whose outcome was received."""
        self.dispatcher.discard.remote(name)

    def interrupt(self) -> None:
        """Have running jobs write a checkpoint and end as ``interrupted``; waiting ones end so at once."""
        self.dispatcher.interrupt.remote()

    def close(self, timeout_s: float = 60.0) -> None:
        """End the workers and free what they held; after ``timeout_s`` by force. To be called once."""
        self._closing = True
        with suppress(RayError):
            ray.get(self.dispatcher.close.remote())
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with suppress(RayError):
            controllers, groups = ray.get(self.dispatcher.processes.remote())
            if any(thread.is_alive() for thread in self._threads):
                for controller in controllers:
                    ray.kill(controller)  # first: it would start another group
            for group in groups:
                remove_placement_group(group)
        ray.kill(self.dispatcher)
        shutil.rmtree(self.folder / self._name, ignore_errors=True)
        with suppress(OSError):  # files of Tune are in it
            self.folder.rmdir()

    def __enter__(self) -> SlotPool:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(self) -> int:
        if self._failures and not self._closing:
            raise RuntimeError(f"a slot's Train run ended: {self._failures[0]}") from self._failures[0]
        try:
            warm, setup_error = ray.get(self.dispatcher.state.remote())
        except RayActorError as error:
            raise UnavailableError(
                "the actor that holds the sweep's job queue died (was the machine out of memory?); resume the sweep"
            ) from error
        if setup_error is not None:
            raise setup_exception(setup_error)
        return warm

    def _run(self, slot: int) -> None:
        """One slot's Train run, from start to close."""
        plan = self.plan
        resources = {"CPU": plan.cpus_per_worker}
        if plan.gpus_per_worker > 0:
            resources["GPU"] = plan.gpus_per_worker
        trainer = _SlotTrainer(
            run_worker,
            train_loop_config={
                "slot": SlotSettings(
                    slot=slot,
                    dispatcher=self.dispatcher,
                    make_runner=self._make_runner,
                    limits=self.limits,
                    cpus_per_worker=plan.cpus_per_worker,
                )
            },
            scaling_config=ScalingConfig(
                num_workers=plan.workers_per_trial,
                use_gpu=plan.gpus_per_worker > 0,
                resources_per_worker=resources,
                placement_strategy="STRICT_PACK",
            ),
            run_config=RunConfig(
                name=str(slot),
                storage_path=str(self.folder / self._name),
                failure_config=FailureConfig(max_failures=-1),
                callbacks=[_GroupObserver(self.dispatcher, slot)],
            ),
        )
        try:
            trainer.fit()
        except BaseException as error:
            self._failures.append(error)


def setup_exception(setup_error: SetupError) -> Exception:
    """Return the exception to raise for a setup error."""
    if setup_error.user:
        return UserError(setup_error.reason)
    return RuntimeError(f"the workers cannot be set up: {setup_error.reason}\n{setup_error.traceback or ''}".rstrip())

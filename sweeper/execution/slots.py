"""Warm slots: long-lived Ray Train runs whose workers take task after task from the driver's desk.

A Train run per trial costs 12-17 s before its first step; a task on a warm slot some tens of milliseconds. The driver
owns the runs, the desk (one actor with the mailboxes of all slots) and the placement groups.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState
from ray.util.placement_group import get_current_placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.errors import UnavailableError, UserError
from sweeper.execution.capacity import SlotPlan
from sweeper.execution.dispatcher import Dispatcher
from sweeper.execution.job_queue import JobLimits, JobName, SetupError
from sweeper.execution.worker import MakeRunner, Worker, WorkerContext
from sweeper.records import Outcome, Task


class _Registrar(WorkerGroupCallback, ControllerCallback):
    """Tells the desk, from Train's controller, which processes serve a slot and when they are gone.

    The placement groups are registered because a Train run that does not end by itself leaves its own reserved until
    the driver ends: without the dashboard's State API nobody else removes it (Ray 2.60, PlacementGroupCleaner).
    """

    def __init__(self, desk: Any, slot: int) -> None:
        self._desk = desk
        self._slot = slot

    def after_controller_start(self, train_run_context: Any) -> None:
        self._desk.controlled.remote(self._slot, ray.get_runtime_context().current_actor)

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        ray.get(self._desk.placed.remote(self._slot, group))

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        self._desk.gone.remote(self._slot)

    def before_worker_group_abort(self, worker_group_context: Any) -> None:
        self._desk.gone.remote(self._slot)

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if isinstance(current_state, RestartingState | ReschedulingState):
            error = current_state.training_failed_error
            if isinstance(error, ControllerError):
                error = error.controller_failure
            if isinstance(error, WorkerGroupError) and error.worker_failures:
                error = next(iter(error.worker_failures.values()))
            if not isinstance(error, WorkerGroupStartupTimeoutError):  # a node is missing: Train asks again
                self._desk.trouble.remote(self._slot, str(error).strip().split("\n")[0])


class _Trainer(TorchTrainer):
    """Without what slots have no use for (Ray 2.60).

    PlacementGroupCleaner polls the State API once a second and outlives a killed driver where there is none;
    ``SlotPool.close`` removes the groups instead. DatasetsCallback starts an actor per slot, five seconds of CPU, even
    where there are no datasets.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unwanted = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]


def serve(config: dict[str, Any]) -> None:
    """What a slot's Train workers run: task after task until the slot is closed."""
    import torch
    from ray import train
    from ray.train.torch import get_device

    from trainables.numerics import flushed_denormals, thread_count

    context = train.get_context()
    device = get_device()
    group = get_current_placement_group()
    assert group is not None, "a Train worker without placement group"
    where = WorkerContext(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        device=str(device),
        slot=config["slot"],
    )
    worker = Worker(where, group.id.hex(), config["desk"], ray.get, config["limits"])
    threads = max(1, int(config["cpus_per_worker"])) if device.type == "cpu" else torch.get_num_threads()
    with suppress(RayActorError), flushed_denormals(), thread_count(threads):  # without the driver its desk is gone too
        worker.serve(config["make_runner"])


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
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.desk: ActorHandle = (
            ray.remote(Dispatcher)
            .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
            .remote(plan.slots, plan.workers_per_trial, limits)
        )

    def start(self) -> None:
        """Begins to warm the slots up (half a minute on a small machine) and returns at once."""
        for slot in range(self.plan.slots):
            thread = threading.Thread(target=self._run, args=(slot,), daemon=True, name=f"slot {slot}")
            thread.start()
            self._threads.append(thread)

    def check(self) -> None:
        """Raises UserError or RuntimeError if a runner cannot be built, UnavailableError if the slots are lost."""
        self._state()

    def ready_count(self) -> int:
        """How many slots are warm. Raises as ``check`` does."""
        return self._state()

    def submit(self, task: Task) -> Future[Outcome]:
        """Has a task of the driver's own done on the next free slot. The future raises as ``check`` does."""
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

        self.desk.perform.remote(task).future().add_done_callback(pass_on)
        return future

    def offer(self, task: Task) -> None:
        """Queues a task whose news are then to be read from the desk (``sweeper.search``)."""
        ray.get(self.desk.offer.remote(task))

    def hold(self) -> None:
        """From now on ``desk.stand_by`` waits for ``release``."""
        ray.get(self.desk.hold.remote())

    def release(self) -> None:
        self.desk.release.remote()

    def judge(self, name: JobName, attempt: int, number: int, stop: bool) -> None:
        """Gives the verdict on a report."""
        self.desk.judge.remote(name, attempt, number, stop)

    def forget(self, name: JobName) -> None:
        """Says that the outcome of an offered task was received."""
        self.desk.forget.remote(name)

    def interrupt(self) -> None:
        """Has running tasks write a checkpoint and end as ``interrupted``; waiting ones end so at once."""
        self.desk.interrupt.remote()

    def close(self, timeout_s: float = 60.0) -> None:
        """Ends the workers and frees what they held. After ``timeout_s`` by force."""
        if self._closing:
            return
        self._closing = True
        with suppress(RayError):
            ray.get(self.desk.close.remote())
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with suppress(RayError):
            controllers, groups = ray.get(self.desk.processes.remote())
            if any(thread.is_alive() for thread in self._threads):
                for controller in controllers:
                    ray.kill(controller)  # first: it would start another group
            for group in groups:
                remove_placement_group(group)
        ray.kill(self.desk)
        shutil.rmtree(self.folder / self._name, ignore_errors=True)
        with suppress(OSError):  # somebody else's files are in it
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
            warm, refusal = ray.get(self.desk.state.remote())
        except RayActorError as error:
            raise UnavailableError(
                "the actor that holds the sweep's mailboxes died (was the machine out of memory?); resume the sweep"
            ) from error
        if refusal is not None:
            raise setup_exception(refusal)
        return warm

    def _run(self, slot: int) -> None:
        """One slot's Train run, from start to close."""
        plan = self.plan
        resources = {"CPU": plan.cpus_per_worker}
        if plan.gpus_per_worker > 0:
            resources["GPU"] = plan.gpus_per_worker
        trainer = _Trainer(
            serve,
            train_loop_config={
                "slot": slot,
                "desk": self.desk,
                "make_runner": self._make_runner,
                "limits": self.limits,
                "cpus_per_worker": plan.cpus_per_worker,
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
                callbacks=[_Registrar(self.desk, slot)],
            ),
        )
        try:
            trainer.fit()
        except BaseException as error:
            self._failures.append(error)


def setup_exception(refusal: SetupError) -> Exception:
    """A refusal as the exception to raise."""
    if refusal.user:
        return UserError(refusal.reason)
    return RuntimeError(f"the workers cannot be set up: {refusal.reason}\n{refusal.traceback or ''}".rstrip())

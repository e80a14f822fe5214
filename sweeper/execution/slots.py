"""Warm slots: long-lived Ray Train runs whose workers take job after job from the dispatcher.

A Train run per trial costs 12-17 s before its first step; a job on a warm slot costs some tens of milliseconds. The
driver owns the runs, the dispatcher (one actor with the job queue of all slots) and the placement groups.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.util.placement_group import get_current_placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.errors import UnavailableError, UserError
from sweeper.execution import cluster, ray_private
from sweeper.execution.capacity import SlotPlan
from sweeper.execution.dispatcher import Dispatcher
from sweeper.execution.handles import Sealed, seal, unseal
from sweeper.execution.job_queue import JobLimits
from sweeper.execution.messages import SetupError, SlotsState
from sweeper.execution.placement import PlacementWatch
from sweeper.execution.torch_group import TorchGroup
from sweeper.execution.worker import MakeRunner, Worker, WorkerContext
from sweeper.jobs import Job, JobName, Outcome

GUARD_S = 1.0
"""Seconds between checks of the slots, and of the actor that holds the job queue."""
LOOK_S = 3.0
"""Seconds between looks at the nodes and their free resources."""
ANSWER_S, UNANSWERED = 25.0, 4
"""The job queue's actor counts as lost when four calls in a row stay without an answer for this many seconds. Two were
too few: on a machine with ten times its load the actor was silent that long while slots warmed up."""
WORKER_ANSWER_S = 120.0
"""Seconds after which a worker without an answer ends itself; Train then starts another one.

The queue answers every call within ``worker.POLL_S``, or the driver ends the sweep. A missing answer is therefore lost,
for instance because the worker had no memory when it came, and ``ray.get`` would wait for it for ever (Ray 2.60).
"""

_logger = logging.getLogger(__name__)

WorkerGroupCallback, ControllerCallback = ray_private.group_callbacks()
DataParallelTrainer = ray_private.data_parallel_trainer()


class _GroupObserver(WorkerGroupCallback, ControllerCallback):  # type: ignore[misc, valid-type]
    """Tells the dispatcher, from Train's controller, when a slot's worker group starts, is lost, and why it failed."""

    def __init__(self, dispatcher: Any, slot: int) -> None:
        self._dispatcher = dispatcher
        self._slot = slot

    def after_controller_start(self, train_run_context: Any) -> None:
        self._dispatcher.register_controller.remote(self._slot, seal(ray.get_runtime_context().current_actor))

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        self._dispatcher.group_starting.remote(self._slot)

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
            if isinstance(error, ray_private.health_check_error()):
                error = error.health_check_failure  # why the worker could not be asked
            if not isinstance(error, ray_private.startup_timeout_error()):  # a node is missing: Train tries again
                reason, memory = str(error).strip().split("\n")[0], isinstance(error, OutOfMemoryError)
                self._dispatcher.record_failure.remote(self._slot, reason, memory)


class _SlotTrainer(DataParallelTrainer):  # type: ignore[misc, valid-type]
    """A trainer without the callbacks that slots do not need.

    TorchTrainer would import torch in the driver and in each controller, where nothing uses it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unwanted = ray_private.unwanted_callbacks()
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]


@dataclass(frozen=True, kw_only=True)
class SlotSettings:
    """Arguments of the workers of a slot."""

    slot: int
    dispatcher: ActorHandle
    make_runner: MakeRunner
    limits: JobLimits
    cpus_per_worker: float
    gpus_per_worker: float


def run_worker(config: dict[str, SlotSettings]) -> None:
    """Run by a slot's Train workers: do job after job until the slot is closed.

    Args:
        config: ``{"slot": settings}``.
    """
    # Batches of many sizes, of many trials in one process, would leave gaps in the GPU's memory that nothing fits into.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    import torch
    from ray import train
    from ray.train.torch import get_device

    from trainables.numerics import flushed_denormals, thread_count

    settings, context = config["slot"], train.get_context()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = get_current_placement_group()
    assert group is not None, "a Train worker without placement group"
    worker_context = WorkerContext(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        device=str(device),
        device_share=min(1.0, settings.gpus_per_worker) if device.type == "cuda" else 1.0,
        slot=settings.slot,
    )
    worker = Worker(worker_context, group.id.hex(), settings.dispatcher, answer, settings.limits)
    threads = max(1, int(settings.cpus_per_worker)) if device.type == "cpu" else torch.get_num_threads()
    # A RayActorError: the driver has ended, and its dispatcher with it.
    with suppress(RayActorError), flushed_denormals(), thread_count(threads):
        # The closer of the pool removes the placement group: a Train run that does not end by itself keeps its group
        # reserved until the driver ends, because only the dashboard's State API would remove it (Ray 2.60).
        ray.get(settings.dispatcher.register_placement_group.remote(settings.slot, group))
        worker.worker_loop(settings.make_runner, seal(ray.get_runtime_context().current_actor))


def answer(reference: Any) -> Any:
    """Return the answer to a worker's call. If the answer is lost, the process ends and this does not return."""
    try:
        return ray.get(reference, timeout=WORKER_ANSWER_S)
    except GetTimeoutError:
        _logger.error("no answer from the job queue within %g s: this worker ends", WORKER_ANSWER_S)
        os._exit(1)


class SlotPool:
    """The warm slots of a sweep. A context manager: leaving it closes them.

    A thread of the driver watches them: it kills workers that the job queue has found hanging, closes the slots that
    are set aside, and notices when the queue's actor itself dies or hangs.
    """

    def __init__(
        self,
        plan: SlotPlan,
        make_runner: MakeRunner,
        folder: Path,
        limits: JobLimits,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prepare the slots.

        Args:
            folder: for files of Train and Tune; on shared storage if there are several nodes.
            note: takes lines for the user, on a thread of its own.
        """
        self.plan = plan
        self.limits = limits
        self.folder = folder.absolute()
        self._make_runner, self._note = make_runner, note
        self._name = f"slots-{uuid.uuid4().hex[:8]}"
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._closed = threading.Event()
        self._lost: str | None = None
        """Reason why the job queue cannot be asked any more."""
        self._lock = threading.Lock()
        self._controllers: dict[int, Any] = {}
        self._sealed_controllers: dict[int, Sealed] = {}
        self._groups: dict[int, Any] = {}
        """Slot -> placement group. Stored here too, because the queue's actor may die."""
        self._given_up: set[int] = set()
        self._count = plan.slots
        """Number of slots, set aside or not."""
        self._placement = PlacementWatch(plan, time.monotonic())
        self.held = plan.slots
        """Number of slots that hold their resources, some seconds ago at most."""
        self.warm = 0
        """Number of warm slots, a second ago at most."""
        self.activity: str | None = None
        """Present activity of a slot, a second ago at most."""
        # Beside the driver: if that node is lost, so is the sweep's driver.
        address = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.dispatcher: ActorHandle = (
            ray.remote(Dispatcher)
            .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=address)
            .remote(plan.slots, plan.workers_per_trial, limits)
        )
        self._guard_thread = threading.Thread(target=self._guard, daemon=True, name="slots")

    def start(self) -> None:
        """Begin to warm the slots up (half a minute on a small machine). Return at once."""
        self._guard_thread.start()
        for slot in range(self.plan.slots):
            self._start_slot(slot)

    def check(self) -> None:
        """Check that some slot can still do jobs.

        Raises:
            UserError: the input cannot be used.
            UnavailableError: the storage, the memory, a device or the job queue fails.
            RuntimeError: the program has an error.
        """
        self._state()

    def ready_count(self) -> int:
        """Return how many slots are warm. Errors are those of ``check``."""
        return self._state().warm

    @property
    def active(self) -> int:
        """Return for how many slots trials are wanted: those that hold their resources."""
        return max(1, self.held)

    def submit(self, job: Job) -> Future[Outcome]:
        """Run a job of the driver's own on the next free slot. The future raises the errors of ``check``."""
        future: Future[Outcome] = Future()

        def pass_on(answer: Future[Outcome | SetupError]) -> None:
            error = answer.exception()
            outcome = None if error is not None else answer.result()
            if isinstance(outcome, SetupError):
                error = setup_exception(outcome)
            elif isinstance(error, RayActorError):
                error = self._lost_error()
            if error is not None:
                future.set_exception(error)
            else:
                assert isinstance(outcome, Outcome)
                future.set_result(outcome)

        self.dispatcher.perform.remote(job).future().add_done_callback(pass_on)
        return future

    def enqueue(self, job: Job) -> None:
        """Queue a job; its news is read from the dispatcher (``dispatcher.follow``)."""
        self._ask(self.dispatcher.enqueue.remote(job))

    def close_barrier(self) -> None:
        """Have ``dispatcher.wait_at_barrier`` wait until ``open_barrier``."""
        self._ask(self.dispatcher.close_barrier.remote())

    def open_barrier(self) -> None:
        self.dispatcher.open_barrier.remote()

    def set_decision(self, name: JobName, attempt: int, number: int, stop: bool) -> None:
        """Pass on the decision on a report."""
        self.dispatcher.set_decision.remote(name, attempt, number, stop)

    def discard(self, name: JobName) -> None:
        """Have the dispatcher forget a job whose outcome was received."""
        self.dispatcher.discard.remote(name)

    def interrupt(self, grace_s: float | None = None) -> None:
        """Let running jobs write a checkpoint and end as ``interrupted``; waiting ones end so at once.

        Args:
            grace_s: seconds for the checkpoint, ``JobLimits.grace_s`` by default; a worker that takes longer is killed.
        """
        self.dispatcher.interrupt.remote(grace_s)

    def close(self, timeout_s: float = 60.0, give_up: Callable[[], bool] = lambda: False) -> None:
        """End the workers and free their resources. To be called once.

        Args:
            timeout_s: seconds after which they are ended by force.
            give_up: returns whether to end them by force now.
        """
        self._closing.set()
        with suppress(RayError, UnavailableError):
            ray.get(self.dispatcher.close.remote(), timeout=ANSWER_S)
            self._refresh()
        until_s = time.monotonic() + timeout_s
        while any(thread.is_alive() for thread in self._threads):
            # Without the queue, nothing else would end the workers.
            if self._lost is not None or time.monotonic() > until_s or give_up():
                break
            time.sleep(0.05)
        if any(thread.is_alive() for thread in self._threads):
            for controller in self._controllers.values():
                with suppress(RayError):
                    ray.kill(controller)  # first, because it would start another group
        for slot in {*self._groups, *self._controllers}:
            self._remove_groups(slot)
        self._closed.set()
        if self._guard_thread.is_alive():
            self._guard_thread.join()
        with suppress(RayError):
            ray.kill(self.dispatcher)
        shutil.rmtree(self.folder / self._name, ignore_errors=True)
        with suppress(OSError):  # files of Tune are in it
            self.folder.rmdir()

    def __enter__(self) -> SlotPool:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(self) -> SlotsState:
        state = self._refresh()
        if state.setup_error is not None:
            raise setup_exception(state.setup_error)
        return state

    def _ask(self, answer: Any) -> Any:
        """Return the answer of the queue's actor.

        Raises:
            UnavailableError: the actor has died.
        """
        try:
            return ray.get(answer)
        except RayActorError as error:
            raise self._lost_error() from error

    def _lost_error(self) -> UnavailableError:
        died = "the actor that holds the sweep's job queue died (was the machine out of memory?)"
        return UnavailableError(self._lost or died)

    def _refresh(self) -> SlotsState:
        """Ask for the state of the slots, and act on it."""
        state: SlotsState = self._ask(self.dispatcher.state.remote())
        self._act_on(state)
        return state

    def _start_slot(self, slot: int) -> None:
        thread = threading.Thread(target=self._run, args=(slot,), daemon=True, name=f"slot {slot}")
        self._threads.append(thread)
        thread.start()

    def _guard(self) -> None:
        unanswered, looked_s = 0, 0.0
        while not self._closed.wait(GUARD_S):
            try:
                self._act_on(ray.get(self.dispatcher.state.remote(), timeout=ANSWER_S))
                unanswered = 0
                if time.monotonic() - looked_s >= LOOK_S and not self._closing.is_set():
                    self._look_at_cluster()
                    looked_s = time.monotonic()
            except GetTimeoutError:
                unanswered += 1
                if unanswered == UNANSWERED:
                    silent_s = UNANSWERED * ANSWER_S
                    self._lost = f"the actor that holds the sweep's job queue has not answered for {silent_s:g} s"
                    ray.kill(self.dispatcher)  # callers that wait for it get an error
                    return
            except RayError:
                self._lost = str(self._lost_error())
                return

    def _act_on(self, state: SlotsState) -> None:
        self.warm, self.activity = state.warm, state.activity
        with self._lock:
            for slot, sealed in state.controllers.items():
                if self._sealed_controllers.get(slot) != sealed:
                    self._sealed_controllers[slot], self._controllers[slot] = sealed, unseal(sealed)
            self._groups.update(state.placement_groups)
            given_up = state.set_aside.keys() - self._given_up
            self._given_up |= given_up
        for line in state.notes:
            self._note(line)
        for actor in state.to_kill:
            with suppress(RayError, ValueError):  # the actor has ended meanwhile
                ray.kill(unseal(actor))  # SIGKILL after 5 s if it does not end by itself (Ray 2.60), stopped or not
        for slot in given_up:
            if slot in self._controllers:
                with suppress(RayError, ValueError):
                    ray.kill(self._controllers[slot])
            self._remove_groups(slot)

    def _look_at_cluster(self) -> None:
        """Take note of nodes that come or leave, and add slots for free resources within the plan's limits."""
        with self._lock:
            controllers, given_up = dict(self._controllers), set(self._given_up)
        nodes, placed = cluster.look(), ray_private.holding(controllers)
        placement = self._placement.look(nodes, placed, self._count, given_up, time.monotonic())
        self.held = placement.held
        for line in placement.lines:
            self._note(line)
        if placement.add and not self._closing.is_set():
            # Asked for again at the next look if the answer is late: so it names the sum, not the difference.
            ray.get(self.dispatcher.grow_to.remote(self._count + placement.add), timeout=ANSWER_S)
            for slot in range(self._count, self._count + placement.add):
                self._start_slot(slot)
            self._count += placement.add

    def _remove_groups(self, slot: int) -> None:
        """Free the reserved resources of a slot's ended Train run, also if no worker has registered them."""
        with self._lock:
            group, controller = self._groups.pop(slot, None), self._controllers.get(slot)
        with suppress(RayError):
            created = [] if controller is None else ray_private.placement_groups_of(controller)
            for one in created if group is None else [group, *created]:
                remove_placement_group(one)

    def _run(self, slot: int) -> None:
        """Run a slot's Train runs from start to close; a new run begins if Train's controller dies."""
        for number in itertools.count():
            try:
                self._trainer(slot, f"{slot}-{number}").fit()
                return  # the slot was closed, or its workers cannot be set up
            except BaseException as error:
                if self._closing.is_set() or slot in self._given_up:
                    return
                self._remove_groups(slot)
                self.dispatcher.group_lost.remote(slot)
                self.dispatcher.record_failure.remote(slot, str(error).strip().split("\n")[0])
            self._closing.wait(2 * GUARD_S)  # until a slot that failed too often is set aside

    def _trainer(self, slot: int, name: str) -> _SlotTrainer:
        plan = self.plan
        resources = {"CPU": plan.cpus_per_worker}
        if plan.gpus_per_worker > 0:
            resources["GPU"] = plan.gpus_per_worker
        return _SlotTrainer(
            run_worker,
            train_loop_config={
                "slot": SlotSettings(
                    slot=slot,
                    dispatcher=self.dispatcher,
                    make_runner=self._make_runner,
                    limits=self.limits,
                    cpus_per_worker=plan.cpus_per_worker,
                    gpus_per_worker=plan.gpus_per_worker,
                )
            },
            backend_config=TorchGroup() if plan.workers_per_trial > 1 else None,
            scaling_config=ScalingConfig(
                num_workers=plan.workers_per_trial,
                use_gpu=plan.gpus_per_worker > 0,
                resources_per_worker=resources,
                placement_strategy="STRICT_PACK",
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(self.folder / self._name),
                failure_config=FailureConfig(max_failures=-1),
                callbacks=[_GroupObserver(self.dispatcher, slot)],
            ),
        )


def setup_exception(setup_error: SetupError) -> Exception:
    """Return the exception to raise for a setup error."""
    if setup_error.kind == "input":
        return UserError(setup_error.reason)
    text = f"the workers cannot be set up: {setup_error.reason}"
    if setup_error.kind == "internal":
        return RuntimeError(f"{text}\n{setup_error.traceback or ''}".rstrip())
    return UnavailableError(text)

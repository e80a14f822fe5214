"""A sweep from start to end: slots, untouched model, trials, second look, test of the front.

Ray only executes: everything that must survive is in the sweep's folder, and ``run_sweep`` goes on from its content.
"""

from __future__ import annotations

import importlib
import shutil
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

import psutil

from sweeper.errors import UNAVAILABLE
from sweeper.execution import cluster
from sweeper.execution.address import named_address
from sweeper.front.load import load_front
from sweeper.front.rendering.writer import FrontFiles, write_front
from sweeper.front.search_state import final_state
from sweeper.front.second_look import is_possible, no_look_text
from sweeper.records import Front, TrialRecord
from sweeper.run.budget import UnfinishedWork
from sweeper.run.cleanup import SessionCleanup
from sweeper.run.control import SessionControl
from sweeper.run.expected_cost import cost_model
from sweeper.run.measurements import Measurements
from sweeper.run.memory_text import memory_line
from sweeper.run.preparation import ActiveSearch, begin_search
from sweeper.run.progress import Progress
from sweeper.run.resources import job_limits, plan_slots, runner_for
from sweeper.run.resumable import ResumableSession
from sweeper.run.signals import SessionInterrupted, StopSignal, end_process
from sweeper.run.usage import UsageMeter, most_retrainings, new_session
from sweeper.run.usage_text import live_line
from sweeper.search.floor_files import planned_trials
from sweeper.search.study import read_trials, searched
from sweeper.secrets import shown_uri
from sweeper.spec.code_checks import read_code
from sweeper.spec.quantities import HOUR_S, Price, hours, parse_budget
from sweeper.spec.scopes import largest_scope
from sweeper.spec.spec import Spec
from sweeper.storage.lease import HeldLease
from sweeper.storage.remote_storage import Sending
from sweeper.storage.stop_request import StopRequests
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.tracker import Tracker

CLOSE_S = 60.0
MLFLOW_FLUSH_S = 60.0
TAIL_S = 6.0
"""Seconds, after a request to stop, for each of releasing the slots, updating MLflow and ending its sender."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of this session, which do not belong to the sweep."""

    gpus: float | None = None
    address: str | None = None
    tracking_uri: str | None = None
    time_s: float | None = None
    """Seconds that this session may take."""
    grace_s: float = 30.0
    """Seconds from a signal that ends the session to the end of the process."""
    wait_s: float = 0.0
    """Seconds to wait for a cluster to answer and to have ``gpus``."""
    price: Price | None = None
    """Price of a device hour; None: that of the previous session, if it had one."""

    def to_go_on(self) -> tuple[str, ...]:
        """Return the options that a further session needs to run on the same cluster with the same tracking."""
        options: list[str] = []
        if self.gpus is not None:
            options += ["--gpus", f"{self.gpus:g}"]
        if self.address is not None:
            options += ["--address", self.address]
        if self.wait_s:
            options += ["--wait", f"{self.wait_s:g}s"]
        if self.tracking_uri is not None:
            options += ["--tracking-uri", shown_uri(self.tracking_uri)]
        return tuple(options)


def resume_command(folder: SweepFolder, options: Options, *more: str) -> str:
    """Return the command that continues a sweep as in this session.

    Args:
        more: further options.
    """
    return folder.command("resume", *more, *options.to_go_on())


SweepState = Literal["complete", "failed", "interrupted"]
"""State at the end of a session; ``failed``: too many trials failed."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The result of ``run_sweep``."""

    state: SweepState
    front: Front | None
    """None if the untouched model was not measured."""
    tracking_problem: str | None = None
    """One line if MLflow lacks records."""
    failures: tuple[str, ...] = ()
    """A line for each failed trial."""
    unfinished_work: UnfinishedWork | None = None


def run_sweep(folder: SweepFolder, lease: HeldLease, spec: Spec, options: Options) -> SweepResult:
    """Run the remaining part of a sweep. The caller holds its lease.

    Raises:
        UserError: images or the model cannot be loaded, or code of the user's own has changed.
        UnavailableError: no trial fits on the cluster.
        SweepInterrupted: the cluster or the storage fails later.
    """
    code = read_code(spec.code, folder.name)
    resume, ray_folder = resume_command(folder, options), folder.path / "ray"
    search: ActiveSearch | None = None
    state: SweepState = "interrupted"
    with ExitStack() as session:
        # These live until the command ends: signals, the live view, MLflow's sender.
        cleanup = session.enter_context(SessionCleanup(resume))
        stop = session.enter_context(StopSignal(resume, options.grace_s, before_end=cleanup.user_was_told))
        folder.remove_partial_files()
        trials_before = read_trials(folder, spec)
        planned = planned_trials(folder, spec, trials_before)
        progress = Progress(
            folder.name, planned, spec.task_goals(), finished=searched(trials_before), log=folder.log_path
        )
        lease.when_lost(partial(_end_at_once, cleanup, progress))
        stop.announce_with(progress.stopping, progress.freeze)
        session.enter_context(progress)
        sending = None
        if folder.remote is not None:
            sending = session.enter_context(Sending(folder.remote, progress.line))
        session.enter_context(StopRequests(folder, stop.request))
        joined = named_address(options.address)
        progress.wait_for("starting Ray" if joined is None else f"joining Ray at {joined.text}")
        tracker = Tracker(folder.path, options.tracking_uri, folder.storage, folder.name, folder.sweep_id)
        session.callback(lambda: tracker.close(stop.impatience(TAIL_S)))
        if tracker.moved is not None:
            progress.line(tracker.moved)
        resumable = session.enter_context(
            ResumableSession(tracker, stop, resume, has_begun=folder.has_begun(), flush_s=TAIL_S)
        )
        connected = threading.Event()
        imports = threading.Thread(target=_import_libraries, args=(connected,), daemon=True, name="imports")
        imports.start()
        with ExitStack() as held:
            # These are given back before the wait for MLflow: the cluster, its slots, the charge for them.
            try:
                cluster.connect(options.address)
            finally:
                connected.set()
            held.callback(cluster.disconnect)
            imports.join()
            # These import Ray's Train and Tune, which takes seconds: only when a sweep runs.
            from sweeper.execution.slots import SlotPool
            from sweeper.execution.tune import run_trials

            if (logs := cluster.session_folder()) is not None:
                cleanup.remove_at_end(logs)
            # If Ray's own processes are missing, its calls never return or end this process without a message.
            held.enter_context(
                cluster.watched(lambda what: _end_at_once(cleanup, progress, f"{what}; go on with: {resume}"))
            )
            if folder.remote is None:
                cluster.check_shared(folder.path)
            else:
                cluster.check_reach(folder.remote.bucket.uri)
            if options.gpus and joined is not None:
                wait = cluster.Wait(options.wait_s, lambda: stop.asked, progress.wait_for)
                cluster.wait_for_gpus(options.gpus, wait)
            plan = plan_slots(spec, options.gpus)
            progress.line(f"sweep {folder.name}: {plan.text}")
            usage = UsageMeter(
                folder,
                new_session(plan),
                trials_before,
                planned=spec.search.trials,
                epochs=spec.training.epochs,
                costs=cost_model(spec),
                confirming=most_retrainings(spec),
                budget=None if spec.limits.budget is None else parse_budget(spec.limits.budget),
                time_s=options.time_s,
                not_begun=spec.search.trials - planned,
                price=options.price,
                to_go_on=options.to_go_on(),
            )
            if _front_is_measured(folder, spec, trials_before):
                usage.check()
            held.callback(usage.close)
            progress.charge(lambda: live_line(usage.usage(), usage.ended_trials(), usage.budget), usage.left_s)
            shutil.rmtree(ray_folder, ignore_errors=True)  # Ray's own files of a driver that was killed
            runner, limits = runner_for(spec, folder.cache_path, code, folder.remote), job_limits(spec)
            slots = SlotPool(plan, runner, ray_folder, limits, progress.line)
            held.callback(lambda: slots.close(CLOSE_S, stop.impatience(TAIL_S)))
            slots.start()
            resumable.has_begun = True
            progress.wait_for("warming up", plan.slots, "slots ready")
            files = FrontFiles(folder.front_path, tracker.front_updated)
            held.callback(files.close)

            def tick() -> None:
                usage.hold(slots.held)
                usage.to_measure(measurements.looks, measurements.tests)
                usage.tick()
                progress.tick()
                progress.detail(slots.activity)

            measurements = Measurements(slots.submit, folder, progress, stop=stop, tick=tick)
            control = SessionControl(
                folder,
                spec,
                stop=stop,
                usage=usage,
                slots=slots,
                progress=progress,
                measurements=measurements,
            )

            def prepare() -> ActiveSearch | None:
                """Begin the search once the untouched model is measured."""
                untouched = measurements.untouched()
                progress.step(slots.warm)
                if untouched is None:
                    return None
                measurements.measure_memory(
                    largest_scope(spec).parameters,
                    ray_folder / "memory",
                    lambda need: progress.line(memory_line(need, plan, measured=slots.warm * plan.workers_per_trial)),
                )
                progress.searching()
                return begin_search(
                    folder,
                    spec,
                    untouched,
                    control=control,
                    progress=progress,
                    tracker=tracker,
                    files=files,
                    usage=usage,
                    sent=(lambda: None) if sending is None else sending.now,
                )

            try:
                stop.check()
                search = run_trials(slots, prepare, ray_folder)
                held.callback(search.close)
                if not stop.asked and search.scheduler.too_many_failed:
                    state = "failed"
                elif not stop.asked:
                    _measure_front(folder, spec, search.study.trials(), measurements, usage, progress)
                    state = "complete"
            except SessionInterrupted:
                pass  # the state stays interrupted
            trials = [] if search is None else search.study.trials()
        progress.wait_for("drawing the front, updating MLflow")
        front = None if search is None else load_front(folder, spec, trials)
        if front is not None:
            write_front(front, folder.front_path, folder.retrieved_path, final_state(folder, spec, trials))
            tracker.front_updated(front)
        costs = usage.totals(None if front is None else front.hypervolume_of_accuracies())
        floor = search.floor.metrics() if search is not None and search.floor is not None else {}
        tracker.sweep_ended(state, costs | floor)
        sent = tracker.flush(MLFLOW_FLUSH_S, stop.impatience(TAIL_S))
        progress.searching()
        return SweepResult(
            state=state,
            front=front,
            tracking_problem=tracker.problem() or (None if sent else "MLflow does not have all records yet"),
            failures=tuple(
                f"trial {trial.number} failed: {trial.reason}" for trial in trials if trial.state == "failed"
            ),
            unfinished_work=usage.unfinished_work(),
        )


def _import_libraries(connected: threading.Event) -> None:
    """Import what Ray's Train and the study need, while the driver waits for Ray's own processes, which takes seconds.

    Before these run, the driver itself imports, and two threads of one process do not import faster than one. None of
    the libraries imports Ray: two threads that import parts of one package may get unfinished modules.

    Args:
        connected: set when Ray runs.
    """
    while not connected.wait(0.1) and not _raylet_runs():
        pass
    for name in ("pandas", "pyarrow", "optuna", "sqlalchemy"):
        with suppress(ImportError):  # reported by the code that needs it
            importlib.import_module(name)


def _raylet_runs() -> bool:
    """Return whether this process has started a raylet, the last of Ray's own processes."""
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended
            if process.name() == "raylet":
                return True
    return False


def _end_at_once(cleanup: SessionCleanup, progress: Progress, line: str) -> None:
    cleanup.user_was_told()
    progress.freeze()
    end_process(UNAVAILABLE, line)


def _front_is_measured(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> bool:
    """Return whether an earlier session has measured the front of these trials on test."""
    front = load_front(folder, spec, trials)
    return front is not None and all(point.values is not None for point in front.points)


def _measure_front(
    folder: SweepFolder,
    spec: Spec,
    trials: Sequence[TrialRecord],
    measurements: Measurements,
    usage: UsageMeter,
    progress: Progress,
) -> None:
    """Make all measurements after the trials.

    These are the second look, if it was not made before the confirm phase; then members, untouched model and baselines
    on test, each once, whatever follows; then the retrainings.
    """
    before_s = usage.used_s()
    untouched = folder.untouched()
    assert untouched is not None, "it is measured before the first trial"
    if spec.evaluate.second_look is None or not is_possible(untouched.unseen_images):
        progress.line(no_look_text(spec, untouched.validation_images, untouched.unseen_images))
    measurements.second_look(trials, spec)
    front = load_front(folder, spec, trials)
    assert front is not None, "the untouched model is measured"
    missing = {point.point_name: point.parameters for point in front.points if point.values is None}
    if missing:
        measurements.on_test(missing, variants=True)
    measurements.confirm(front, trials, spec)
    if usage.limited():
        used_h, device = (usage.used_s() - before_s) / HOUR_S, usage.usage().device
        progress.line(f"measuring the front took {hours(used_h)} {device}-h (budget and time end the search, not this)")

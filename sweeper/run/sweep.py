"""A sweep from start to end, top to bottom: plan, warm slots, untouched model, trials, test of the front.

Ray is the executor, not the memory: everything that must survive is in the sweep's folder, and ``run_sweep`` goes on
from whatever it finds there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sweeper.errors import UserError
from sweeper.front.build import build_front, confirmed, point_name
from sweeper.front.confirm import plan
from sweeper.front.load import load_front
from sweeper.front.report.writer import FrontFiles
from sweeper.records import Front, Retraining, TrialRecord
from sweeper.run.budget import UnfinishedWork
from sweeper.run.measurements import Interrupted, Measurements
from sweeper.run.observer import Observer
from sweeper.run.progress import Progress
from sweeper.run.signals import StopSignal
from sweeper.run.usage import UsageMeter, new_session, trainings_to_confirm
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study, read_trials, searched
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.search.warm_start import prior_trials_of
from sweeper.spec.quantities import parse_budget
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.tracker import Tracker

if TYPE_CHECKING:
    from sweeper.execution.slots import SlotPool

CLOSE_S = 60.0
INTERRUPTED_CLOSE_S = 10.0
MLFLOW_FLUSH_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What belongs to this go at the sweep and not to the sweep."""

    gpus: float | None = None
    address: str | None = None
    tracking_uri: str | None = None
    time_s: float | None = None
    """How long this go may take."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """How ``run_sweep`` ended."""

    state: str
    """``complete``, ``failed`` (too many failed trials) or ``interrupted``."""
    front: Front | None
    tracking_problem: str | None = None
    """One line where MLflow is behind."""
    failures: tuple[str, ...] = ()
    """A line per failed trial."""
    unfinished_work: UnfinishedWork | None = None


def run_sweep(folder: SweepFolder, spec: Spec, options: Options) -> SweepResult:
    """Runs what is left of a sweep. The caller holds its lease.

    Raises UserError for images or a model that cannot be had, UnavailableError where no trial fits on the cluster.
    """
    from sweeper.execution import capacity, cluster
    from sweeper.execution.job_queue import JobLimits
    from sweeper.execution.runner import make_runner
    from sweeper.execution.slots import SlotPool

    resources, limits = spec.resources, spec.limits
    trials, front = read_trials(folder, spec), load_front(folder, spec)
    with ExitStack() as stack:
        interruption = stack.enter_context(StopSignal(folder.name))
        progress = Progress(folder.name, spec.search.trials, finished=searched(trials))
        stack.callback(progress.close)
        tracker = Tracker(folder.path, options.tracking_uri, folder.storage, folder.name, folder.sweep_id)
        stack.callback(tracker.close)
        tracker.warm_up()
        cluster.connect(options.address)
        stack.callback(cluster.disconnect)
        cluster.check_shared(folder.path)
        plan = capacity.plan(
            cluster.nodes(),
            options.gpus,
            resources.workers_per_trial,
            1.0 if resources.gpus_per_worker is None else resources.gpus_per_worker,
            resources.cpus_per_worker,
        )
        plan = replace(plan, slots=min(plan.slots, spec.search.trials))
        progress.line(f"sweep {folder.name}: {plan.text}")
        shutil.rmtree(folder.path / "ray", ignore_errors=True)  # Ray's own files of a driver that was killed
        runner = partial(
            make_runner,
            task=spec.task_settings().model_dump(mode="json", by_alias=True),
            data_seed=spec.search.seed,
            cache=folder.cache_path,
        )
        slot_limits = JobLimits(
            trial_s=None if limits.trial_hours is None else limits.trial_hours * 3600,
            stall_s=limits.stall_minutes * 60,
        )
        meter = UsageMeter(
            folder,
            new_session(plan),
            trials,
            planned=spec.search.trials,
            confirming=trainings_to_confirm(spec),
            budget=None if limits.budget is None else parse_budget(limits.budget),
            time_s=options.time_s,
        )
        if front is not None and all(point.values is not None for point in front.points):
            meter.check()
        stack.callback(meter.close)  # after the slots were given back
        progress.charge(meter.line, meter.left_s)
        slots = SlotPool(plan, runner, folder.path / "ray", slot_limits)
        stack.callback(lambda: slots.close(INTERRUPTED_CLOSE_S if interruption.asked else CLOSE_S))
        slots.start()
        sweep = _Sweep(folder, spec, slots, progress, tracker, interruption, meter)
        try:
            return sweep.run()
        except Interrupted:
            return sweep.end("interrupted")


class _Sweep:
    """The steps of ``run_sweep`` once slots are warming up."""

    def __init__(
        self,
        folder: SweepFolder,
        spec: Spec,
        slots: SlotPool,
        progress: Progress,
        tracker: Tracker,
        interruption: StopSignal,
        meter: UsageMeter,
    ) -> None:
        self._folder, self._spec, self._slots = folder, spec, slots
        self._meter = meter
        self._progress, self._tracker, self._interruption = progress, tracker, interruption
        self._measurements = Measurements(
            slots.submit, folder, progress, interrupted=lambda: interruption.asked, tick=self._tick
        )
        self._study: Study | None = None
        self._trials: TrialScheduler | None = None
        self._files = FrontFiles(folder.front_path, tracker.front_updated)

    def run(self) -> SweepResult:
        from sweeper.execution.tune import run_trials

        self._progress.line("warming up: model, images and the reference's embeddings")
        run_trials(self._slots, self._prepare, self._folder.path / "ray")
        assert self._study is not None and self._trials is not None
        if self._interruption.asked:
            return self.end("interrupted")
        if self._trials.too_many_failed:
            return self.end("failed")
        before_s = self._meter.taken_s()
        self._measure_front()
        self._measurements.confirm(self._front(), self._study.trials(), self._spec)
        self._meter.tell_measuring(before_s, self._progress.line)
        return self.end("complete")

    def _prepare(self) -> TrialScheduler | None:
        """The trials, once the untouched model is measured; None before."""
        measured = self._measurements.untouched()
        if measured is None:
            return None
        untouched = self._compare_untouched(measured)
        self._study = study = self._open_study(untouched)
        observer = Observer(
            self._progress,
            self._tracker,
            self._files,
            self._front_of,
            study.trials,
            self._tags(untouched),
            self._meter,
        )
        observer.repeat(study.trials(), self._folder.reports)
        self._trials = TrialScheduler(
            self._spec,
            study,
            FolderTrialFiles(self._folder, self._spec),
            untouched["validation"],
            observer,
            interrupted=lambda: self._interruption.asked or self._meter.used_up(),
            interrupt=self._interrupt,
            may_start=self._may_start,
            retrainings=self._retrainings,
        )
        return self._trials

    def end(self, state: str) -> SweepResult:
        """Writes the front a last time and tells MLflow."""
        front = self._front() if self._study is not None else None
        failures: tuple[str, ...] = ()
        if self._study is not None:
            failed = [record for record in self._study.trials() if record.state == "failed"]
            failures = tuple(f"trial {record.number} failed: {record.reason}" for record in failed)
            self._study.close()
        if front is not None:
            self._files.write(front)
        self._files.close()
        self._tracker.sweep_ended(state, self._meter.totals())
        # Nobody pays for slots that wait for MLflow.
        self._slots.close(INTERRUPTED_CLOSE_S if state == "interrupted" else CLOSE_S)
        self._meter.close()
        sent = self._tracker.flush(INTERRUPTED_CLOSE_S if state == "interrupted" else MLFLOW_FLUSH_S)
        problem = self._tracker.problem() or (None if sent else "MLflow has not been told everything yet")
        return SweepResult(
            state=state,
            front=front,
            failures=failures,
            tracking_problem=problem,
            unfinished_work=self._meter.unfinished_work(),
        )

    def _tick(self) -> None:
        self._meter.tick()
        self._progress.tick()

    def _may_start(self, confirming: bool) -> bool:
        confirm = self._spec.confirm
        return self._meter.may_start(1.0 if confirming or confirm is None else 1.0 - confirm.share)

    def _interrupt(self) -> None:
        if not self._interruption.asked:
            self._progress.line(f"{self._meter.limit} is used up: running trials write a checkpoint")
        self._slots.interrupt()

    def _front(self) -> Front:
        assert self._study is not None
        return self._front_of(self._study.trials())

    def _front_of(self, trials: Sequence[TrialRecord]) -> Front:
        untouched = self._folder.untouched()
        assert untouched is not None
        found = build_front(
            self._folder.name,
            trials,
            goals=self._spec.goals,
            untouched=untouched,
            tests=self._folder.tests(),
            planned=self._spec.search.trials,
        )
        return confirmed(found, self._folder.confirmations())

    def _open_study(self, untouched: dict[str, Any]) -> Study:
        if self._folder.study_path.exists():
            return Study.open(self._folder.study_path, self._spec.parameters)
        search, known = self._spec.search, []
        for name in self._folder.warm_start:
            found, notes = prior_trials_of(SweepFolder(self._folder.storage, name), self._spec, untouched)
            known += found
            for note in notes:
                self._progress.line(note)
        return Study.create(
            self._folder.study_path,
            self._spec.parameters,
            seed=search.seed,
            startup_trials=search.startup(),
            sampler="random" if search.sampler == "random" else "tpe",
            known=known,
        )

    def _compare_untouched(self, measured: dict[str, Any]) -> dict[str, Any]:
        """On every start: a resumed sweep must work on the same weights and images as before, and what was measured
        then is what counts."""
        before = self._folder.untouched()
        if before is not None:
            for what in ("weights_digest", "data_digest"):
                if before[what] != measured[what]:
                    raise UserError(
                        f"{what.replace('_', ' ')} of sweep {self._folder.name} was {before[what][:12]} and is now "
                        f"{measured[what][:12]}: model or images have changed; start a new sweep for them"
                    )
        else:
            self._folder.write_json("untouched.json", measured)
            before = measured
        self._tracker.sweep_started(self._spec.resolved(), self._tags(measured))
        if measured["assumed"] is not None:
            self._progress.line(f"model, assumed: {measured['assumed']}")
        goals = measured["validation"]
        self._progress.line(
            f"untouched model on validation: clean {goals['clean_accuracy']:.3f}, "
            f"robust {goals['robust_accuracy']:.3f}; {measured['pairs']} preference pairs"
        )
        return before

    def _tags(self, measured: dict[str, Any]) -> dict[str, str]:
        from sweeper.environment import versions

        tags = {f"sweeper.version.{name}": version for name, version in versions().items()}
        tags |= {f"sweeper.version.{name}": version for name, version in measured["versions"].items()}
        tags |= {f"sweeper.{name}": str(measured[name]) for name in ("weights_digest", "data_digest", "device")}
        commit = self._folder.git_commit
        return tags if commit is None else {**tags, "mlflow.source.git.commit": commit}

    def _retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining]:
        confirm, search = self._spec.confirm, self._spec.search
        if confirm is None:
            return ()
        most = confirm.most_trainings(search.trials) if self._spec.limits.budget is None else None
        planned = plan(self._front(), trials, confirm, seed=search.seed, most=most)
        self._progress.line(planned.note)
        self._meter.confirming = len(planned.missing) + sum(trial.confirms is not None for trial in trials)
        return planned.missing

    def _measure_front(self) -> None:
        """Members, untouched model and PAINT on test: each once, whatever comes later."""
        missing = {point_name(point): point.parameters for point in self._front().points if point.values is None}
        if missing:
            self._progress.line(f"measuring on test: {len(missing)} points (front, untouched model, baselines)")
            self._measurements.on_test(missing, variants=True)

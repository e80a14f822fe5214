"""A finished sweep on disk, made by the real runner, study and front, without Ray and within seconds."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TextIO, cast

from sweeper.execution.runner import make_runner
from sweeper.execution.worker import Channel, WorkerContext
from sweeper.front.load import load_front
from sweeper.jobs import Job, Outcome, UntouchedJob
from sweeper.records import TrialRecord, UntouchedModel
from sweeper.run.measurements import Measurements
from sweeper.run.progress import Progress
from sweeper.run.signals import StopSignal
from sweeper.search.scheduler import SweepControl, TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.tiny import write_clip
from trainables.records import Report

SPEC = """\
model: {architecture: "local-dir:clip"}
sets:
  world: {kind: world, train: 64, validation: 60, test: 40}
train: {set: world, classes: 0.5}
attack: {recipe: sign}
evaluate: {search: {sets: [world]}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
parameters:
  objective: dpo
  beta: {low: 0.1, high: 2.0, log: true}
  tune: transform
  rank: 12
  learning_rate: 0.05
paint: {learning_rate: 1.0e-3}
search: {trials: 2}
training: {epochs: 1, global_batch_size: 16}
"""


class SilentChannel:
    """Drops what a runner sends; nobody interrupts it."""

    def report(self, report: Report) -> None: ...

    def log(self, line: str) -> None: ...

    def heartbeat(self) -> None: ...

    def long_operation(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()

    def interrupted(self) -> bool:
        return False


class SilentListener:
    """Implements ``scheduler.TrialListener``."""

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...


def modules_of(value: object) -> set[str]:
    """The packages that a process imports to read a pickled value."""
    packages = set[str]()

    class Recording(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            packages.add(module.partition(".")[0])
            return super().find_class(module, name)

    Recording(io.BytesIO(pickle.dumps(value))).load()
    return packages


class InProcessSlots:
    """In place of warm slots: every job runs at once in this process."""

    def __init__(self, folder: SweepFolder, spec: Spec) -> None:
        worker = WorkerContext(rank=0, world_size=1, local_rank=0, device="cpu", slot=0)
        self._run = make_runner(worker, task=spec.task_settings(), data_seed=spec.search.seed, cache=folder.cache_path)
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> Future[Outcome]:
        self.jobs.append(job)
        future: Future[Outcome] = Future()
        result = self._run(job, cast(Channel, SilentChannel()))
        assert not modules_of(result) & {"torch", "numpy"}, "the job queue and the driver read it without these"
        future.set_result(Outcome(kind="complete", result=result, slot=0, attempt=1))
        return future


def measurements_of(folder: SweepFolder, spec: Spec, slots: InProcessSlots, told: TextIO | None = None) -> Measurements:
    """Return what measures points on these slots; ``told``: gets the lines of progress."""
    stop = StopSignal("sweeper resume demo", 30.0)
    progress = Progress("demo", spec.search.trials, spec.task_goals(), stream=told or io.StringIO())
    return Measurements(slots.submit, folder, progress, stop=stop, tick=lambda: None)


def search(
    folder: SweepFolder, spec: Spec, slots: InProcessSlots, control: SweepControl | None = None
) -> list[TrialRecord]:
    """Run what is left of a search whose untouched model is measured; return all trials."""
    untouched = folder.untouched()
    assert untouched is not None
    goals = {goal.metric: goal.direction for goal in spec.task_goals()}
    if folder.study_path.exists():
        study = Study.open(folder.study_path, spec.parameters)
    else:
        study = Study.create(folder.study_path, spec.parameters, goals=goals, seed=0, startup_trials=4)
    scheduler = TrialScheduler(spec, study, FolderTrialFiles(folder, spec), untouched.goals, SilentListener(), control)
    while not scheduler.exhausted():
        job = scheduler.next_job()
        if job is not None:
            scheduler.on_end(job.key, slots.submit(job).result())
    trials = study.trials()
    study.close()
    return trials


def begun_sweep(home: Path, spec_text: str = SPEC) -> tuple[SweepFolder, Spec, InProcessSlots]:
    """``<home>/demo.yaml`` in the storage ``<home>/sweeps``, its untouched model measured."""
    write_clip(home / "clip", "vit")
    (home / "demo.yaml").write_text(spec_text)
    spec = load_spec(home / "demo.yaml")
    folder = SweepFolder(home / "sweeps", spec.name)
    folder.create(spec, spec_text)
    slots = InProcessSlots(folder, spec)
    untouched = slots.submit(UntouchedJob(key=1)).result().result
    assert isinstance(untouched, UntouchedModel)
    folder.write_untouched(untouched)
    return folder, spec, slots


def finished_sweep(home: Path, spec_text: str = SPEC) -> tuple[SweepFolder, Spec]:
    """``<home>/demo.yaml`` run to its end into the storage ``<home>/sweeps``: two trials, one of them PAINT's."""
    folder, spec, slots = begun_sweep(home, spec_text)
    trials, measurements = search(folder, spec, slots), measurements_of(folder, spec, slots)
    measurements.second_look(trials, spec)
    front = load_front(folder, spec, trials)
    assert front is not None
    measurements.on_test({point.point_name: point.parameters for point in front.points}, variants=True)
    return folder, spec

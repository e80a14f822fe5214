"""A finished sweep on disk, made by the real runner, study and front, without Ray and within seconds."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

from sweeper.execution.runner import make_runner
from sweeper.execution.worker import Channel, WorkerContext
from sweeper.front.load import load_front
from sweeper.jobs import MeasureJob, Outcome, TrainedWeights, UntouchedJob
from sweeper.records import TrialRecord, UntouchedModel
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.tiny import write_clip
from trainables.records import Measurement, Report

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


def finished_sweep(home: Path, spec_text: str = SPEC) -> tuple[SweepFolder, Spec]:
    """``<home>/demo.yaml`` run to its end into the storage ``<home>/sweeps``: two trials, one of them PAINT's."""
    write_clip(home / "clip", "vit")
    (home / "demo.yaml").write_text(spec_text)
    spec = load_spec(home / "demo.yaml")
    folder = SweepFolder(home / "sweeps", spec.name)
    folder.create(spec, spec_text)
    worker = WorkerContext(rank=0, world_size=1, local_rank=0, device="cpu", slot=0)
    runner = make_runner(worker, task=spec.task_settings(), data_seed=spec.search.seed, cache=folder.cache_path)
    channel = cast(Channel, SilentChannel())
    untouched = runner(UntouchedJob(key=1), channel)
    assert isinstance(untouched, UntouchedModel)
    folder.write_untouched(untouched)
    goals = {goal.metric: goal.direction for goal in spec.task_goals()}
    study = Study.create(folder.study_path, spec.parameters, goals=goals, seed=0, startup_trials=4)
    scheduler = TrialScheduler(spec, study, FolderTrialFiles(folder, spec), untouched.goals, SilentListener())
    while (job := scheduler.next_job()) is not None:
        scheduler.on_end(job.key, Outcome(kind="complete", result=runner(job, channel), slot=0, attempt=1))
    front = load_front(folder, spec, study.trials())
    study.close()
    assert front is not None
    for index, point in enumerate(front.points):
        weights = None
        if point.trial is not None:
            weights = TrainedWeights(
                folder=folder.trial(point.trial).path,
                parameters=point.parameters,
                weights=point.weights,
                strength=point.strength,
            )
        job = MeasureJob(key=index, point=weights, answers=folder.answers_path(point.point_name), variants=True)
        measured = runner(job, channel)
        assert isinstance(measured, Measurement)
        folder.append_measurement(point.point_name, measured)
    return folder, spec

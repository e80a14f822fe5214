"""A finished sweep on disk, made by the real runner, study and front, without Ray and within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from sweeper.execution.runner import make_runner
from sweeper.execution.worker import Channel, WorkerContext
from sweeper.front.load import load_front
from sweeper.records import Outcome, Report, Task, TrialRecord
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.tiny import write_clip

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


class Deaf:
    """What a runner says goes nowhere, and nobody interrupts it."""

    def report(self, report: Report) -> None: ...

    def log(self, line: str) -> None: ...

    def alive(self) -> None: ...

    def interrupted(self) -> bool:
        return False


class Nobody:
    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...

    def tick(self) -> None: ...


def finished_sweep(home: Path, spec_text: str = SPEC) -> tuple[SweepFolder, Spec]:
    """``<home>/demo.yaml`` run to its end into the storage ``<home>/sweeps``: two trials, one of them PAINT's."""
    write_clip(home / "clip", "vit")
    (home / "demo.yaml").write_text(spec_text)
    spec = load_spec(home / "demo.yaml")
    folder = SweepFolder(home / "sweeps", spec.name)
    folder.create(spec, spec_text)
    task = spec.task_settings().model_dump(mode="json", by_alias=True)
    context = WorkerContext(rank=0, world_size=1, local_rank=0, device="cpu", slot=0)
    runner = make_runner(context, task=task, data_seed=spec.search.seed, cache=folder.cache_path)
    deaf = cast(Channel, Deaf())

    def measure(**payload: Any) -> dict[str, Any]:
        return runner(Task(kind="measure", key=1, attempt=1, payload=payload), deaf)

    untouched = measure(what="untouched")
    folder.write_json("untouched.json", untouched)
    study = Study.create(folder.study_path, spec.parameters, seed=0, startup_trials=4)
    trials = TrialScheduler(spec, study, FolderTrialFiles(folder, spec), untouched["validation"], Nobody())
    while (next_task := trials.next_task()) is not None:
        trials.on_end(next_task.key, Outcome(kind="complete", result=runner(next_task, deaf), slot=0, attempt=1))
    study.close()
    front = load_front(folder, spec)
    assert front is not None
    for index, point in enumerate(front.points):
        payload: dict[str, Any] = {"what": "test", "trial": point.trial, "answers": folder.path / f"{index}.csv"}
        if point.trial is not None:
            payload |= {"folder": str(folder.trial_path(point.trial)), "parameters": point.parameters}
            payload |= {"weights": point.weights, "strength": point.strength}
        folder.append_test((point.trial, point.weights, point.strength), measure(**payload))
    return folder, spec

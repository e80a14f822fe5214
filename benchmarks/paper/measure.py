"""The sweeps of the paper's table, and the answers of their models. What is there already is not made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.paper.rows import ROWS, TRAINED_ON, Row
from sweeper import api
from sweeper.errors import UserError
from sweeper.front.load import finished_front
from sweeper.front.pick import pick
from sweeper.models.evaluate import Weights
from sweeper.models.export import export_point
from sweeper.models.measuring import Measuring, measured_rows, named_data
from sweeper.records import FrontPoint
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.evaluation.answers import Answers, read_answers, write_answers

Echo = Callable[[str], None]


def sweep_name(seed: int) -> str:
    """Return the name of the sweep with a seed."""
    return f"paper_table-seed{seed}"


def trained(seed: int, storage: Path) -> bool:
    """Return whether the sweep with a seed is complete."""
    if not storage.is_dir():
        return False
    sweeps = api.sweeps(storage)
    return len(sweeps) > 0 and "complete" in sweeps.loc[sweeps["name"] == sweep_name(seed), "state"].tolist()


def run_sweep(spec: Path, seed: int, *, storage: Path, gpus: float | None, echo: Echo) -> None:
    """Run the sweep with a seed, or go on with it; a complete one stays as it is.

    It measures on the test images of ImageNet-100 only: every model is measured on all sets afterwards, on the same
    words whatever the seed.

    Raises:
        UserError: the spec is wrong, or the storage has a sweep of this name from another spec.
        SweepFailed: too many trials failed.
        SweepStopped: a signal has stopped it; the same command goes on.
        UnavailableError: cluster or storage is not available.
    """
    if trained(seed, storage):
        echo("complete already")
        return
    api.run(
        spec, storage=storage, name=sweep_name(seed), changes=sweep_changes(seed), gpus=gpus, resume=True, echo=echo
    )


def sweep_changes(seed: int) -> dict[str, object]:
    """Return the changes of the spec for the sweep with a seed."""
    return {"search.seed": seed, "evaluate.test.sets": [TRAINED_ON]}


def measure(spec: Path, seeds: Sequence[int], *, storage: Path, output: Path, device: str | None, echo: Echo) -> None:
    """Write the answers of every model of the table on every set.

    Raises:
        UserError: a trial has not finished, or sets or models cannot be loaded.
    """
    loaded = load_spec(spec, [])
    measuring = Measuring(
        data=named_data([str(spec)], None, echo), storage=storage, echo=lambda line: None, seed=0, device=device
    )
    for seed in seeds:
        for number, row in enumerate(ROWS):
            file = answers_file(output, row, seed)
            if file.exists() or (row.key == "untouched/last" and seed != seeds[0]):
                continue
            echo(f"seed {seed}: {row.title} ({number + 1} of {len(ROWS)})")
            _answer(row, seed, loaded, measuring, file)


def answers_of(row: Row, seeds: Sequence[int], output: Path) -> list[list[Answers]]:
    """Return the answers of a model for each seed; the untouched model has none but the first."""
    used = seeds[:1] if row.key == "untouched/last" else seeds
    return [read_answers(answers_file(output, row, seed)) for seed in used]


def answers_file(output: Path, row: Row, seed: int) -> Path:
    """Return the file of a model's answers, as ``sweeper evaluate --output`` writes them."""
    return output / "answers" / f"seed{seed}-{row.file_name}.csv.gz"


def _answer(row: Row, seed: int, spec: Spec, measuring: Measuring, file: Path) -> None:
    """Measure a model and write its answers, whole or not at all."""
    model, weights = _untouched(spec)
    scratch = file.parent / "model"
    shutil.rmtree(scratch, ignore_errors=True)
    if row.trained_with is not None or row.baseline is not None:
        _export(SweepFolder(measuring.storage, sweep_name(seed)), row, scratch)
        model, weights = str(scratch), Weights()
    part = file.with_name(f"part-{file.name}")
    measured_rows([model], measuring, weights=weights, write=lambda answers: write_answers(part, answers))
    os.replace(part, file)
    shutil.rmtree(scratch, ignore_errors=True)


def _untouched(spec: Spec) -> tuple[str, Weights]:
    """Return the untouched model as ``sweeper evaluate`` takes it."""
    model = spec.model
    if model.is_bare_file:
        assert isinstance(model.preprocess, str)
        return model.architecture, Weights(
            pretrained=model.pretrained, quick_gelu=model.quick_gelu, preprocess=model.preprocess
        )
    return model.architecture if model.pretrained is None else f"{model.architecture}:{model.pretrained}", Weights()


def _export(folder: SweepFolder, row: Row, target: Path) -> None:
    """Write a trained model as a folder.

    Raises:
        UserError: its trial has not finished.
    """
    spec = folder.spec()
    front = finished_front(folder, spec)
    point = pick(front, row.baseline) if row.baseline is not None else _point(folder, row, front.points + front.others)
    export_point(folder, spec, front, point, target)


def _point(folder: SweepFolder, row: Row, points: Sequence[FrontPoint]) -> FrontPoint:
    assert row.trained_with is not None
    trials = [
        trial
        for trial in read_trials(folder, folder.spec())
        if trial.baseline is None
        and trial.confirms is None
        and all(trial.parameters.get(name) == value for name, value in row.trained_with.items())
    ]
    for point in points:
        if (point.trial, point.weights, point.strength) in [(trial.number, row.weights, 1.0) for trial in trials]:
            return point
    states = ", ".join(f"trial {trial.number} is {trial.state}" for trial in trials) or "it has no such trial"
    raise UserError(
        f"sweep {folder.name} has not finished {row.title}: {states}; `{folder.command('trials')}` shows the reason"
    )

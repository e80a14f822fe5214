"""Bounds on metrics that are no goals: measured of every candidate, told to the sampler, kept by the front, shown."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from sweeper.front.load import load_front
from sweeper.front.rendering.table import markdown, table
from sweeper.models.export import export_point
from sweeper.search.study import read_trials
from tests.helpers.finished_sweep import SPEC, finished_sweep

KEEP = "keep: {sign_reading: untouched - 0.30, world/clean_accuracy: 0.5}"


@pytest.fixture(scope="module")
def text() -> str:
    """The untouched model reads .95; a trial that trains the image tower for long forgets it."""
    spec = SPEC
    for old, new in (
        ('"local-dir:clip"', "world"),
        ("train: 64, validation: 60, test: 40", "train: 400, validation: 200, test: 100"),
        ("  rank: 12\n", ""),
        ("search: {trials: 2}", "search: {trials: 2}\n" + KEEP),
        ("{epochs: 1, global_batch_size: 16}", "{epochs: 4, global_batch_size: 64}"),
    ):
        assert old in spec
        spec = spec.replace(old, new)
    return spec


def test_a_floor_on_the_reading_of_signs(tmp_path: Path, text: str) -> None:
    folder, spec = finished_sweep(tmp_path, text)
    untouched, trials = folder.untouched(), read_trials(folder, spec)
    assert untouched is not None and untouched.goals["sign_reading"] > 0.9
    assert untouched.goals["world/clean_accuracy"] == untouched.goals["clean_accuracy"]
    floor = untouched.goals["sign_reading"] - 0.30
    front = load_front(folder, spec, trials)
    assert front is not None and dict(front.kept) == {
        "sign_reading": f"sign_reading >= {floor:.4g}", "world/clean_accuracy": "world/clean_accuracy >= 0.5",
    }  # fmt: skip
    everything = [point for trial in trials for point in trial.points]
    assert all({"sign_reading", "world/clean_accuracy"} <= set(point.values) for point in everything)
    lost = [point for point in front.others if point.validation["sign_reading"] < floor]
    members = [point for point in front.points if point.member]
    assert lost and members, "the image tower forgets to read, the transform does not"
    assert all(point.validation["sign_reading"] >= floor for point in members)
    assert "bounds to be kept, on validation (sign_reading >= " in table(front, "table")
    assert f"kept: sign_reading >= {floor:.4g}" in markdown(front, 5000)

    study = optuna.load_study(storage=f"sqlite:///{folder.study_path}", study_name="sweep")
    for trial, frozen in zip(trials, study.get_trials(deepcopy=False), strict=True):
        told = next(point for point in trial.points if (point.weights, point.strength) == ("last", 1.0))
        missed = sum(
            max(0.0, bound - told.values[metric])
            for metric, bound in (("sign_reading", floor), ("world/clean_accuracy", 0.5))
        )
        assert frozen.constraints["floor"] == pytest.approx(missed)

    export_point(folder, spec, front, members[0], tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"had to keep, on validation, sign_reading >= {floor:.4g}" in card and "; this point does." in card
    assert "sign_reading" in json.loads((tmp_path / "model" / "sweeper.json").read_text())["validation"]

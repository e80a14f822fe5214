"""The response table: saving and loading, and the completeness of the recorded grids."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.search.table import Measured, RecordedTrial, Table, load_table, save_table
from tests.paths import ROOT

RECORDED = ROOT / "benchmarks" / "results" / "response_table.csv.gz"


def measured(progress: float, *, weights: str = "last", strength: float = 1.0, tested: bool = True) -> Measured:
    test = (0.91, 0.5) if tested else (None, None)
    step = round(24 * progress)
    return Measured(
        weights=weights,  # type: ignore[arg-type]
        strength=strength,
        progress=progress,
        step=step,
        epoch=step / 8,
        image_steps=128 * step,
        train_s=0.25,
        evaluation_images=1400,
        evaluation_s=0.125,
        clean_validation=0.9,
        robust_validation=0.25 + progress / 4,
        clean_test=test[0],
        robust_test=test[1],
    )


def small_table() -> Table:
    course = (measured(0.125, tested=False), measured(1.0))
    points = (course[-1], measured(1.0, strength=0.5), measured(1.0, weights="averaged"))
    trials = [
        RecordedTrial(
            number,
            "visual",
            {"objective": "cross_entropy", "tune": "visual", "lambda_reg": 1.0, "learning_rate": rate},
            course,
            points,
        )
        for number, rate in enumerate((1e-4, 1e-3), 1)
    ]
    return Table(measured(0.0), tuple(trials))


def test_what_is_saved_is_loaded_and_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv.gz", tmp_path / "second.csv.gz"
    save_table(first, small_table())
    assert load_table(first) == small_table()
    save_table(second, load_table(first))
    assert first.read_bytes() == second.read_bytes()


def test_a_simulated_trial_finds_its_recorded_one() -> None:
    table = small_table()
    wanted = {"objective": "cross_entropy", "tune": "visual", "beta": None, "lambda_reg": 1.0, "learning_rate": 1e-3}
    assert table.find(wanted).number == 2
    with pytest.raises(KeyError):
        table.find(wanted | {"learning_rate": 5e-4})
    assert table.nearest(wanted | {"learning_rate": 3e-4}).number == 1
    assert table.nearest(wanted | {"learning_rate": 3.3e-4}).number == 2
    trial = table.trials[0]
    assert trial.at(1 / 9).progress == 0.125 and trial.at(1 / 3).progress == 1.0
    with pytest.raises(ValueError, match="not measured"):
        _ = trial.at(1 / 9).test


def test_the_recorded_grids_are_whole() -> None:
    table = load_table(RECORDED)
    assert table.untouched.clean_validation - table.untouched.robust_validation > 0.5
    for tune, objective in itertools.product(("transform", "visual"), ("dpo", "ipo", "kto", "cross_entropy")):
        choices = table.choices(tune=tune, objective=objective)
        names = [name for name in choices if name not in ("tune", "objective")]
        for values in itertools.product(*(choices[name] for name in names)):
            point = {"tune": tune, "objective": objective, **dict(zip(names, values, strict=True))}
            trial = table.find(point)  # type: ignore[arg-type]
            assert [trial.at(share).step for share in (1 / 9, 1 / 3, 1.0)] == [3, 8, 24]
            assert trial.points[0] == trial.course[-1] and len(trial.points) == 3
            costs = [(report.image_steps, report.evaluation_images) for report in trial.course]
            assert costs == sorted(set(costs)) and all(point.test for point in trial.points)

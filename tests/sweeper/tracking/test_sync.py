"""``sweeper sync``: records that MLflow lacks of a sweep that no process runs."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweeper.cli import elsewhere
from sweeper.cli.main import app
from sweeper.errors import UnavailableError, UserError
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.projection import create_store
from sweeper.tracking.runs import find_store
from sweeper.tracking.server import free_port
from sweeper.tracking.tracker import Tracker
from tests.paths import ROOT

PATIENCE_S = 120.0


@pytest.fixture
def early(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    """A sweep that a kill has ended before MLflow had any of its records."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(ROOT / "tests" / "sweeper" / "storage" / "early_sweep", tmp_path / "early")
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return SweepFolder(tmp_path, "early")


def sync(folder: SweepFolder, uri: str | None = None) -> Any:
    tracked = [] if uri is None else ["--tracking-uri", uri]
    return CliRunner().invoke(app, ["sync", folder.name, "--storage", str(folder.storage), *tracked])


def values_of(folder: SweepFolder, uri: str | None = None) -> list[tuple[str, str, int, float]]:
    """Every metric value of every run of a store: (trial, metric, step, value). It has a run for each trial."""
    client = create_store(find_store(folder.storage, uri))
    experiment = client.get_experiment_by_name("sweeper")
    runs = client.search_runs([experiment.experiment_id])
    trials = [run.data.tags.get("sweeper.trial", "") for run in runs]
    assert sorted(trials) == sorted(["", *map(str, range(11))])
    found = [
        (trial, key, one.step, one.value)
        for trial, run in zip(trials, runs, strict=True)
        for key in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, key)
    ]
    client._tracking_client.store._dispose_engine()
    return sorted(found)


def test_a_store_gets_everything_once_and_again_after_its_loss(early: SweepFolder, empty_database: Path) -> None:
    done = sync(early)
    assert done.exit_code == 0, done.exception
    assert f"MLflow at sqlite:///{early.storage}/mlflow.db has all records of sweep early" in done.stderr
    first = values_of(early)
    places = [(trial, key, step) for trial, key, step, _ in first if not key.startswith("front/")]
    assert len(places) > 100 and len(set(places)) == len(places)
    assert sync(early).exit_code == 0
    assert values_of(early) == first
    shutil.copy(empty_database, early.storage / "mlflow.db")  # somebody has lost the store
    assert sync(early).exit_code == 0
    assert values_of(early) == first


def test_a_sweep_that_runs_sends_by_itself(early: SweepFolder) -> None:
    with early.hold():
        done = sync(early)
    assert isinstance(done.exception, UserError) and "'early' is being run by process" in str(done.exception)


def test_a_sweep_without_events_has_nothing_to_send(early: SweepFolder) -> None:
    (early.path / "tracking.jsonl").unlink()
    done = sync(early)
    assert isinstance(done.exception, UserError) and "has no records for MLflow yet" in str(done.exception)


def test_a_server_that_is_away_is_told_without_its_password(
    early: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port('127.0.0.1', 24321)}"
    monkeypatch.setattr(elsewhere, "SYNC_S", 0.5)
    done = sync(early, f"http://{address}")
    assert isinstance(done.exception, UnavailableError), done.exception
    assert f"again: sweeper sync early --tracking-uri http://{address} --storage" in str(done.exception)

    tracker = Tracker(early.path, f"http://me:pass-word@{address}", early.storage, early.name, early.sweep_id)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not tracker.flush(1.0) and tracker.problem() is None:
            assert time.monotonic() < until_s
    finally:
        tracker.close()
    said = str(tracker.problem())
    assert address in said and "\n" not in said and "pass-word" not in said
    for path in early.path.glob("tracking.*"):
        assert "pass-word" not in path.read_text(), path

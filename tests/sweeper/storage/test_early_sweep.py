"""A sweep that version 1558d66 began, and that a kill ended, still opens, reads the same and goes on.

``early_sweep`` is its folder, without logs and pictures; ``early_front.json`` and ``early_trials.json`` are what that
version printed of it (``sweeper front early --format json``, ``sweeper trials early --format json``).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sweeper.cli.status import trial_text
from sweeper.front.load import load_front
from sweeper.front.rendering.table import table
from sweeper.jobs import TrainJob
from sweeper.run.listing import sweep_row, trial_rows
from sweeper.run.status_text import status_text
from sweeper.run.usage_file import read_usage
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study, read_trials
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.events import Unreadable
from sweeper.tracking.outbox import Outbox
from tests.helpers.finished_sweep import SilentListener
from tests.paths import ROOT

HERE = ROOT / "tests" / "sweeper" / "storage"


@pytest.fixture
def early(tmp_path: Path) -> SweepFolder:
    shutil.copytree(HERE / "early_sweep", tmp_path / "early")
    return SweepFolder(tmp_path, "early")


def test_its_front_and_trials_read_as_they_did(early: SweepFolder) -> None:
    spec = early.spec()
    trials = read_trials(early, spec)
    front = load_front(early, spec, trials)
    assert front is not None
    shown = json.loads(table(front, "json"))
    assert [point.pop("validation_images") for point in shown] == [100] * len(shown)
    assert shown == json.loads((HERE / "early_front.json").read_text())
    rows = json.loads(json.dumps(trial_rows(early, spec)))
    assert [row.pop("first_point") for row in rows] == [None] * len(rows)
    printed = json.loads((HERE / "early_trials.json").read_text())
    running = [row["trial"] for row in printed if row["state"] == "running"]
    assert [(row.pop("epoch") is not None) for row in rows] == [row["trial"] in running for row in printed]
    assert [row for row in rows if row["trial"] not in running] == [row for row in printed if row["state"] != "running"]
    states = [trial.state for trial in trials]
    assert (states.count("complete"), states.count("stopped"), states.count("running")) == (5, 4, 2)
    confirmed = [point.confirmation for point in front.points if point.confirmation is not None]
    assert [confirmation.seeds for confirmation in confirmed] == [2, 2]


def test_a_trial_that_has_not_ended_runs_only_as_long_as_its_sweep(early: SweepFolder) -> None:
    def shown() -> dict[str, object]:
        return trial_rows(early, early.spec())[10]

    assert shown()["state"] == "unfinished" and "trial 10 of early: unfinished" in trial_text(early, early.spec(), 10)
    with early.lease.hold():
        row = shown()
        latest = list(early.trial(10).reports().values())[-1]
        assert (row["state"], row["epoch"]) == ("running", round(latest.epoch, 2))
        assert row["clean_accuracy"] == round(latest.values["clean_accuracy"], 4)
        text = trial_text(early, early.spec(), 10)
        assert "trial 10 of early: running" in text and f"after {latest.epoch:g} of {latest.epochs} epochs" in text
    (early.trial(10).path / "metrics.jsonl").write_bytes(b"\xff\xfe{")
    assert shown()["clean_accuracy"] is None


def test_its_usage_and_its_views(early: SweepFolder) -> None:
    spec = early.spec()
    usage = read_usage(early)
    assert [round(session.wall_s) for session in usage.sessions] == [115, 116]
    assert sweep_row(early, spec)["device_h"] == 0.1282
    assert "trials: 3 complete, 0 failed, 4 stopped, 2 unfinished, of 12" in status_text(early, spec)
    assert "trains trial 1 again" in trial_text(early, spec, 6)
    events = [entry.event for entry in Outbox(early.path).read()]
    assert len(events) > 40 and not any(isinstance(event, Unreadable) for event in events)


def test_a_trial_that_was_running_goes_on_from_its_checkpoint(early: SweepFolder) -> None:
    import torch

    from trainables.settings.parameters import Parameters
    from trainables.tasks.known import open_context
    from trainables.training.trial import run_trial
    from trainables.training.trial_folder import TrialFolder

    spec = early.spec()
    trial = read_trials(early, spec)[10]
    assert trial.state == "running"
    job = FolderTrialFiles(early, spec).job(trial, rungs=(1 / 9, 1 / 3))
    assert isinstance(job, TrainJob) and job.attempt == 2 and (job.folder / "checkpoint.pt").exists()
    context = open_context(
        spec.task_settings(), data_seed=spec.search.seed, cache=early.cache_path, device=torch.device("cpu")
    )
    files = TrialFolder(job.folder, attempt=job.attempt)
    done = list(files.reports())
    result = run_trial(context, Parameters.model_validate(job.parameters), seed=job.seed, folder=files, rungs=job.rungs)
    reports = list(files.reports().values())
    assert done == [2] and [report.step for report in reports] == [2, 4, 8, 12]
    assert reports[-1].values == result.values == result.points[0].values
    assert files.result() == result


def test_its_scheduler_takes_the_decisions_that_the_kill_cut_off(early: SweepFolder) -> None:
    spec, untouched = early.spec(), early.untouched()
    study = Study.open(early.study_path, spec.parameters)
    assert untouched is not None
    scheduler = TrialScheduler(spec, study, FolderTrialFiles(early, spec), untouched.goals, SilentListener())
    jobs = [scheduler.next_job(), scheduler.next_job()]
    assert [job and job.attempt_name for job in jobs] == [("train", 8, 2), ("train", 11, 1)]
    assert study.trial(10).state == "stopped", "its report at the first rung was on disk"
    study.close()

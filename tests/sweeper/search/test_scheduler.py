"""What runs next and what becomes of it, with a real study on disk and no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import UserError
from sweeper.jobs import Outcome, TrainJob
from sweeper.records import Retraining, TrialRecord
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder, free_name, names
from tests.helpers.goals import DIRECTIONS
from tests.helpers.reports import make_report, make_result
from tests.helpers.specs import make_spec as demo_spec
from trainables.records import Measurement, Report

UNTOUCHED = {"clean_accuracy": 0.9, "robust_accuracy": 0.3}


def make_spec(**changes: Any) -> Spec:
    return demo_spec(**{"search": {"trials": 6, "seed": 1, "startup_trials": 2}, **changes})


@dataclass
class Log:
    started_: list[int] = field(default_factory=list)
    reports: list[tuple[int, int]] = field(default_factory=list)
    ended_: list[TrialRecord] = field(default_factory=list)

    def started(self, trial: TrialRecord) -> None:
        self.started_.append(trial.number)

    def reported(self, trial: TrialRecord, report: Report) -> None:
        self.reports.append((trial.number, report.step))

    def ended(self, trial: TrialRecord) -> None:
        self.ended_.append(trial)


class Driver:
    """One session: folder and study on disk, a fresh ``TrialScheduler``, which it also controls."""

    def __init__(self, storage: Path, spec: Spec) -> None:
        self.folder = SweepFolder(storage, spec.name)
        if not self.folder.exists():
            self.folder.create(spec, "")
            Study.create(self.folder.study_path, spec.parameters, goals=DIRECTIONS, seed=1, startup_trials=2).close()
        self.study = Study.open(self.folder.study_path, spec.parameters)
        self.log, self.asked = Log(), False
        self.interrupts = self.confirm_phases = 0
        self.trials = TrialScheduler(
            spec,
            self.study,
            FolderTrialFiles(self.folder, spec),
            UNTOUCHED,
            self.log,
            self,
        )

    def tick(self) -> None: ...

    def stop_requested(self) -> bool:
        return self.asked

    def stop_running(self) -> None:
        self.interrupts += 1

    def may_start(self, confirming: bool) -> bool:
        return True

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining]:
        self.confirm_phases += 1
        return ()


def next_job(driver: Driver) -> TrainJob | None:
    job = driver.trials.next_job()
    assert job is None or isinstance(job, TrainJob)
    return job


def complete(job: TrainJob) -> Outcome:
    """Goals that are a function of the parameters, as training is."""
    beta = job.parameters.get("beta", 1.0)
    values = {"clean_accuracy": 0.9 - beta / 10, "robust_accuracy": 0.3 + beta / 10, "text_confusion_rate": 0.1}
    return Outcome(kind="complete", result=make_result(values), slot=0, attempt=job.attempt)


def run_all(driver: Driver, limit: int = 100) -> list[dict[str, Any]]:
    """Complete trials until none is left, or ``limit`` of them; return their parameters."""
    parameters = []
    while len(parameters) < limit and (job := next_job(driver)) is not None:
        parameters.append(job.parameters)
        driver.trials.on_end(job.key, complete(job))
    return parameters


def test_paint_then_points_then_the_sampler_up_to_the_number_of_trials(tmp_path: Path) -> None:
    spec = make_spec(points=[{"beta": 0.5}], paint={"learning_rate": 1e-3})
    driver = Driver(tmp_path, spec)
    parameters = run_all(driver)
    assert len(parameters) == 6 and driver.trials.exhausted() and next_job(driver) is None
    assert (parameters[0]["objective"], parameters[0]["learning_rate"]) == ("cross_entropy", 1e-3)
    assert parameters[1]["beta"] == 0.5 and parameters[1]["learning_rate"] == 0.01
    records = driver.study.trials()
    assert [record.state for record in records] == ["complete"] * 6
    assert [record.baseline for record in records] == ["paint", *[None] * 5]
    assert [record.number for record in driver.log.ended_] == list(range(6))
    assert records[2].duration_s == 1.5 and records[2].points[0].values["text_confusion_rate"] == 0.1


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3, 5])
def test_a_killed_driver_goes_on_with_the_same_trials(tmp_path: Path, killed_after: int) -> None:
    whole = run_all(Driver(tmp_path / "whole", make_spec()))
    first = Driver(tmp_path / "killed", make_spec())
    run_all(first, killed_after)
    job = next_job(first)  # begun, and never ended
    assert job is not None
    first.folder.trial(job.key, attempt=job.attempt).claim()
    second = Driver(tmp_path / "killed", make_spec())
    again = next_job(second)
    assert again is not None
    assert (again.key, again.attempt) == (job.key, job.attempt + 1)
    assert replace(again, attempt=job.attempt) == job
    second.trials.on_end(again.key, complete(again))
    run_all(second)
    assert [record.parameters for record in second.study.trials()] == whole
    assert [record.state for record in second.study.trials()] == ["complete"] * 6


GRID = {
    "objective": {"choices": ["dpo", "cross_entropy"]},
    "beta": {"when": {"objective": "dpo"}, "choices": [0.5, 1.0]},
    "tune": "transform",
    "learning_rate": {"choices": [0.01, 0.1]},
}


def test_a_grid_is_tried_once_whole_whatever_is_killed_and_asked_for_later(tmp_path: Path) -> None:
    point = {"objective": "dpo", "beta": 1.0, "learning_rate": 0.1}
    whole = make_spec(parameters=GRID, points=[point], search={"sampler": "grid"}, paint={"learning_rate": 1e-3})
    assert whole.search.trials == 1 + 6
    first = Driver(tmp_path, whole.with_trials(3))
    run_all(first, 2)
    assert next_job(first) is not None  # begun, and never ended
    second = Driver(tmp_path, whole.with_trials(5))
    assert len(run_all(second)) == 3 and second.trials.exhausted()
    third = Driver(tmp_path, whole)
    run_all(third)
    records = third.study.trials()
    assert [record.state for record in records] == ["complete"] * 7
    assert [record.baseline for record in records] == ["paint", *[None] * 6]
    tried = [record.parameters for record in records[1:]]
    assert tried[0] == {**point, "tune": "transform"}
    assert tried[1:] == [point for point in whole.parameters.grid() if point != tried[0]]
    with pytest.raises(UserError, match=r"8 is more than the whole grid, which has 7 trials \(PAINT \+ 1 point \+ 5"):
        whole.with_trials(8)


def test_failures_up_to_the_share_are_borne_and_no_more(tmp_path: Path) -> None:
    driver = Driver(tmp_path, make_spec(limits={"max_failed_share": 0.2}))
    for _ in range(2):
        assert not driver.trials.exhausted()
        job = next_job(driver)
        assert job is not None
        driver.trials.on_end(job.key, Outcome(kind="failed", reason="loss is not finite"))
    assert driver.trials.too_many_failed and driver.trials.exhausted() and next_job(driver) is None
    assert [(record.state, record.reason) for record in driver.study.trials()] == [("failed", "loss is not finite")] * 2


def test_only_a_trial_that_goes_on_keeps_its_checkpoint(tmp_path: Path) -> None:
    driver = Driver(tmp_path, make_spec())
    checkpoints = []
    for outcome in (Outcome(kind="failed", reason="loss is not finite"), Outcome(kind="interrupted")):
        job = next_job(driver)
        assert job is not None
        checkpoint = driver.folder.trial(job.key).path / "checkpoint.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_bytes(b"state")
        driver.trials.on_end(job.key, outcome)
        checkpoints.append(checkpoint.exists())
    assert checkpoints == [False, True]


def test_the_confirm_phase_begins_once_when_every_trial_has_ended_and_no_predicate_begins_it(tmp_path: Path) -> None:
    driver = Driver(tmp_path, make_spec())
    run_all(driver, 5)
    last = next_job(driver)
    assert last is not None
    assert not driver.trials.exhausted() and next_job(driver) is None and driver.confirm_phases == 0
    driver.trials.on_end(last.key, complete(last))
    assert not driver.trials.exhausted() and driver.confirm_phases == 0, (
        "asking whether the sweep is over begins nothing"
    )
    assert next_job(driver) is None and next_job(driver) is None
    assert driver.trials.exhausted() and driver.confirm_phases == 1


def test_interruption_leaves_trials_running_for_the_next_driver(tmp_path: Path) -> None:
    driver = Driver(tmp_path, make_spec())
    jobs = [next_job(driver) for _ in range(2)]
    driver.asked = True
    driver.trials.on_tick()
    driver.trials.on_tick()
    assert driver.interrupts == 1 and next_job(driver) is None
    for job in jobs:
        assert job is not None
        driver.trials.on_end(job.key, Outcome(kind="interrupted"))
    assert driver.trials.exhausted() and driver.log.ended_ == []
    assert [record.state for record in driver.study.trials()] == ["running"] * 2
    later = Driver(tmp_path, make_spec())
    assert [job.key for _ in range(3) if (job := next_job(later))] == [0, 1, 2]


def test_more_trials_may_be_asked_for_later(tmp_path: Path) -> None:
    run_all(Driver(tmp_path, make_spec()))
    more = Driver(tmp_path, make_spec(search={"trials": 8, "seed": 1, "startup_trials": 2}))
    assert len(run_all(more)) == 2 and len(more.study.trials()) == 8


def test_reports_are_passed_on_and_never_stop_a_trial(tmp_path: Path) -> None:
    driver = Driver(tmp_path, make_spec())
    job = next_job(driver)
    assert job is not None
    assert driver.trials.on_report(job.key, make_report(step=1)) is False
    assert driver.log.reports == [(job.key, 1)]


def test_trial_json_runs_alone(tmp_path: Path) -> None:
    from trainables.__main__ import read_trial

    driver = Driver(tmp_path, make_spec(paint={"learning_rate": 2e-5}))
    job = next_job(driver)
    assert job is not None
    trial = read_trial(driver.folder.trial(job.key).path / "trial.json", [])
    assert trial.parameters.model_dump(exclude_none=True).items() >= job.parameters.items()
    assert (trial.seed, trial.data_seed) == (job.seed, 1)


def test_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    driver = Driver(tmp_path, make_spec())
    with driver.folder.lease.hold():
        assert driver.folder.lease.is_held()
        with pytest.raises(UserError, match="is being run by process"), SweepFolder(tmp_path, "demo").lease.hold():
            pass
    assert not driver.folder.lease.is_held()
    with SweepFolder(tmp_path, "demo").lease.hold():
        pass


def test_names_and_test_lines(tmp_path: Path) -> None:
    driver = Driver(tmp_path, make_spec())
    assert names(tmp_path) == ["demo"] and free_name(tmp_path, "demo") == "demo-2" and free_name(tmp_path, "x") == "x"
    with pytest.raises(UserError, match="sweeper resume demo"):
        driver.folder.create(make_spec(), "")
    with pytest.raises(UserError, match="there are: demo"):
        SweepFolder(tmp_path, "other").spec()
    first, second = (Measurement(values={"clean_accuracy": value}, intervals={}, images=9) for value in (0.5, 0.9))
    driver.folder.append_measurement((3, "last", 0.5), first)
    with (driver.folder.path / "test.jsonl").open("a") as file:
        file.write('{"trial": 4, "wei')  # cut off by a kill
    driver.folder.append_measurement((3, "last", 0.5), second)
    driver.folder.append_measurement((None, "last", 1.0), second)
    measurements = driver.folder.measurements()
    assert set(measurements) == {(3, "last", 0.5), (None, "last", 1.0)}
    assert measurements[(3, "last", 0.5)] == first, "measured once: the first line counts"

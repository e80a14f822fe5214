"""What runs next and what becomes of it, with a real study on disk and no Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import UserError
from sweeper.records import Outcome, Report, Task, TrialRecord
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder, free_name, names

UNTOUCHED = {"clean_accuracy": 0.9, "robust_accuracy": 0.3}


def make_spec(**changes: Any) -> Spec:
    return Spec.model_validate(
        {
            "name": "demo",
            "sets": {"world": {"kind": "world"}},
            "train": {"set": "world"},
            "evaluate": {"search": {"sets": ["world"]}, "test": {"sets": ["world"]}},
            "parameters": {
                "objective": "dpo",
                "beta": {"low": 0.1, "high": 2.0, "log": True},
                "tune": "transform",
                "learning_rate": 0.01,
            },
            "search": {"trials": 6, "seed": 1, "startup_trials": 2},
            **changes,
        }
    )


@dataclass
class Log:
    started_: list[int] = field(default_factory=list)
    reports: list[tuple[int, int]] = field(default_factory=list)
    ended_: list[TrialRecord] = field(default_factory=list)

    def started(self, trial: TrialRecord) -> None:
        self.started_.append(trial.number)

    def reported(self, trial: TrialRecord, report: Report) -> None:
        self.reports.append((trial.number, report["step"]))

    def ended(self, trial: TrialRecord) -> None:
        self.ended_.append(trial)

    def tick(self) -> None:
        pass


class Bench:
    """One driver's life: folder and study on disk, a fresh ``TrialScheduler``."""

    def __init__(self, storage: Path, spec: Spec) -> None:
        self.folder = SweepFolder(storage, spec.name)
        if not self.folder.exists():
            self.folder.create(spec, "")
            Study.create(self.folder.study_path, spec.parameters, seed=1, startup_trials=2).close()
        self.study = Study.open(self.folder.study_path, spec.parameters)
        self.log, self.asked, self.interrupts = Log(), False, 0
        self.trials = TrialScheduler(
            spec,
            self.study,
            FolderTrialFiles(self.folder, spec),
            UNTOUCHED,
            self.log,
            interrupted=lambda: self.asked,
            interrupt=self._interrupt,
        )

    def _interrupt(self) -> None:
        self.interrupts += 1


def complete(task: Task) -> Outcome:
    """Goals that are a function of the parameters, as training is."""
    beta = task.payload["parameters"].get("beta", 1.0)
    values = {"clean_accuracy": 0.9 - beta / 10, "robust_accuracy": 0.3 + beta / 10, "text_confusion_rate": 0.1}
    points = [{"weights": "last", "strength": 1.0, "values": values}]
    result = {"values": values, "points": points, "train_s": 1.0, "evaluation_s": 0.5}
    return Outcome(kind="complete", result=result, slot=0, attempt=task.attempt)


def run_all(bench: Bench, limit: int = 100) -> list[dict[str, Any]]:
    found = []
    while len(found) < limit and (task := bench.trials.next_task()) is not None:
        found.append(task.payload["parameters"])
        bench.trials.on_end(task.key, complete(task))
    return found


def test_paint_then_points_then_the_sampler_up_to_the_number_of_trials(tmp_path: Path) -> None:
    spec = make_spec(points=[{"beta": 0.5}], paint={"learning_rate": 1e-3})
    bench = Bench(tmp_path, spec)
    parameters = run_all(bench)
    assert len(parameters) == 6 and bench.trials.exhausted() and bench.trials.next_task() is None
    assert (parameters[0]["objective"], parameters[0]["learning_rate"]) == ("cross_entropy", 1e-3)
    assert parameters[1]["beta"] == 0.5 and parameters[1]["learning_rate"] == 0.01
    records = bench.study.trials()
    assert [record.state for record in records] == ["complete"] * 6
    assert [record.baseline for record in records] == ["paint", *[None] * 5]
    assert [record.number for record in bench.log.ended_] == list(range(6))
    assert records[2].duration_s == 1.5 and records[2].points[0].values["text_confusion_rate"] == 0.1


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3, 5])
def test_a_killed_driver_goes_on_with_the_same_trials(tmp_path: Path, killed_after: int) -> None:
    whole = run_all(Bench(tmp_path / "whole", make_spec()))
    first = Bench(tmp_path / "killed", make_spec())
    run_all(first, killed_after)
    task = first.trials.next_task()  # begun, and never ended
    assert task is not None
    (first.folder.trial_path(task.key) / "attempt").write_text(str(task.attempt))
    second = Bench(tmp_path / "killed", make_spec())
    again = second.trials.next_task()
    assert again is not None
    assert (again.key, again.attempt) == (task.key, task.attempt + 1)
    assert again.payload == task.payload
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
    first = Bench(tmp_path, whole.with_trials(3))
    run_all(first, 2)
    assert first.trials.next_task() is not None  # begun, and never ended
    second = Bench(tmp_path, whole.with_trials(5))
    assert len(run_all(second)) == 3 and second.trials.exhausted()
    third = Bench(tmp_path, whole)
    run_all(third)
    records = third.study.trials()
    assert [record.state for record in records] == ["complete"] * 7
    assert [record.baseline for record in records] == ["paint", *[None] * 6]
    tried = [record.parameters for record in records[1:]]
    assert tried[0] == {**point, "tune": "transform"}
    assert tried[1:] == [one for one in whole.parameters.grid() if one != tried[0]]
    with pytest.raises(UserError, match=r"8 is more than the whole grid, which has 7 trials \(PAINT \+ 1 point \+ 5"):
        whole.with_trials(8)


def test_failures_up_to_the_share_are_borne_and_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_spec(limits={"max_failed_share": 0.2}))
    for _ in range(2):
        assert not bench.trials.exhausted()
        task = bench.trials.next_task()
        assert task is not None
        bench.trials.on_end(task.key, Outcome(kind="failed", reason="loss is not finite"))
    assert bench.trials.too_many_failed and bench.trials.exhausted() and bench.trials.next_task() is None
    assert [(record.state, record.reason) for record in bench.study.trials()] == [("failed", "loss is not finite")] * 2


def test_interruption_leaves_trials_running_for_the_next_driver(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_spec())
    tasks = [bench.trials.next_task() for _ in range(2)]
    bench.asked = True
    bench.trials.on_tick()
    bench.trials.on_tick()
    assert bench.interrupts == 1 and bench.trials.next_task() is None
    for task in tasks:
        assert task is not None
        bench.trials.on_end(task.key, Outcome(kind="interrupted"))
    assert bench.trials.exhausted() and bench.log.ended_ == []
    assert [record.state for record in bench.study.trials()] == ["running"] * 2
    later = Bench(tmp_path, make_spec())
    assert [task.key for _ in range(3) if (task := later.trials.next_task())] == [0, 1, 2]


def test_more_trials_may_be_asked_for_later(tmp_path: Path) -> None:
    run_all(Bench(tmp_path, make_spec()))
    more = Bench(tmp_path, make_spec(search={"trials": 8, "seed": 1, "startup_trials": 2}))
    assert len(run_all(more)) == 2 and len(more.study.trials()) == 8


def test_reports_are_passed_on_and_never_stop_a_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_spec())
    task = bench.trials.next_task()
    assert task is not None
    assert bench.trials.on_report(task.key, {"step": 1}) is False
    assert bench.log.reports == [(task.key, 1)]


def test_trial_json_runs_alone(tmp_path: Path) -> None:
    from trainables.__main__ import read_trial

    bench = Bench(tmp_path, make_spec())
    task = bench.trials.next_task()
    assert task is not None
    trial = read_trial(bench.folder.trial_path(task.key) / "trial.json", [])
    assert trial.parameters.model_dump(exclude_none=True).items() >= task.payload["parameters"].items()
    assert (trial.seed, trial.data_seed) == (task.payload["seed"], 1)


def test_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_spec())
    with bench.folder.lease():
        assert bench.folder.is_running()
        with pytest.raises(UserError, match="is being run by process"), SweepFolder(tmp_path, "demo").lease():
            pass
    assert not bench.folder.is_running()
    with SweepFolder(tmp_path, "demo").lease():
        pass


def test_names_and_test_lines(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_spec())
    assert names(tmp_path) == ["demo"] and free_name(tmp_path, "demo") == "demo-2" and free_name(tmp_path, "x") == "x"
    with pytest.raises(UserError, match="sweeper resume demo"):
        bench.folder.create(make_spec(), "")
    with pytest.raises(UserError, match="there are: demo"):
        SweepFolder(tmp_path, "other").spec()
    bench.folder.append_test((3, "last", 0.5), {"values": {"clean_accuracy": 0.5}})
    with (bench.folder.path / "test.jsonl").open("a") as file:
        file.write('{"trial": 4, "wei')  # cut off by a kill
    bench.folder.append_test((3, "last", 0.5), {"values": {"clean_accuracy": 0.9}})
    bench.folder.append_test((None, "last", 1.0), {"values": {}})
    found = bench.folder.tests()
    assert set(found) == {(3, "last", 0.5), (None, "last", 1.0)}
    assert found[(3, "last", 0.5)]["values"] == {"clean_accuracy": 0.5}, "measured once: the first line counts"


def test_a_driver_killed_while_it_makes_the_folder_does_not_block_the_name(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "demo")
    folder.path.mkdir()
    (folder.path / "spec.yaml").write_text("")
    folder.create(make_spec(), "")
    assert folder.spec() == make_spec()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="is no sweep"):
        SweepFolder(tmp_path, "photos").create(make_spec(name="photos"), "")

"""The durable study: what it remembers, what it suggests, and that a kill changes neither."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from sweeper.errors import UnavailableError, UserError
from sweeper.records import TrialRecord
from sweeper.search.sampler import PriorTrial, StoppedTrialPolicy
from sweeper.search.study import Study
from sweeper.search.study_file import LOCK_WAIT_S
from sweeper.spec.space import Space
from tests.helpers.goals import DIRECTIONS
from tests.helpers.study_driver import PAINT, SPACE, START, TRIALS, drive, finish, values_of
from tests.paths import ROOT
from trainables.records import Point
from trainables.settings.parameters import Parameters

STOPPED: tuple[StoppedTrialPolicy, ...] = ("avoided", "bad", "ignored", "partial", "infeasible")
LAMBDA = Space.parse(
    {"objective": "cross_entropy", "tune": "visual", "learning_rate": 1e-3, "lambda_reg": {"low": 0.0, "high": 1.0}}
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "study.db", SPACE, goals=DIRECTIONS, seed=0, startup_trials=4)


def stopped(study: Study) -> None:
    study.stop(0, "x", stopped_at=0.5, values={"clean_accuracy": 0.5, "robust_accuracy": 0.5})


def told(study: Study, trial: TrialRecord) -> None:
    study.tell(trial.number, values_of(trial.parameters), [], 1.0, 0)


def test_killed_in_every_write_it_ends_like_the_unkilled_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.study_driver", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] > TRIALS
    assert result["killed"] == result["unkilled"]
    assert [record["state"] for record in result["killed"]].count("complete") == TRIALS - 2


def test_reopened_after_every_step_it_suggests_the_same(tmp_path: Path) -> None:
    def two_at_a_time(path: Path, reopen: bool) -> list[dict[str, Any]]:
        study = Study.create(path, SPACE, goals=DIRECTIONS, seed=3, startup_trials=3)
        running = [study.ask(), study.ask()]
        suggested = [trial.parameters for trial in running]
        for _ in range(7):
            told(study, running.pop(0))
            if reopen:
                study.close()
                study = Study.open(path, SPACE)
                assert [trial.number for trial in study.trials() if trial.state == "running"] == [running[0].number]
            running.append(study.ask())
            suggested.append(running[-1].parameters)
        return suggested

    assert two_at_a_time(tmp_path / "a.db", True) == two_at_a_time(tmp_path / "b.db", False)


def test_a_trial_enters_complete_in_one_transaction(study: Study) -> None:
    writes: list[str] = []
    dirty: list[bool] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.lstrip().upper().startswith(("INSERT", "UPDATE")):
            dirty.append(True)

    def commit(connection: Any) -> None:
        if dirty:
            writes.append("commit")
            dirty.clear()

    event.listen(Engine, "before_cursor_execute", note)
    event.listen(Engine, "commit", commit)
    try:
        for _ in range(6):  # before and after the sampler has learnt something
            writes.clear()
            trial = study.ask()
            assert writes == ["commit"]
            told(study, trial)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        event.remove(Engine, "commit", commit)


def test_what_is_asked_is_a_valid_trial_with_a_seed_of_its_own(study: Study) -> None:
    records = [study.ask() for _ in range(12)]
    for number, record in enumerate(records):
        Parameters.model_validate(record.parameters)
        assert (record.number, record.state, record.values, record.points) == (number, "running", None, ())
        assert SPACE.place(record.parameters).parameters == record.parameters
        told(study, record)
    assert len({record.seed for record in records}) == len(records)
    assert {record.parameters["objective"] for record in records} == {"dpo", "cross_entropy"}
    assert len({json.dumps(record.parameters) for record in records}) == len(records)


def test_the_seed_decides(tmp_path: Path) -> None:
    studies = [
        Study.create(tmp_path / f"{i}.db", SPACE, goals=DIRECTIONS, seed=seed, startup_trials=2)
        for i, seed in enumerate((0, 0, 1))
    ]
    runs = []
    for study in studies:
        for _ in range(5):
            told(study, study.ask())
        runs.append([(record.parameters, record.seed) for record in study.trials()])
    assert runs[0] == runs[1]
    assert all(first != second for first, second in zip(runs[0], runs[2], strict=True))


def test_the_sampler_learns_after_the_start_up_trials_only(tmp_path: Path) -> None:
    asked = []
    for sign in (1.0, -1.0):
        study = Study.create(tmp_path / f"{sign}.db", SPACE, goals=DIRECTIONS, seed=0, startup_trials=4)
        for _ in range(9):
            trial = study.ask()
            value = sign * trial.parameters["lambda_reg"]
            study.tell(trial.number, {"clean_accuracy": value, "robust_accuracy": value}, [], 1.0, 0)
        asked.append([record.parameters for record in study.trials()])
    assert asked[0][:4] == asked[1][:4]
    assert all(first != second for first, second in zip(asked[0][4:], asked[1][4:], strict=True))


def test_a_random_sampler_never_learns_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    asked = []
    for sign in (1.0, -1.0):
        path = tmp_path / f"{sign}.db"
        study = Study.create(path, SPACE, goals=DIRECTIONS, seed=0, startup_trials=1, sampler="random")
        for number in range(6):
            trial = study.ask()
            value = sign * trial.parameters["lambda_reg"]
            study.tell(trial.number, {"clean_accuracy": value, "robust_accuracy": value}, [], 1.0, 0)
            if sign > 0 and number == 2:
                study.close()
                study = Study.open(path, SPACE)
        asked.append([record.parameters for record in study.trials()])
    assert asked[0] == asked[1]
    assert len({json.dumps(parameters) for parameters in asked[0]}) == 6
    assert all(SPACE.place(parameters).parameters == parameters for parameters in asked[0])


def test_points_below_a_floor_are_not_preferred(tmp_path: Path) -> None:
    space = Space.parse(
        {"objective": "cross_entropy", "tune": "visual", "learning_rate": 1e-3, "lambda_reg": {"low": 0.0, "high": 1.0}}
    )
    shares = []
    for floor in (None, 0.5):
        study = Study.create(tmp_path / f"{floor}.db", space, goals=DIRECTIONS, seed=0, startup_trials=6)
        for _ in range(20):
            trial = study.ask()
            x = trial.parameters["lambda_reg"]
            # The best values are where the floor is missed, the best of the others at 0.8.
            value = 1.0 - x if x < 0.5 else -abs(x - 0.8)
            violation = 0.0 if floor is None else max(0.0, floor - x)
            study.tell(trial.number, {"clean_accuracy": value, "robust_accuracy": value}, [], 1.0, 0, violation)
        late = [record.parameters["lambda_reg"] for record in study.trials()[10:]]
        shares.append(sum(x < 0.5 for x in late) / len(late))
    assert shares[0] >= 0.8
    assert shares[1] <= 0.2


@pytest.mark.parametrize("good", [0.0, 1.0])
def test_a_baseline_outside_the_space_tells_the_sampler_nothing(tmp_path: Path, good: float) -> None:
    def suggestions(path: Path, value: float) -> list[dict[str, Any]]:
        study = Study.create(path, SPACE, goals=DIRECTIONS, seed=1, startup_trials=3)
        paint = study.add(PAINT, baseline="paint")
        study.tell(paint.number, {"clean_accuracy": value, "robust_accuracy": value}, [], 1.0, 0)
        for _ in range(8):
            told(study, study.ask())
        records = study.trials()
        assert (records[0].baseline, records[0].parameters) == ("paint", PAINT)
        return [record.parameters for record in records]

    assert suggestions(tmp_path / "a.db", good) == suggestions(tmp_path / "b.db", 0.5)


def test_a_baseline_inside_the_space_counts_like_any_trial(study: Study) -> None:
    inside = {**PAINT, "learning_rate": 1e-4, "lambda_reg": 0.1}
    trial = study.add(inside, baseline="paint")
    assert (trial.baseline, trial.parameters) == ("paint", inside)
    told(study, trial)
    told(study, study.ask())


def test_starting_points_get_the_fixed_parameters_or_are_refused(tmp_path: Path) -> None:
    space = Space.parse({**SPACE.raw, "weight_decay": 0.1})
    study = Study.create(tmp_path / "study.db", space, goals=DIRECTIONS, seed=0, startup_trials=4)
    assert study.add(START).parameters == {**START, "weight_decay": 0.1}
    with pytest.raises(ValueError, match="a number from 1e-05 to 0.001, not 1"):
        study.add({**START, "learning_rate": 1})
    assert len(study.trials()) == 1


def test_everything_told_is_read_again(study: Study, tmp_path: Path) -> None:
    values = {"clean_accuracy": 1 / 3, "robust_accuracy": 0.1 + 0.2}
    points = (
        Point(weights="last", strength=1.0, values={**values, "text_confusion_rate": 0.1}),
        Point(weights="averaged", strength=0.25, values=values),
    )
    for _ in range(4):
        study.ask()
    study.tell(0, values, points, 12.5, 1, 0.25)
    study.fail(1, "worker lost 3 times", duration_s=3.0, slot=0)
    study.stop(2, "dominated", stopped_at=1 / 3, values={"clean_accuracy": 0.8, "robust_accuracy": 0.2}, cost_s=2.5)
    live = study.trials()
    study.close()
    read = Study.open(tmp_path / "study.db", SPACE)
    assert read.trials() == live
    assert (read.seed, read.startup_trials, read.goals) == (0, 4, ("clean_accuracy", "robust_accuracy"))
    assert [record.state for record in live] == ["complete", "failed", "stopped", "running"]
    assert (live[0].values, live[0].points, live[0].duration_s, live[0].slot) == (values, points, 12.5, 1)
    assert (live[1].values, live[1].reason, live[1].duration_s, live[1].slot) == (None, "worker lost 3 times", 3.0, 0)
    assert (live[2].values, live[2].reason, live[2].points) == (None, "dominated", ())
    assert (live[2].stopped_at, live[2].cost_s) == (1 / 3, 2.5)


def test_optuna_itself_reads_the_study(tmp_path: Path) -> None:
    records = drive(tmp_path / "study.db", trials=9)
    plain = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/study.db")
    assert plain.metric_names == ["clean_accuracy", "robust_accuracy"]
    assert [trial.params for trial in plain.trials[1:]] == [
        SPACE.place(record.parameters).located for record in records[1:]
    ]
    assert plain.trials[0].params == {}
    assert [trial.number for trial in plain.trials if trial.state == optuna.trial.TrialState.FAIL] == [3]
    assert all(set(t.constraints) == {"floor"} for t in plain.trials if t.state == optuna.trial.TrialState.COMPLETE)


@pytest.mark.parametrize(
    "values",
    [
        {"clean_accuracy": 0.5},
        {"clean_accuracy": 0.5, "robust_accuracy": float("nan")},
        {"clean_accuracy": float("inf"), "robust_accuracy": 0.5},
    ],
)
def test_only_finite_values_of_both_goals_can_be_told(study: Study, values: dict[str, float]) -> None:
    trial = study.ask()
    with pytest.raises(ValueError, match="trial 0 can only be told finite values of clean_accuracy, robust_accuracy"):
        study.tell(trial.number, values, [], 1.0, 0)
    assert study.trials()[0].state == "running"


def test_a_trial_ends_once(study: Study) -> None:
    finish(study, study.ask())
    before = study.trials()
    for end in (lambda: told(study, before[0]), lambda: study.fail(0, "x"), lambda: stopped(study)):
        with pytest.raises(ValueError, match="trial 0 is complete already"):
            end()
    with pytest.raises(ValueError, match="there is no trial 1; the study has 1"):
        study.fail(1, "x")
    assert study.trials() == before


def test_files_that_are_no_study_or_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study at"):
        Study.open(tmp_path / "study.db", SPACE)
    assert list(tmp_path.iterdir()) == []
    Study.create(tmp_path / "study.db", SPACE, goals=DIRECTIONS, seed=0, startup_trials=1).close()
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]
    with pytest.raises(UserError, match="exists already; resume its sweep or take another name"):
        Study.create(tmp_path / "study.db", SPACE, goals=DIRECTIONS, seed=0, startup_trials=1)
    (tmp_path / "garbage.db").write_text("no database at all, " * 100)
    with pytest.raises(UserError, match="holds no study of a sweep"):
        Study.open(tmp_path / "garbage.db", SPACE)


def test_a_study_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    gc.collect()  # Python 3.13 warns of databases that earlier tests have not closed
    recwarn.clear()
    drive(tmp_path / "study.db", trials=7)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_what_is_trained_again_is_a_row_that_the_sampler_never_sees(tmp_path: Path) -> None:
    asked = []
    for again in (False, True):
        study = Study.create(tmp_path / f"{again}.db", SPACE, goals=DIRECTIONS, seed=0, startup_trials=2)
        for _ in range(4):
            told(study, study.ask())
        if again:
            record = study.retrain(2, seed=77)
            assert (record.number, record.confirms, record.seed, record.state) == (4, 2, 77, "running")
            assert record.parameters == study.trial(2).parameters
            study.tell(4, {"clean_accuracy": 1.0, "robust_accuracy": 1.0}, [], 1.0, 0)
        prior_trials = study._suggester.suggest(123)  # at the same seed; a trial's number decides its seed otherwise
        asked.append(prior_trials)
        study.close()
        assert Study.open(tmp_path / f"{again}.db", SPACE)._suggester.suggest(123) == prior_trials
    assert asked[0] == asked[1]


def test_what_the_sampler_hears_of_stopped_trials() -> None:
    """Stopped were those of high lambda, whose values then were good: as bad ones they keep the sampler away, and as
    values they draw it there."""
    high: dict[StoppedTrialPolicy, float] = {}
    for stopped_trial_policy in STOPPED:
        study = Study.in_memory(
            LAMBDA, goals=DIRECTIONS, seed=0, startup_trials=12, stopped_trial_policy=stopped_trial_policy
        )
        for number in range(24):
            trial = study.add({"lambda_reg": number / 24})
            if number < 12:
                values = {"clean_accuracy": 0.5 + number / 100, "robust_accuracy": 0.5 - number / 100}
                study.tell(trial.number, values, [], 1.0, 0)
            else:
                study.stop(trial.number, "x", stopped_at=1 / 3, values={"clean_accuracy": 0.9, "robust_accuracy": 0.9})
        drawn = [study._suggester.suggest(seed).parameters["lambda_reg"] for seed in range(40)]
        high[stopped_trial_policy] = sum(float(value) >= 0.5 for value in drawn) / len(drawn)
    assert max(high["avoided"], high["bad"], high["infeasible"]) < 0.3 < min(high["ignored"], high["partial"])


def test_the_sampler_learns_where_a_recorded_trial_lies_that_stands_for_the_one_asked_for() -> None:
    def moved(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**parameters, "lambda_reg": 1.0 - parameters["lambda_reg"]}

    settings: dict[str, Any] = {"goals": DIRECTIONS, "seed": 0, "startup_trials": 4}
    asked_for = Study.in_memory(LAMBDA, learned_at=moved, **settings)
    recorded = Study.in_memory(LAMBDA, **settings)
    for number in range(12):
        for study, place in ((asked_for, number / 24), (recorded, 1.0 - number / 24)):
            trial = study.add({"lambda_reg": place})
            assert trial.parameters["lambda_reg"] == place
            study.tell(trial.number, {"clean_accuracy": number / 12, "robust_accuracy": 0.5}, [], 1.0, 0)
    assert asked_for.ask().parameters == recorded.ask().parameters


def test_a_new_study_learns_from_what_is_known_at_once_and_after_a_kill(tmp_path: Path) -> None:
    space = Space.parse(
        {"objective": "cross_entropy", "tune": "visual", "learning_rate": 1e-3, "lambda_reg": {"low": 0.0, "high": 1.0}}
    )
    parameters = [{**space.place({"lambda_reg": i / 20}).parameters, "lambda_reg": i / 20} for i in range(20)]
    prior_trials = [
        PriorTrial(parameters=point, values=(point["lambda_reg"], point["lambda_reg"]), violation=0.0)
        for point in parameters
    ]
    study = Study.create(
        tmp_path / "warm.db", space, goals=DIRECTIONS, seed=0, startup_trials=10, prior_trials=prior_trials
    )
    assert study.trials() == []
    first = [float(study.ask().parameters["lambda_reg"]) for _ in range(8)]
    study.close()
    study = Study.open(tmp_path / "warm.db", space)
    cold = Study.create(tmp_path / "cold.db", space, goals=DIRECTIONS, seed=0, startup_trials=10)
    assert sum(first) / 8 > sum(cold.ask().parameters["lambda_reg"] for _ in range(8)) / 8
    again = Study.create(
        tmp_path / "again.db", space, goals=DIRECTIONS, seed=0, startup_trials=10, prior_trials=prior_trials
    )
    for _ in range(8):
        again.ask()
    assert study.ask().parameters == again.ask().parameters


def tells(study: Study, trial: TrialRecord) -> list[Callable[[], object]]:
    """Everything that writes into a study, given a running trial of it."""
    return [
        study.ask,
        lambda: study.add(START),
        lambda: told(study, trial),
        lambda: study.fail(trial.number, "x"),
        lambda: study.stop(trial.number, "x", stopped_at=0.5, values=values_of(trial.parameters)),
    ]


def check_unchanged_and_going_on(study: Study, path: Path, before: list[TrialRecord]) -> None:
    """The study, and the one opened anew, are as they were, and go on in the same way."""
    assert study.trials() == before
    again = Study.open(path, SPACE)
    assert again.trials() == before
    again.close()
    running = [trial for trial in before if trial.state == "running"]
    for trial in running:
        told(study, trial)
    asked = study.ask()
    study.close()
    again = Study.open(path, SPACE)
    assert again.trials() == study.trials() and again.trials()[-1] == asked
    again.close()


def begun(path: Path) -> tuple[Study, TrialRecord, TrialRecord]:
    """A study with a finished trial, another to compare with, and a running one."""
    study = Study.create(path, SPACE, goals=DIRECTIONS, seed=0, startup_trials=2)
    first = study.ask()
    told(study, first)
    return study, first, study.ask()


def test_a_locked_study_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LOCK_WAIT_S == 20.0
    monkeypatch.setattr("sweeper.search.study_file.LOCK_WAIT_S", 0.2)
    path = tmp_path / "study.db"
    study, _, running = begun(path)
    before = study.trials()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for write in tells(study, running):
        began_s = time.monotonic()
        with pytest.raises(UnavailableError) as raised:
            write()
        assert str(raised.value) == f"{path}: database is locked"
        assert time.monotonic() - began_s < 5
    with pytest.raises(UnavailableError, match="database is locked"):
        Study.open(path, SPACE)
    other.rollback()
    other.close()
    check_unchanged_and_going_on(study, path, before)


def test_a_study_that_is_locked_for_a_moment_only(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study, _, running = begun(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(1.0, other.rollback)
    timer.start()
    told(study, running)
    timer.join()
    other.close()
    assert study.trial(running.number).state == "complete"


def every_connection(study: Study, statement: str) -> None:
    """Have SQL run on each connection that the study takes from its pool."""
    assert study._file is not None
    event.listen(study._file.storage.engine, "checkout", lambda connection, *_: connection.execute(statement))


@pytest.mark.parametrize(
    ("breaking", "mending", "message"),
    [
        ("PRAGMA query_only = 1", "PRAGMA query_only = 0", "attempt to write a readonly database"),
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "database or disk is full"),
    ],
)
def test_a_disk_that_takes_no_write(breaking: str, mending: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study, _, running = begun(path)
    every_connection(study, breaking)
    failed = []
    # Until the pages that are there are full a write may succeed.
    for _ in range(60):
        before, trials = study.trials(), len(study)
        try:
            trial = study.add(START)
            study.fail(trial.number, "x" * 2000)
        except UnavailableError as error:
            failed.append(str(error))
            break
    assert failed == [f"{path}: {message}"]
    kept = study.trials()
    assert kept[:trials] == before and all(trial.state == "running" for trial in kept[trials:])
    if "readonly" in message:
        for write in tells(study, running):
            with pytest.raises(UnavailableError, match=message):
                write()
    every_connection(study, mending)
    check_unchanged_and_going_on(study, path, kept)


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/bin/mount"), reason="mounts a small file system")
def test_a_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        filler = small / "filler"
        study, _, running = begun(small / "study.db")
        before = study.trials()
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        for write in tells(study, running):
            with pytest.raises(UnavailableError) as raised:
                write()
            assert str(raised.value) == f"{small / 'study.db'}: database or disk is full"
        with pytest.raises(UnavailableError, match="new.db: database or disk is full"):
            Study.create(small / "new.db", SPACE, goals=DIRECTIONS, seed=0, startup_trials=2)
        assert sorted(path.name for path in small.iterdir()) == ["filler", "study.db"]
        filler.unlink()
        check_unchanged_and_going_on(study, small / "study.db", before)
        Study.create(small / "new.db", SPACE, goals=DIRECTIONS, seed=0, startup_trials=2).close()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_study_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=f"^{tmp_path}/gone/study.db: unable to open database file$"):
        Study.create(tmp_path / "gone" / "study.db", SPACE, goals=DIRECTIONS, seed=0, startup_trials=2)


@pytest.mark.parametrize("how", ["empty", "half", "header", "middle", "other"])
def test_a_damaged_study_is_named_and_left_as_it_is(how: str, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    drive(path, trials=9)
    content = path.read_bytes()
    if how == "other":
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE t (a)")
    else:
        middle = len(content) // 2
        damaged = {
            "empty": b"",
            "half": content[:middle],
            "header": b"\xff" * 64 + content[64:],
            "middle": content[:4096] + b"\xff" * (len(content) - 4096),
        }
        path.write_bytes(damaged[how])
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"{path} (is empty|holds no study of a sweep: .*); restore it") as raised:
        Study.open(path, SPACE)
    assert "\n" not in str(raised.value) and "Background" not in str(raised.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["study.db"]


def test_a_study_that_another_process_writes_into(tmp_path: Path) -> None:
    study, _, _ = begun(tmp_path / "study.db")
    other = Study.open(tmp_path / "study.db", SPACE)
    other.ask()
    with pytest.raises(UnavailableError, match="holds 3 trials where this session knows 2: another process writes"):
        study.ask()
    assert len(study) == 2

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.errors import UserError
from sweeper.execution.capacity import SlotPlan
from sweeper.execution.job_queue import JobLimits
from sweeper.jobs import Outcome
from tests.helpers import runners
from tests.helpers.guarded import Seen, watched
from tests.helpers.runners import LONG_S, EpochReport, ListedTrials, ScriptedJob, patience, scripted_trial
from tests.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

LIMITS = JobLimits(stall_s=10.0, grace_s=60.0)
MARGIN_S = 15.0
"""docs/durability.md: a hang is seen, and the process is gone, within stall_minutes plus this."""
BUSY_S = 60.0
"""More for a machine that does other things too."""
assert LIMITS.stall_s < LONG_S


def a_plan(slots: int, workers: int = 1) -> SlotPlan:
    return SlotPlan(slots=slots, workers_per_trial=workers, cpus_per_worker=1, gpus_per_worker=0, text="")


@pytest.fixture(scope="module")
def notes() -> list[str]:
    """Lines for the user."""
    return []


@pytest.fixture(scope="module")
def slots_of_module(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, notes: list[str]) -> Iterator[Any]:
    from sweeper.execution.slots import SlotPool

    with SlotPool(a_plan(2), runners.make, tmp_path_factory.mktemp("slots"), LIMITS, notes.append) as slots:
        yield slots


@pytest.fixture
def two_slots(slots_of_module: Any) -> Any:
    """Both of them warm: a test before may have had one replaced."""
    with patience(240, "both slots to be warm") as again:
        while slots_of_module.ready_count() < 2 and again():
            pass
    return slots_of_module


@pytest.fixture(scope="module")
def pair(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One slot of two workers."""
    from sweeper.execution.slots import SlotPool

    with SlotPool(a_plan(1, workers=2), runners.make, tmp_path_factory.mktemp("pair"), LIMITS) as slots:
        yield slots


keys = iter(range(10**6))


def train_processes() -> set[int]:
    """Train's controllers and workers below this process, by their number."""
    processes = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "Train" in process.name():
                processes.add(process.pid)
    return processes


def titles() -> dict[int, str]:
    """What processes below this one call themselves, by their number."""
    by_pid = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            by_pid[process.pid] = " ".join(process.cmdline())
    return by_pid


def do(slots: Any, what: str) -> Outcome:
    outcome: Outcome = slots.submit(ScriptedJob(key=next(keys), do=what)).result(240)
    return outcome


def search(slots: Any, trials: Any, folder: Path) -> None:
    from sweeper.execution.tune import run_trials

    run_trials(slots, lambda: trials, folder)


def below_this_process(status: str) -> list[int]:
    pids = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() == status:
                pids.append(process.pid)
        except psutil.Error:
            continue
    return pids


def folders(tmp_path: Path, count: int) -> list[Path]:
    paths = [tmp_path / str(number) for number in range(count)]
    for path in paths:
        path.mkdir()
    return paths


def test_many_trials_share_two_slots(two_slots: Any, tmp_path: Path) -> None:
    actors = set()

    class Watch(ListedTrials):
        def on_end(self, key: int, outcome: Outcome) -> None:
            actors.update(pid for pid, title in titles().items() if title.startswith("ray::ResourceTrainable"))
            super().on_end(key, outcome)

    trials = Watch([scripted_trial("epochs", epochs=3, folder=folder) for folder in folders(tmp_path, 20)])
    search(two_slots, trials, tmp_path)
    assert 1 <= len(actors) <= 2, "Tune starts trial actors between trials"
    assert {key: outcome.kind for key, outcome in trials.outcomes.items()} == dict.fromkeys(range(20), "complete")
    assert {outcome.slot for outcome in trials.outcomes.values()} <= {0, 1}
    assert len({outcome.result["pid"] for outcome in trials.outcomes.values()}) <= 2, "slots are not kept warm"
    assert all([report.step for report in trials.reports[key]] == [1, 2, 3] for key in range(20))


def test_a_failure_is_a_result_and_the_slot_serves_on(two_slots: Any, tmp_path: Path) -> None:
    [folder] = folders(tmp_path, 1)
    trials = ListedTrials([scripted_trial("fail")] * 3 + [scripted_trial("epochs", folder=folder)])
    search(two_slots, trials, tmp_path)
    assert [trials.outcomes[key].kind for key in range(4)] == ["failed", "failed", "failed", "complete"]
    assert trials.outcomes[0].reason == "ArithmeticError: the loss is nan"
    assert "raise ArithmeticError" in (trials.outcomes[0].traceback or "")
    assert trials.outcomes[3].attempt == 1


def test_a_killed_worker_is_replaced_under_the_same_trial(two_slots: Any, tmp_path: Path) -> None:
    class Killer(ListedTrials):
        def on_report(self, key: int, report: EpochReport) -> bool:
            if report.step == 2 and report.attempt == 1:
                with contextlib.suppress(ProcessLookupError):  # the report may come a second time
                    os.kill(report.pid, signal.SIGKILL)
            return super().on_report(key, report)

    [folder] = folders(tmp_path, 1)
    trials = Killer([scripted_trial("epochs", epochs=4, folder=folder, pause_after=2)])
    search(two_slots, trials, tmp_path)
    outcome = trials.outcomes[0]
    assert (outcome.kind, outcome.attempt, outcome.result["resumed_from"]) == ("complete", 2, 2)
    assert [(report.step, report.attempt) for report in trials.reports[0]] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_a_hanging_job_goes_on_and_its_log_says_where_it_hung(two_slots: Any, tmp_path: Path) -> None:
    outcome = two_slots.submit(ScriptedJob(key=next(keys), do="hang_once", folder=tmp_path)).result(240)
    assert (outcome.kind, outcome.attempt) == ("complete", 2)
    with patience(60, "the stacks of its threads") as again:
        while (
            not ((tmp_path / "log.txt").exists() and "in hang_once" in (tmp_path / "log.txt").read_text()) and again()
        ):
            pass


@pytest.mark.parametrize("how", ["stop_once", pytest.param("hold_the_interpreter_once", marks=pytest.mark.drill)])
def test_a_frozen_worker_is_killed_and_its_job_goes_on_elsewhere(two_slots: Any, notes: list[str], how: str) -> None:
    before_s = time.monotonic()
    outcome = do(two_slots, how)
    took_s = time.monotonic() - before_s
    assert (outcome.kind, outcome.attempt) == ("complete", 2)
    assert 0.7 * LIMITS.stall_s < took_s < LIMITS.stall_s + MARGIN_S + BUSY_S, "counted from its last heartbeat"
    with patience(MARGIN_S + BUSY_S, "the stopped process to be killed") as again:
        while below_this_process(psutil.STATUS_STOPPED) and again():
            pass
    assert any("no heartbeat for 10 s" in note and "its processes are replaced" in note for note in notes)


def test_a_long_operation_is_no_hang(two_slots: Any) -> None:
    outcome = do(two_slots, "take_long")
    assert (outcome.kind, outcome.attempt) == ("complete", 1)


def test_a_full_disk_is_the_storages_failure(two_slots: Any) -> None:
    outcome = do(two_slots, "full_disk")
    assert (outcome.kind, outcome.reason) == ("storage", "/data/checkpoint.pt: No space left on device")
    assert do(two_slots, "fail").kind == "failed", "the slot is of no use any more"


def test_a_killed_trial_actor_of_tune_does_not_end_its_trial(two_slots: Any, tmp_path: Path) -> None:
    class Killer(ListedTrials):
        killed = 0

        def on_report(self, key: int, report: EpochReport) -> bool:
            actors = [p for p in psutil.process_iter(["name"]) if "TrialActor" in p.info["name"]]
            actors = [p for p in actors if psutil.Process().pid in [parent.pid for parent in p.parents()]]
            if self.killed == 0:
                for actor in actors:
                    actor.kill()
                    self.killed += 1
            return super().on_report(key, report)

    [folder] = folders(tmp_path, 1)
    trials = Killer([scripted_trial("epochs", epochs=3, folder=folder, waits=True)])
    search(two_slots, trials, tmp_path)
    assert trials.killed >= 1
    assert (trials.outcomes[0].kind, trials.outcomes[0].attempt) == ("complete", 1)
    assert [report.step for report in trials.reports[0]] == [1, 2, 3]


def test_interrupted_jobs_write_a_checkpoint_and_waiting_ones_end(two_slots: Any, tmp_path: Path) -> None:
    places = folders(tmp_path, 3)
    futures = [two_slots.submit(ScriptedJob(key=next(keys), do="wait", folder=place)) for place in places]
    with patience(240, "both slots to begin") as again:
        while sum((place / "log.txt").exists() for place in places) < 2 and again():
            pass
    two_slots.interrupt()
    assert [future.result(120).kind for future in futures] == ["interrupted"] * 3
    begun = [place for place in places if (place / "log.txt").exists()]
    assert len(begun) == 2, "whichever came first: calls to an actor may overtake each other"
    assert [place for place in places if (place / "checkpoint").exists()] == begun
    assert [(place / "log.txt").read_text() for place in begun] == ["begun\n"] * 2


def test_a_decision_stops_a_trial(two_slots: Any, tmp_path: Path) -> None:
    class StopsAtTwo(ListedTrials):
        def on_report(self, key: int, report: EpochReport) -> bool:
            super().on_report(key, report)
            return bool(self.index(key) == 0 and report.step == 2)

    trials = StopsAtTwo(
        [scripted_trial("epochs", epochs=4, folder=folder, waits=True) for folder in folders(tmp_path, 2)]
    )
    search(two_slots, trials, tmp_path)
    assert [trials.outcomes[key].kind for key in (0, 1)] == ["stopped", "complete"]
    assert [len(trials.reports[key]) for key in (0, 1)] == [2, 4]


@pytest.mark.parametrize(
    "place",
    ["next_job", *(pytest.param(place, marks=pytest.mark.drill) for place in ("on_report", "on_end", "on_tick"))],
)
def test_what_the_source_raises_reaches_the_caller(two_slots: Any, tmp_path: Path, place: str) -> None:
    def broken(*_: Any) -> Any:
        raise LookupError(place)

    [folder] = folders(tmp_path, 1)
    trials = ListedTrials([scripted_trial("epochs", folder=folder)])
    setattr(trials, place, broken)
    with pytest.raises(LookupError, match=place):
        search(two_slots, trials, tmp_path)
    assert do(two_slots, "fail").kind == "failed", "the slots are not usable any more"


def test_two_workers_of_a_trial_reduce_together(pair: Any) -> None:
    outcome = do(pair, "sum")
    assert outcome.kind == "complete"
    assert (outcome.result["sum"], outcome.result["world_size"], outcome.result["rank"]) == (3.0, 2, 0)


def test_workers_of_a_trial_and_their_ray_listen_on_loopback_only(pair: Any) -> None:
    seen = Seen()
    with watched(os.getpid(), seen):
        worker = do(pair, "sum").result["pid"]
        with patience(60, "the worker to be looked at") as again:
            while worker not in seen.pids and again():
                pass
    assert seen.listening and not seen.beyond_loopback()


def test_a_failure_of_all_ranks_keeps_the_processes(pair: Any) -> None:
    before = do(pair, "sum").result["pid"]
    assert do(pair, "fail").reason == "ArithmeticError: the loss is nan"
    assert do(pair, "sum").result["pid"] == before


@pytest.mark.drill
def test_a_failure_of_one_rank_replaces_the_group(pair: Any) -> None:
    before = do(pair, "sum").result["pid"]
    outcome = do(pair, "one_fails")
    assert (outcome.kind, outcome.reason, outcome.attempt) == ("failed", "ArithmeticError: only here", 1)
    after = do(pair, "sum")
    assert after.result["sum"] == 3.0
    assert after.result["pid"] != before


@pytest.mark.drill
def test_bad_input_of_a_runner_reaches_the_driver(tmp_path: Path) -> None:
    from sweeper.execution.slots import SlotPool

    with SlotPool(a_plan(1), runners.make_badly, tmp_path, LIMITS) as slots:
        future = slots.submit(ScriptedJob(key=0, do="sum"))
        with pytest.raises(UserError, match=r"^no image in /nowhere; give a folder with images$"):
            future.result(240)
        with pytest.raises(UserError, match="no image"):
            slots.check()
        with pytest.raises(UserError, match="no image"):
            search(slots, ListedTrials([scripted_trial("fail")]), tmp_path)


def test_closing_leaves_nothing_behind(two_slots: Any, tmp_path: Path) -> None:
    """Beside other slots, which stay as they are."""
    import ray

    from sweeper.execution.slots import SlotPool

    def reserved() -> set[str]:
        table = ray.util.placement_group_table()
        return {name for name, group in table.items() if group["state"] != "REMOVED"}

    groups_before, train_before, cpus_before = reserved(), train_processes(), ray.available_resources().get("CPU", 0.0)
    with SlotPool(a_plan(1), runners.make, tmp_path, LIMITS) as slots:
        assert do(slots, "fail").kind == "failed"
        assert reserved() > groups_before and train_processes() > train_before
    assert reserved() == groups_before
    with patience(60, "the processes of Train to end") as again:
        while not train_processes() <= train_before and again():
            pass
    with patience(60, "the CPUs to become free") as again:
        while ray.available_resources().get("CPU", 0.0) < cpus_before and again():
            pass


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.helpers import runners
from tests.helpers.guarded import Seen, watched
from sweeper.execution import capacity, cluster
cluster.connect(num_cpus=1)
from sweeper.execution.job_queue import JobLimits
from sweeper.execution.slots import SlotPool
plan = capacity.plan(cluster.nodes(), None, 1, 1, 1)
slots = SlotPool(plan, runners.make, Path({folder!r}), JobLimits())
slots.start()
slots.submit(runners.ScriptedJob(key=0, do="wait", folder=Path({folder!r}))).result()
"""


@pytest.mark.drill
def test_a_killed_driver_leaves_no_processes(tmp_path: Path) -> None:
    mark, root = uuid.uuid4().hex, str(ROOT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"SWEEPER_TEST_MARK": mark, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": root}
    code = DRIVER.format(root=root, folder=str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)

    def alive() -> list[psutil.Process]:
        processes = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SWEEPER_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
            except psutil.Error:
                continue
        return processes

    with patience(240, "the job to begin") as again:
        while not (tmp_path / "log.txt").exists() and again():
            assert driver.poll() is None, "the driver ended"
    assert len(alive()) > 4
    driver.kill()
    driver.wait()
    with patience(60, "all processes of the killed driver to end") as again:
        while alive() and again():
            pass


def test_a_worker_whose_answer_is_lost_ends_instead_of_waiting_for_it() -> None:
    import ray
    from ray.exceptions import WorkerCrashedError

    @ray.remote(num_cpus=0)
    def never() -> None:
        time.sleep(3600)

    @ray.remote(num_cpus=0, max_retries=0)
    def waits(references: list[Any]) -> None:
        from sweeper.execution import slots

        slots.WORKER_ANSWER_S = 0.5
        slots.answer(references[0])

    unanswered = never.remote()
    try:
        with pytest.raises(WorkerCrashedError):
            ray.get(waits.remote([unanswered]))
    finally:
        ray.cancel(unanswered, force=True)

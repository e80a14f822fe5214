"""MLflow as a projection: real SQLite stores, a real server, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.records import Front, FrontPoint, TrialRecord
from sweeper.tracking.events import (
    Event,
    FrontMember,
    FrontUpdated,
    HypervolumeChanged,
    MeasuredPoint,
    SweepEnded,
    SweepStarted,
    TrialEnded,
    TrialReported,
    TrialStarted,
    Unreadable,
    from_json,
    to_json,
)
from sweeper.tracking.outbox import Outbox
from sweeper.tracking.projection import create_store
from sweeper.tracking.runs import Store, find_runs, find_store
from sweeper.tracking.server import free_port, serving, ui
from sweeper.tracking.tracker import Tracker
from tests.helpers.goals import DIRECTIONS, TYPOGRAPHIC
from tests.helpers.reports import make_report
from tests.paths import ROOT
from trainables.records import Point, Report

FLUSH_S = 120.0
EPOCHS = 3


@pytest.fixture
def storage(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    (tmp_path / "quickstart").mkdir()
    return tmp_path


@pytest.fixture
def new_tracker(storage: Path) -> Iterator[Callable[..., Tracker]]:
    """Makes trackers of one sweep as its successive drivers do; closed at the end."""
    trackers: list[Tracker] = []

    def new(tracking_uri: str | None = None) -> Tracker:
        if trackers:
            trackers[-1].close()
        trackers.append(Tracker(storage / "quickstart", tracking_uri, storage, "quickstart", "id-1"))
        return trackers[-1]

    yield new
    for tracker in trackers:
        tracker.close()


def parameters(number: int) -> dict[str, Any]:
    return {"objective": "kto", "tune": "visual", "learning_rate": 0.001 * (number + 1), "rank": None}


def report(number: int, epoch: int) -> Report:
    return make_report(
        {"clean_accuracy": 0.9, "robust_accuracy": 0.1 * epoch, "text_confusion_rate": 0.2},
        step=epoch,
        steps=EPOCHS,
        epoch=float(epoch),
        epochs=EPOCHS,
        loss=1.0 / epoch,
        train_s=0.5 + number,
    )


def record(number: int) -> TrialRecord:
    about: dict[str, Any] = {"number": number, "parameters": parameters(number), "seed": 100 + number}
    about["duration_s"] = 2.5
    if number == 1:
        # With a NUL, which PostgreSQL refuses (python -m tests.clusters mlflow).
        return TrialRecord(state="failed", reason="RuntimeError: \0out of memory", **about)
    values = {"clean_accuracy": 0.9, "robust_accuracy": 0.1 * EPOCHS}
    half = Point(weights="last", strength=0.5, values={"clean_accuracy": 0.92, "robust_accuracy": 0.25})
    return TrialRecord(state="complete", values=values, points=(half,), slot=0, **about)


def front(finished: int, measured: bool = False) -> Front:
    member = FrontPoint(
        trial=0, weights="last", strength=0.5, parameters=parameters(0), name="knee",
        validation={"clean_accuracy": 0.92, "robust_accuracy": 0.25},
        values={"clean_accuracy": 0.91, "robust_accuracy": 0.24} if measured else None,
        intervals={"clean_accuracy": (0.9, 0.92), "robust_accuracy": (0.22, 0.26)} if measured else None,
    )  # fmt: skip
    return Front(
        sweep="quickstart", points=(member,), others=(), hypervolume=0.01 * finished, reference_point=(0.8, 0.1),
        goals=TYPOGRAPHIC, finished=finished, trials=4,
    )  # fmt: skip


def tell_story(tracker: Tracker, folder: Path, trials: int = 3) -> None:
    """Tell a tracker what a driver does, from the sweep's start to its end; drivers that resume it repeat that."""
    spec = {"name": "quickstart", "goals": DIRECTIONS, "trials": trials}
    tracker.sweep_started(spec, {"mlflow.source.git.commit": "c0ffee"})
    for number in range(trials):
        tracker.trial_started(number, parameters(number), 100 + number, 0, {"sweeper.version.torch": "2.14"})
        for epoch in range(1, EPOCHS + 1):
            tracker.trial_reported(number, report(number, epoch))
        tracker.trial_ended(record(number))
        (folder / "front").mkdir(exist_ok=True)
        (folder / "front" / "front.html").write_text(f"<p>{number}</p>")
        tracker.front_updated(front(number + 1))
    tracker.front_updated(front(trials, measured=True))
    tracker.sweep_ended("complete")


def runs_of(client: Any) -> tuple[Any, dict[str, Any]]:
    """The only parent, and the children by trial number; fails where a number has two runs."""
    experiment = client.get_experiment_by_name("sweeper")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    by_number = {run.data.tags["sweeper.trial"]: run for run in children}
    assert len(by_number) == len(children)
    return parent, by_number


def history(client: Any, run: Any, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]


def check_story(client: Any, trials: int = 3) -> None:
    parent, children = runs_of(client)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "quickstart"
    assert parent.data.tags["sweeper.state"] == "complete"
    assert parent.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert "knee" in parent.data.tags["mlflow.note.content"]
    steps = sorted(set(history(client, parent, "front/hypervolume")))
    assert steps == [(number, pytest.approx(0.01 * number)) for number in range(1, trials + 1)]

    def artifacts(run: Any, folder: str | None = None) -> set[str]:
        return {file.path for file in client.list_artifacts(run.info.run_id, folder)}

    assert "spec.resolved.json" in artifacts(parent)
    assert artifacts(parent, "front") == {"front/front.html", "front/table.json"}
    page = Path(client.download_artifacts(parent.info.run_id, "front/front.html"))
    assert page.read_text() == f"<p>{trials - 1}</p>"

    assert set(children) == {str(number) for number in range(trials)}
    for number in range(trials):
        run = children[str(number)]
        expected = {key: str(value) for key, value in parameters(number).items() if value is not None}
        assert run.data.params == {**expected, "seed": str(100 + number)}
        epochs = [(epoch, pytest.approx(0.1 * epoch)) for epoch in range(1, EPOCHS + 1)]
        assert history(client, run, "validation/robust_accuracy") == epochs
        assert [step for step, _ in history(client, run, "train/loss")] == [1, 2, 3]
        assert history(client, run, "usage/duration_s") == [(0, 2.5)]
        assert run.data.tags["sweeper.slot"] == "0"
        assert run.data.tags["sweeper.on_front"] == ("true" if number == 0 else "false")
    assert children["1"].info.status == "FAILED"
    assert children["1"].data.tags["sweeper.reason"] == "RuntimeError: out of memory"
    complete = children["0"]
    assert complete.info.status == "FINISHED"
    assert complete.data.tags["front/name"] == "knee"
    of_front = {name: value for name, value in complete.data.metrics.items() if name.startswith("front/")}
    assert of_front == {
        "front/strength": 0.5,
        "front/clean_accuracy": 0.92,
        "front/robust_accuracy": 0.25,
        "front/test/clean_accuracy": 0.91,
        "front/test/robust_accuracy": 0.24,
    }, "as the front has it"
    assert children["1"].data.tags["mlflow.note.content"] == "failed: RuntimeError: out of memory"
    assert history(client, complete, "robust_accuracy") == [(0, pytest.approx(0.3))]
    assert history(client, complete, "strength_percent/robust_accuracy") == [(50, 0.25)]
    assert history(client, complete, "test/robust_accuracy") == [(50, 0.24)]


def test_a_story_is_told_once_however_often_it_is_said(
    storage: Path, empty_database: Path, new_tracker: Callable[..., Tracker]
) -> None:
    folder = storage / "quickstart"
    tracker = new_tracker()
    tell_story(tracker, folder)
    assert tracker.flush(FLUSH_S), tracker.problem()
    client = create_store(find_store(storage))
    check_story(client)
    runs = find_runs(folder)
    assert runs is not None
    assert runs.parent == runs_of(client)[0].info.run_id
    assert {str(number): run for number, run in runs.trials.items()} == {
        number: run.info.run_id for number, run in runs_of(client)[1].items()
    }

    lines = len(Outbox(folder).read())
    resumed = new_tracker()
    (folder / "tracking.cursor").unlink()  # all lines are sent again
    tell_story(resumed, folder)
    assert resumed.flush(FLUSH_S), resumed.problem()
    check_story(client)
    repeated = [type(entry.event) for entry in Outbox(folder).read()[lines:]]
    assert set(repeated) == {SweepStarted, FrontUpdated, SweepEnded}  # fronts: only the newest is known

    client._tracking_client.store._dispose_engine()
    shutil.copy(empty_database, storage / "mlflow.db")  # somebody has lost the store
    again = new_tracker()
    again.sweep_started({"name": "quickstart", "goals": DIRECTIONS}, {"mlflow.source.git.commit": "c0ffee"})
    again.sweep_ended("complete")
    assert again.flush(FLUSH_S), again.problem()
    check_story(create_store(find_store(storage)))


@pytest.mark.drill
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_storage_that_was_moved_or_copied_has_its_artifacts(
    how: str, storage: Path, new_tracker: Callable[..., Tracker], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tracker = new_tracker()
    tell_story(tracker, storage / "quickstart")
    assert tracker.flush(FLUSH_S), tracker.problem()
    tracker.close()
    there = tmp_path_factory.mktemp("elsewhere") / "my sweeps"
    shutil.copytree(storage, there)
    kept = sorted(path.name for path in storage.iterdir())
    if how == "moved":
        shutil.rmtree(storage)
    runs = find_runs(there / "quickstart")
    assert runs is not None and runs.uri == find_store(there).uri, "what shows the sweep takes its own store"

    resumed = Tracker(there / "quickstart", None, there, "quickstart", "id-1")
    try:
        assert resumed.moved is not None and f"lay in {storage} before" in resumed.moved
        tell_story(resumed, there / "quickstart")
        assert resumed.flush(FLUSH_S), resumed.problem()
    finally:
        resumed.close()
    client = create_store(find_store(there))
    check_story(client)
    parent, _ = runs_of(client)
    (there / "note.txt").write_text("uploaded by hand")
    client.log_artifact(parent.info.run_id, str(there / "note.txt"))
    assert list((there / "mlartifacts").rglob("note.txt"))
    if how == "moved":
        assert not storage.exists(), "nothing recreates the old folder"
    else:
        assert sorted(path.name for path in storage.iterdir()) == kept and not list(storage.rglob("note.txt"))
        check_story(create_store(find_store(storage)))
    assert Tracker(there / "quickstart", None, there, "quickstart", "id-1").moved is None, "once is enough"


def test_a_deleted_sweep_leaves_nothing_but_models(storage: Path, new_tracker: Callable[..., Tracker]) -> None:
    (storage / "quickstart" / "spec.resolved.json").write_text("{}")  # a sweep that cannot be read can be deleted
    tracker = new_tracker()
    tell_story(tracker, storage / "quickstart")
    assert tracker.flush(FLUSH_S), tracker.problem()
    tracker.close()
    client = create_store(find_store(storage))
    parent, children = runs_of(client)
    kept = children["0"].info.run_id
    client.create_registered_model("sweeper-quickstart")
    client.create_model_version("sweeper-quickstart", f"runs:/{kept}/models/last-100", run_id=kept)
    done = CliRunner().invoke(app, ["delete", "quickstart", "--storage", str(storage)], input="n\n")
    assert isinstance(done.exception, UserError) and (storage / "quickstart").is_dir()
    done = CliRunner().invoke(app, ["delete", "quickstart", "--storage", str(storage)], input="y\n")
    assert done.exit_code == 0, done.exception
    assert f"removes {storage}/quickstart: " in done.stderr and "3 runs deleted" in done.stderr
    assert "1 stay, because the registry has models from them" in done.stderr
    assert not [path for path in storage.iterdir() if "quickstart" in path.name]
    left = client.search_runs([parent.info.experiment_id])
    assert [run.info.run_id for run in left] == [kept]
    assert parent.info.run_id not in {path.name for path in (storage / "mlartifacts").iterdir()}


DRIVER = """
import sys
from pathlib import Path
from tests.sweeper.tracking.test_tracking import tell_story
from sweeper.tracking.tracker import Tracker
storage = Path(sys.argv[1])
tracker = Tracker(storage / "quickstart", None, storage, "quickstart", "id-1")
tell_story(tracker, storage / "quickstart", trials=12)
print(tracker.flush(120), flush=True)
input()
"""


def test_killed_drivers_leave_one_run_per_trial(storage: Path, new_tracker: Callable[..., Tracker]) -> None:
    """Killed while the first runs are being made, and while later ones are."""
    folder = storage / "quickstart"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for trials in (1, 5):
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(storage)], env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + FLUSH_S
        while (runs := find_runs(folder)) is None or len(runs.trials) < trials:
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    # The killed driver's sender ended too, or the next sender would wait for the lock for ever.
    tracker = new_tracker()
    tell_story(tracker, folder, trials=12)
    assert tracker.flush(FLUSH_S), tracker.problem()
    check_story(create_store(find_store(storage)), trials=12)


def test_what_a_kill_or_a_late_answer_leaves_is_mended(storage: Path, new_tracker: Callable[..., Tracker]) -> None:
    """Runs made but not yet noted, a duplicate, unreadable lines, a torn line, and a change that MLflow refuses."""
    folder = storage / "quickstart"
    client = create_store(find_store(storage))
    experiment = client.create_experiment("sweeper", (storage / "mlartifacts").as_uri())
    parent = client.create_run(experiment, tags={"sweeper.sweep_id": "id-1"})
    child = {"sweeper.sweep_id": "id-1", "sweeper.trial": "0", "mlflow.parentRunId": parent.info.run_id}
    first = client.create_run(experiment, start_time=1000, tags=child)
    client.create_run(experiment, start_time=2000, tags=child)
    (folder / "tracking.jsonl").write_text('{"time": 1, "kind": "sw\nnot json\n{"time": 1, "ki')

    tracker = new_tracker()
    tracker.sweep_started({"name": "quickstart", "goals": DIRECTIONS}, {})
    tracker.trial_started(0, parameters(0), 100, None, {})
    assert tracker.flush(FLUSH_S), tracker.problem()
    tracker.trial_started(0, parameters(1), 100, None, {})  # MLflow's params cannot be changed
    tracker.trial_started(2, parameters(2), 102, None, {})
    tracker.trial_reported(0, report(0, 1))
    tracker.sweep_ended("interrupted")
    assert tracker.flush(FLUSH_S), tracker.problem()

    sweep_run, children = runs_of(client)
    assert sweep_run.info.run_id == parent.info.run_id
    assert children["0"].info.run_id == first.info.run_id
    assert history(client, children["0"], "validation/robust_accuracy") == [(1, 0.1)]
    assert children["2"].data.params["seed"] == "102"
    for run in (sweep_run, *children.values()):
        assert run.info.status == "KILLED"
        assert run.data.tags["sweeper.state"] == "interrupted"
    refused = [json.loads(line)["event"] for line in (folder / "tracking.rejected.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in refused] == ["unreadable", "unreadable", "trial"]
    on_disk = [json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines() if '"trial"' in line]
    assert refused[2] in on_disk, "as it stands on disk"


@pytest.mark.drill
def test_a_dead_server_stops_nothing_and_loses_nothing(storage: Path, new_tracker: Callable[..., Tracker]) -> None:
    port = free_port("127.0.0.1", 20000 + os.getpid() % 10000)
    base = f"http://127.0.0.1:{port}"
    tracker = new_tracker(base)
    tell_story(tracker, storage / "quickstart")
    deadline = time.monotonic() + FLUSH_S
    while tracker.problem() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not tracker.flush(0.5)
    assert base in str(tracker.problem())

    local = find_store(storage)
    with serving(local, storage, "127.0.0.1", port):
        assert tracker.flush(FLUSH_S), tracker.problem()
        assert tracker.problem() is None
        check_story(create_store(Store(uri=base)))
        assert tracker.run_links()["sweep"].startswith(f"{base}/#/experiments/")
        with urllib.request.urlopen(f"{base}/") as page:
            assert page.status == 200
        views = create_store(Store(uri=base)).get_experiment_by_name("sweeper").tags
        keys = {link.partition("viewStateShareKey=")[2] for link in tracker.run_links().values()} - {""}
        assert {f"mlflow.sharedViewState.{key}" for key in keys} == views.keys() - {"mlflow.note.content"}
    said: list[str] = []
    ui(storage, "quickstart", base, "127.0.0.1", port, said.append)
    assert any(line.endswith("artifacts/front/front.html?workflowType=machine_learning") for line in said)


def test_the_driver_never_imports_mlflow() -> None:
    code = "import sys, sweeper.tracking.tracker, sweeper.tracking.server, sweeper.run.progress; "
    code += "import sweeper.front.rendering.writer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"mlflow", "matplotlib", "ray", "torch", "optuna"} & set(done.stdout.split())


@settings(deadline=None, max_examples=50)
@given(events=st.lists(st.integers(), min_size=1, max_size=6), cut=st.integers(min_value=0))
def test_a_torn_line_costs_nothing_but_itself(
    tmp_path_factory: pytest.TempPathFactory, events: list[int], cut: int
) -> None:
    outbox = Outbox(tmp_path_factory.mktemp("outbox"))
    for value in events:
        outbox.append(SweepStarted(spec={"value": value}, tags={}))
    size = cut % (outbox.size() + 1)
    with outbox.path.open("rb+") as file:
        file.truncate(size)
    whole = outbox.path.read_bytes().count(b"\n")
    outbox.mend()
    outbox.append(SweepStarted(spec={"value": "new"}, tags={}))
    assert [entry.line["spec"]["value"] for entry in outbox.read()] == [*events[:whole], "new"]
    assert outbox.read()[-1].end == outbox.size()


EVENTS: list[Event] = [
    SweepStarted(spec={"name": "quickstart", "goals": DIRECTIONS}, tags={"mlflow.user": "me"}),
    TrialStarted(trial=0, parameters=parameters(0), seed=100, slot=None, tags={}),
    TrialReported(trial=0, report=report(0, 1)),
    TrialEnded(record=record(0), costs={"usage/device_h": 0.5}),
    TrialEnded(record=record(1), costs={}),
    HypervolumeChanged(finished=1, hypervolume=0.01),
    FrontUpdated(
        note="1 point",
        members=(
            FrontMember(
                trial=0, name="knee", strength=0.5, validation={"clean_accuracy": 0.92}, test={"clean_accuracy": 0.91}
            ),
        ),
        table=[{"trial": 0, "member": True, "test_clean_accuracy": None}],
        tests=(MeasuredPoint(trial=0, point=Point(weights="last", strength=0.5, values={"clean_accuracy": 0.91})),),
    ),
    SweepEnded(state="interrupted", open=(2, 3), costs={}),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_come_back_from_disk_as_they_were(event: Event) -> None:
    line = json.loads(json.dumps(to_json(event)))
    assert from_json(line) == event and from_json(line).time_ms == event.time_ms


def test_outboxes_of_earlier_versions_are_read() -> None:
    whole = to_json(TrialEnded(record=record(0), costs={}))
    first_record = {name: whole["record"][name] for name in ("number", "state", "parameters", "seed", "points")}
    ended = from_json({"kind": "end", "time": 1, "record": first_record | {"removed": 1}})
    assert isinstance(ended, TrialEnded) and (ended.record.number, ended.costs) == (0, {})
    assert from_json({"kind": "sweep_end", "time": 1, "state": "complete", "open": []}) == SweepEnded(
        state="complete", open=(), costs={}
    )
    members = {"kind": "front", "time": 1, "note": "", "table": [], "tests": [], "members": {"0": "knee", "3": ""}}
    front_then = from_json(members)
    assert isinstance(front_then, FrontUpdated)
    assert [(member.trial, member.name, member.validation) for member in front_then.members] == [
        (0, "knee", {}),
        (3, "member", {}),
    ]
    reported = from_json({"kind": "report", "time": 1, "trial": 0, "report": report(0, 1).to_json() | {"attempt": 2}})
    assert reported == TrialReported(trial=0, report=report(0, 1))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"kind": "epoch", "time": 1, "trial": 0}, "an event of unknown kind 'epoch'"),
        ({"kind": "trial", "time": 1}, "trial"),
        ({"time": 1}, "kind"),
        ({"kind": "report", "time": 1, "trial": 0, "report": None}, "NoneType"),
    ],
)
def test_lines_that_are_no_event_say_why(line: dict[str, Any], problem: str) -> None:
    event = from_json(line)
    assert isinstance(event, Unreadable) and problem in event.problem


def test_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert find_store(tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert find_store(tmp_path).artifacts == tmp_path / "mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000/")
    assert find_store(tmp_path) == Store(uri="http://tracker:5000")
    assert find_store(tmp_path, "https://me:secret@tracker/x").shown_uri == "https://tracker/x"
    for uri in (
        *("./mlruns", "file:///tmp/mlruns", "ftp://tracker", "http://", "http://a b", "http://[::1"),
        *("http://tracker:99999", "http://tracker:abc", "sqlite://", "sqlite:///:memory:", "sqlite:////nowhere/m.db"),
    ):
        with pytest.raises(UserError, match="leave --tracking-uri"):
            find_store(tmp_path, uri)


def test_ui_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep 'nosuch'"):
        ui(tmp_path, "nosuch", None, "127.0.0.1", 5000, print)
    with pytest.raises(UserError, match="no MLflow runs yet"):
        ui(tmp_path, None, None, "127.0.0.1", 5000, print)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_server_ends_with_the_command_however_that_ends(number: signal.Signals, tmp_path: Path) -> None:
    """With a small server in MLflow's place, which starts in a moment; it is the command's own to start and end."""
    script = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "import subprocess\n"
        "from sweeper.tracking import server_process\n"
        "from sweeper.tracking.server import _signals_as_ctrl_c\n"
        "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "command = [sys.executable, '-I', server_process.__file__, sys.executable, '-c', code]\n"
        "with _signals_as_ctrl_c():\n"
        "    server = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)\n"
        "    server.wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout is not None
    server = int(process.stdout.readline())
    process.send_signal(number)
    process.wait(timeout=60)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{server}").exists():
        assert time.monotonic() < deadline, "the server is left"
        time.sleep(0.05)
    process.stdout.close()

"""A sweep with a loss and a goal of the user's own, and what a resume with changed code is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.execution.runner import make_runner
from sweeper.execution.worker import WorkerContext
from sweeper.front.load import load_front
from sweeper.front.pick import pick
from sweeper.front.rendering.table import table
from sweeper.front.rendering.writer import write_front
from sweeper.models.export import export_point
from sweeper.models.rerun import rerun_trial
from sweeper.search.study import read_trials
from sweeper.search.warm_start import check_warm_start
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.finished_sweep import SPEC, finished_sweep
from trainables.own_code import OwnModule

SOURCE = """\
def margin(p, c, w):
    return (p.gather(1, c[:, None]) - p.gather(1, w[:, None]))[:, 0]

def hinge(policy_logits, reference_logits, chosen, rejected, *, delta):
    return (delta - margin(policy_logits, chosen, rejected)).clamp(min=0)

def loss_of_nats(policy_logits, reference_logits, true, written):
    return -policy_logits.log_softmax(-1).gather(1, true[:, None])[:, 0]
"""
MODULE = "swept_code"
OWN = SPEC.replace(
    "  objective: dpo\n  beta: {low: 0.1, high: 2.0, log: true}\n",
    f"  objective: {MODULE}:hinge\n  delta: {{low: 1.0, high: 20.0}}\n",
).replace(
    "parameters:",
    f"metrics: {{nats: {{function: '{MODULE}:loss_of_nats', direction: minimize, goal: true}}}}\nparameters:",
)

Sweep = tuple[SweepFolder, Spec]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    home: Path = tmp_path_factory.mktemp("own")
    (home / f"{MODULE}.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        return finished_sweep(home, OWN)


@pytest.fixture
def changed(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with the module, whose file is another one during the test."""
    home = sweep[0].storage.parent
    monkeypatch.chdir(home)
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    (home / f"{MODULE}.py").write_text(SOURCE + "# changed\n")
    yield home
    (home / f"{MODULE}.py").write_text(SOURCE)


def refused(message: str, *words: str) -> None:
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UserError) and re.search(message, str(error)), error


def test_trials_are_recorded_with_the_loss_and_its_parameter(sweep: Sweep) -> None:
    folder, spec = sweep
    paint, trial = read_trials(folder, spec)
    assert paint.baseline == "paint" and trial.state == "complete"
    assert trial.parameters["objective"] == f"{MODULE}:hinge" and 1.0 <= trial.parameters["delta"] <= 20.0
    assert trial.values is not None and trial.values.keys() == {"clean_accuracy", "nats"}, "what the search learns from"
    assert all({"clean_accuracy", "nats", "robust_accuracy"} <= point.values.keys() for point in trial.points)
    alone = json.loads((folder.trial(1).path / "trial.json").read_text())
    assert alone["task"]["code"] == spec.code == json.loads((folder.path / "spec.resolved.json").read_text())["code"]


def test_the_goal_of_its_own_makes_the_front(sweep: Sweep, tmp_path: Path) -> None:
    folder, spec = sweep
    front = load_front(folder, spec, read_trials(folder, spec))
    assert front is not None
    assert [(goal.metric, goal.direction) for goal in front.goals] == [
        ("clean_accuracy", "maximize"), ("nats", "minimize"),
    ]  # fmt: skip
    least = pick(front, "min nats")
    untouched = next(point for point in front.points if point.trial is None)
    if least.member:
        assert least.validation["nats"] < untouched.validation["nats"]
    for point in front.points:
        assert point.values is not None and point.intervals is not None
        low, high = point.intervals["nats"]
        assert low <= point.values["nats"] <= high
    write_front(front, folder.front_path)
    assert "nats" in table(front, "table") and "nats" in (folder.front_path / "front.html").read_text()
    trained = next(point for point in (*front.points, *front.others) if point.trial == 1)
    export_point(folder, spec, front, trained, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"{MODULE}:hinge" in card and "| delta |" in card
    assert f"sha256 of the code in {MODULE} | {spec.code[MODULE]}" in card
    assert f"`nats`: mean of {MODULE}:loss_of_nats" in card


def test_a_trial_is_repeated_with_the_same_code_only(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, spec = sweep
    monkeypatch.syspath_prepend(folder.storage.parent)
    again = rerun_trial(folder, spec, 1, seeds=0, device="cpu", echo=lambda line: None)
    assert again.recorded is not None and again.again == again.recorded


def test_changed_code_is_refused_before_ray_starts(changed: Path) -> None:
    before = ray.is_initialized()  # other tests may have started one
    digest = f"code digest of {MODULE} in sweep demo was .*; restore it, or start a new sweep for it"
    spec = Path("sweeps/demo/spec.resolved.json")
    recorded = spec.read_bytes()
    refused(digest, "resume", "demo", "--trials", "50", "--storage", "sweeps")
    assert spec.read_bytes() == recorded, "a refused resume changes nothing"
    refused(f'\n  code.{MODULE}: ".*" -> "', "run", "demo.yaml", "--resume", "--storage", "sweeps")
    refused(f"trial 1 cannot be run again: code digest of {MODULE} was", "rerun", "demo", "1", "--storage", "sweeps")
    assert ray.is_initialized() == before


def test_a_search_does_not_learn_from_trials_of_other_code(changed: Path) -> None:
    with pytest.raises(UserError, match=f"--warm-start demo: it ran other code of {MODULE}"):
        check_warm_start(changed / "sweeps", ["demo"], load_spec(changed / "demo.yaml"))


def test_a_worker_runs_the_code_that_the_driver_read(sweep: Sweep, tmp_path: Path) -> None:
    """Its own import path has no such module."""
    folder, spec = sweep
    worker = WorkerContext(rank=0, world_size=1, local_rank=0, device="cpu", slot=0)
    settings = {"task": spec.task_settings(), "data_seed": 0, "cache": folder.cache_path}
    code = (OwnModule("sent_by_the_driver", "/elsewhere/sent.py", b"def loss(p, r, c, w):\n    return p[:, 0]\n"),)
    make_runner(worker, code=code, **settings)
    from trainables.own_code import function_named

    assert function_named("sent_by_the_driver:loss").__code__.co_filename == "/elsewhere/sent.py"
    lacking = (OwnModule("sent_lacking", "/elsewhere/sent.py", b"import no_such_package\n"),)
    with pytest.raises(ValueError, match="the module sent_lacking cannot be imported: ModuleNotFoundError"):
        make_runner(worker, code=lacking, **settings)

"""Whole sweeps through the command line: real Ray, Optuna, MLflow and open_clip, drivers killed at bad moments.

Their processes are guarded (``tests/helpers/guarded.py``): none reads a pickle, listens beyond the loopback address, or
writes down a secret of its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sweeper.front.needed_weights import with_needed_weights
from sweeper.records import TrialRecord
from sweeper.search.study import read_trials
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.guarded import Seen, guarded_variables, noted, watched
from tests.paths import ROOT

SPEC = """
sets:
  world: {kind: world, train: 512, validation: 300, test: 200}
train: {set: world, classes: 0.5}
attack: {recipe: sign}
evaluate: {search: {sets: [world]}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
parameters:
  objective: {choices: [dpo, cross_entropy]}
  beta: {when: {objective: dpo}, low: 0.1, high: 2.0, log: true}
  lambda_reg: {low: 0.03, high: 10.0, log: true}
  tune: {choices: [transform, visual]}
  rank: {when: {tune: transform}, choices: [32, 64]}
  learning_rate:
    - {when: {tune: transform}, low: 1e-3, high: 1e-1, log: true}
    - {when: {tune: visual}, low: 1e-4, high: 2e-3, log: true}
paint: {learning_rate: 1e-3}
points: []
search: {trials: 9, startup_trials: 3}
stopping: {kind: moasha}
confirm: {members: 1, seeds: 2, share: 0.2}
training: {epochs: 3, global_batch_size: 64}
resources: {cpus_per_worker: 2}
"""
TRIALS = 9
STATUS = {"complete": "FINISHED", "stopped": "KILLED"}
PATIENCE_S = 600
SECRET = "planted-7f3a9c"
NOTES = ".notes"
"""Folder of the guard's notes in the storage; names of sweeps begin otherwise."""


def sweeper(*arguments: str, storage: Path) -> subprocess.Popen[str]:
    """A driver process of its own; one slot, since a worker takes both CPUs of what Ray is told is there."""
    environment = {**os.environ, "SWEEPER_STORAGE": str(storage), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    environment |= guarded_variables(storage / NOTES) | {"MLFLOW_TRACKING_PASSWORD": SECRET}
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-c", "from sweeper.cli.main import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


def trials_of(storage: Path, name: str) -> list[TrialRecord]:
    folder = SweepFolder(storage, name)
    return read_trials(folder, folder.spec())


def front_of(storage: Path, name: str) -> list[dict[str, Any]]:
    code, out, err = finish(sweeper("front", name, "--format", "json", storage=storage))
    assert code == 0, err
    points: list[dict[str, Any]] = json.loads(out)
    return points


@pytest.fixture(scope="module")
def seen() -> Seen:
    """What was seen of the processes of the sweep ``whole``; filled by ``storage``."""
    return Seen()


@pytest.fixture(scope="module")
def storage(seen: Seen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the sweep ``whole``, which nothing disturbed."""
    storage = tmp_path_factory.mktemp("storage")
    (storage / "spec.yaml").write_text(SPEC)
    driver = sweeper("run", str(storage / "spec.yaml"), "--name", "whole", storage=storage)
    with watched(driver.pid, seen):
        code, out, err = finish(driver)
    assert code == 0, err
    assert "Traceback" not in err and "knee" in out
    assert "sweeper export whole" in err and "sweeper ui whole" in err
    assert SECRET not in out + err
    return storage


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestSweep:
    def test_front_is_measured_on_test_beside_the_untouched_model_and_paint(self, storage: Path) -> None:
        points = front_of(storage, "whole")
        members = [point for point in points if point["member"]]
        assert members and any(point["name"] == "knee" for point in members)
        untouched = next(point for point in points if point["trial"] is None)
        assert untouched["name"] == "untouched" and any(point["name"] == "paint" for point in points)
        for point in points:
            for goal in ("clean_accuracy", "robust_accuracy"):
                low, high = point["intervals"][goal]
                assert low <= point["values"][goal] <= high
                assert 0 <= point["validation"][goal] <= 1
            assert {"sign_reading", "robust_accuracy/unseen_font", "robust_accuracy/two_words"} <= set(point["values"])
        for name in ("front.png", "front.html", "front.json", "front.csv"):
            assert (storage / "whole" / "front" / name).stat().st_size > 100

    def test_every_trial_is_one_mlflow_run(self, storage: Path) -> None:
        trials = trials_of(storage, "whole")
        assert mlflow_runs(storage, "whole") == {trial.number: STATUS[trial.state] for trial in trials}

    def test_hopeless_trials_were_stopped_and_a_member_was_trained_again(self, storage: Path) -> None:
        folder, trials = SweepFolder(storage, "whole"), trials_of(storage, "whole")
        searched, again = trials[:TRIALS], trials[TRIALS:]
        stopped = [trial for trial in searched if trial.state == "stopped"]
        assert stopped and all(trial.stopped_at in (2 / 12, 4 / 12) for trial in stopped)  # of 4 steps in each epoch
        for trial in stopped:
            files = folder.trial(trial.number)
            assert list(files.reports().values())[-1].progress == trial.stopped_at
            assert not (files.path / "checkpoint.pt").exists()
        untouched, spec = folder.untouched(), folder.spec()
        assert untouched is not None
        on_disk = {
            trial.number for trial in trials if (folder.trial(trial.number).path / "weights.safetensors").exists()
        }
        assert on_disk == with_needed_weights(spec, untouched, trials)
        assert all(trial.cost_s is not None and trial.cost_s > 0 for trial in trials)
        members = {point["trial"] for point in front_of(storage, "whole") if point["member"]}
        assert {trial.confirms for trial in again} <= members and [trial.state for trial in again] == ["complete"] * 2
        assert len({trial.seed for trial in trials}) == len(trials)

    def test_exported_point_loads_in_plain_open_clip_and_is_evaluated(self, storage: Path, tmp_path: Path) -> None:
        code, out, err = finish(sweeper("export", "whole", str(tmp_path / "model"), storage=storage))
        assert code == 0, err
        script = (
            "import sys, open_clip, torch\n"
            "folder = sys.argv[1]\n"
            "model, _, preprocess = open_clip.create_model_and_transforms('local-dir:' + folder)\n"
            "tokenizer = open_clip.get_tokenizer('local-dir:' + folder, bpe_path=folder + '/bpe_simple_vocab.txt.gz')\n"
            "image = torch.zeros(1, 3, 48, 48)\n"
            "print(model.eval().encode_image(image).shape, model.encode_text(tokenizer(['a red star'])).shape)\n"
            "assert 'sweeper' not in sys.modules and 'trainables' not in sys.modules\n"
        )
        plain = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "model")], capture_output=True, text=True, cwd=tmp_path
        )
        assert plain.returncode == 0, plain.stderr
        code, _, err = finish(sweeper("export", "whole", str(tmp_path / "model"), storage=storage))
        assert code == 2 and "not empty" in err
        words = ("--data", str(storage / "spec.yaml"), "--images", "40", "--format", "json")
        code, out, err = finish(sweeper("evaluate", str(tmp_path / "model"), *words, storage=storage))
        assert code == 0 and json.loads(out), err

    def test_killed_sweep_ends_as_the_undisturbed_one(self, storage: Path) -> None:
        folder = SweepFolder(storage, "killed")
        driver = sweeper("run", str(storage / "spec.yaml"), "--name", "killed", storage=storage)
        wait_for(folder.path / "lease.json", driver)
        second = sweeper("resume", "killed", storage=storage)
        code, _, err = finish(second)
        assert code == 2 and f"process {driver.pid}" in err and "Traceback" not in err
        wait_for(folder.trial(4).path / "attempt", driver)  # after the sampler's start-up phase
        kill(driver)
        code, _, err = finish(sweeper("resume", "killed", "--trials", str(TRIALS + 1), storage=storage))
        assert code == 0, err

        whole, killed = trials_of(storage, "whole"), trials_of(storage, "killed")
        for what in ("parameters", "state", "stopped_at", "values", "points"):  # and with these the front
            of_sweeps = [[getattr(trial, what) for trial in sweep[:TRIALS]] for sweep in (killed, whole)]
            assert of_sweeps[0] == of_sweeps[1], what
        assert [trial.confirms is None for trial in killed] == [True] * (TRIALS + 1) + [False] * 2
        assert mlflow_runs(storage, "killed") == {trial.number: STATUS[trial.state] for trial in killed}

    def test_nothing_listens_beyond_loopback(self, storage: Path, seen: Seen) -> None:
        assert any("raylet" in command for command in seen.commands) and len(seen.listening) >= 1
        assert not seen.beyond_loopback()

    def test_a_secret_of_the_environment_is_in_no_file_and_no_command_line(self, storage: Path, seen: Seen) -> None:
        assert len(seen.commands) > 5 and not [command for command in seen.commands if SECRET in command]
        files = [path for path in storage.rglob("*") if path.is_file()]
        assert any(path.name == "mlflow.db" for path in files)
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]

    def test_no_process_has_read_a_pickle_for_us(self, storage: Path) -> None:
        """Of the sweeps so far, whichever tests ran before; their failure would say it as well."""
        guarded = noted(storage / NOTES, "guarded")
        for what in ("sweeper.cli.main", "default_worker.py", "sweeper.tracking.sender"):
            assert any(what in command for command in guarded), what
        assert noted(storage / NOTES, "refused") == []

    def test_views(self, storage: Path) -> None:
        for command, expected in (
            (("list",), "whole"),
            (("status", "whole"), "complete"),
            (("trials", "whole"), "cross_entropy"),
            (("show", "whole", "0"), "paint"),
            (("logs", "whole", "0"), "attempt 1 begins"),
            (("logs", "whole"), "open MLflow: sweeper ui whole"),
            (("show", "whole", "1", "--spec"), '"data_seed"'),
        ):
            code, out, err = finish(sweeper(*command, storage=storage))
            assert code == 0 and expected in out, (command, out, err)
        code, _, err = finish(sweeper("run", str(storage / "spec.yaml"), "--name", "whole", storage=storage))
        assert code == 2 and "sweeper resume whole" in err


def kill(driver: subprocess.Popen[str]) -> None:
    driver.kill()
    driver.communicate(timeout=60)


def mlflow_runs(storage: Path, name: str) -> dict[int, str]:
    """Trial -> status of the sweep's child runs; fails if a trial has two."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    sweep_id = SweepFolder(storage, name).sweep_id
    runs = client.search_runs(experiments, f"tags.`sweeper.sweep_id` = '{sweep_id}'")
    children = [run for run in runs if "sweeper.trial" in run.data.tags]
    statuses = {int(run.data.tags["sweeper.trial"]): run.info.status for run in children}
    assert len(statuses) == len(children) == len(runs) - 1
    return statuses

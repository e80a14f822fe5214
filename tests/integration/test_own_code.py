"""A real sweep with a loss and a goal of the user's own, killed, refused with other code, and resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.search.study import read_trials
from sweeper.storage.sweep_folder import SweepFolder
from tests.integration.test_sweep import finish, kill, wait_for
from tests.paths import ROOT

SOURCE = """\
def margin(p, c, w):
    return (p.gather(1, c[:, None]) - p.gather(1, w[:, None]))[:, 0]

def hinge(policy_logits, reference_logits, chosen, rejected, *, delta):
    return (delta - margin(policy_logits, chosen, rejected)).clamp(min=0)

def log_probability(policy_logits, reference_logits, true, written):
    return policy_logits.log_softmax(-1).gather(1, true[:, None])[:, 0]
"""
SPEC = """
sets: {world: {kind: world, train: 256, validation: 300, test: 200}}
train: {set: world, classes: 0.5}
attack: {recipe: sign}
evaluate: {search: {sets: [world], images: 150}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
goals: {clean_accuracy: {floor: untouched - 0.3}}
metrics: {surety: {function: "losses.mine:log_probability", direction: maximize, goal: true}}
parameters:
  objective: {choices: ["losses.mine:hinge", cross_entropy]}
  delta: {when: {objective: "losses.mine:hinge"}, low: 1, high: 20.0}
  tune: transform
  learning_rate: {low: 1e-3, high: 1e-1, log: true}
points: [{objective: "losses.mine:hinge", delta: 5, learning_rate: 0.02}]
paint: null
search: {trials: 6, sampler: random}
confirm: {members: 1, seeds: 2, share: 0.3}
training: {epochs: 2, global_batch_size: 64}
resources: {workers_per_trial: 2}
"""


def sweeper(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """A driver in the folder that holds the user's code, on two CPUs: one slot of two workers."""
    environment = {**os.environ, "SWEEPER_STORAGE": "sweeps", "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    environment["PYTHONPATH"] = str(ROOT)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        environment.pop(name, None)
    command = [sys.executable, "-P", "-m", "sweeper", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=home
    )


@pytest.mark.drill
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_sweep_goes_on_with_the_same_code_only(tmp_path: Path) -> None:
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "mine.py").write_text(SOURCE)
    (tmp_path / "own.yaml").write_text(SPEC)
    folder = SweepFolder(tmp_path / "sweeps", "own")
    driver = sweeper(tmp_path, "run", "own.yaml")
    wait_for(folder.trial(2).path / "attempt", driver)
    kill(driver)
    (tmp_path / "losses" / "mine.py").write_text(SOURCE + "# changed\n")
    code, _, err = finish(sweeper(tmp_path, "resume", "own"))
    assert code == 2 and "code digest of losses.mine in sweep own was" in err and "Traceback" not in err
    (tmp_path / "losses" / "mine.py").write_text(SOURCE)
    code, out, err = finish(sweeper(tmp_path, "resume", "own"))
    assert code == 0, err
    assert "surety" in out
    trials = read_trials(folder, folder.spec())
    searched = [trial for trial in trials if trial.confirms is None]
    assert [trial.state for trial in trials] == ["complete"] * len(trials) and len(searched) == 6
    assert any(trial.parameters["objective"] == "losses.mine:hinge" for trial in searched)
    code, out, err = finish(sweeper(tmp_path, "rerun", "own", "0"))
    assert code == 0 and "Reproduced" in out + err, err

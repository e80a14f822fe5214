"""A whole sweep whose tracking URI holds a password, at an address where nobody listens: MLflow's errors repeat it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.tracking.server import free_port
from tests.helpers.guarded import Seen, guarded_variables, noted, watched
from tests.paths import ROOT

SECRET = "t0psecret-5e1d"
SPEC = """
sets:
  world: {kind: world, train: 64, validation: 60, test: 40}
train: {set: world, classes: 0.5}
attack: {recipe: sign}
evaluate: {search: {sets: [world]}, front: {strengths: [1.0]}, test: {sets: [world]}}
parameters: {objective: dpo, beta: {low: 0.1, high: 2.0, log: true}, tune: transform, rank: 32, learning_rate: 0.01}
paint: null
points: []
search: {trials: 2}
training: {epochs: 1, global_batch_size: 32}
resources: {cpus_per_worker: 2}
"""


@pytest.mark.drill
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_password_of_a_tracking_uri_is_in_no_file_no_output_and_no_command_line(tmp_path: Path) -> None:
    storage, temporary = tmp_path / "sweeps", Path("/tmp") / f"rs{os.getpid()}"
    temporary.mkdir()
    (tmp_path / "spec.yaml").write_text(SPEC)
    uri = f"http://me:{SECRET}@127.0.0.1:{free_port('127.0.0.1', 21000)}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    environment |= guarded_variables(tmp_path / "notes")
    environment |= {"SWEEPER_STORAGE": str(storage), "MLFLOW_TRACKING_URI": uri, "RAY_TMPDIR": str(temporary)}
    environment |= {"HOME": str(temporary), "OMP_NUM_THREADS": "1"}  # a token of its own
    seen = Seen()
    command = [sys.executable, "-c", "from sweeper.cli.main import main; main()", "run", str(tmp_path / "spec.yaml")]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    with watched(driver.pid, seen):
        out, err = driver.communicate(timeout=800)
    assert driver.returncode == 0 and f"MLflow at {uri.replace(f'me:{SECRET}@', '')}" in err, err
    assert SECRET not in out + err
    assert len(seen.commands) > 5 and not [command for command in seen.commands if SECRET in command]
    assert not seen.beyond_loopback() and noted(tmp_path / "notes", "refused") == []
    assert ((temporary / ".ray" / "auth_token").stat().st_mode & 0o777) == 0o600
    files = [path for folder in (tmp_path, temporary) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "tracking.log" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]

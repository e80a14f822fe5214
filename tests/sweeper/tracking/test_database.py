"""MLflow's database is whole or not there, whenever the process that makes it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from sweeper.tracking.projection import create_store, mlflow_environment
from sweeper.tracking.runs import find_store
from tests.paths import ROOT

MAKE = """
import sys
from pathlib import Path
from sweeper.tracking.projection import create_store, mlflow_environment
from sweeper.tracking.runs import find_store
with mlflow_environment():
    create_store(find_store(Path(sys.argv[1])))
"""
PATIENCE_S = 120.0


def test_a_kill_among_mlflows_migrations_leaves_no_database_that_cannot_be_opened(tmp_path: Path) -> None:
    maker = subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE)
    until = time.monotonic() + PATIENCE_S
    while not any(path.stat().st_size for path in tmp_path.glob("*mlflow.db*") if path.suffix != ".lock"):
        assert maker.poll() is None, maker.communicate()
        assert time.monotonic() < until
        time.sleep(0.001)
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    assert not (tmp_path / "mlflow.db").exists(), "the first tables were made beside it"
    with mlflow_environment():
        client = create_store(find_store(tmp_path))
        client.create_experiment("again")
    assert {path.name for path in tmp_path.glob("*mlflow.db*")} == {"mlflow.db", "mlflow.db.lock"}

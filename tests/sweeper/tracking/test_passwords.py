"""The password of a tracking URI reaches MLflow, and no file, tag or command line on the way."""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from sweeper.errors import UnavailableError
from sweeper.tracking.runs import Runs, Store, find_runs, save_runs
from sweeper.tracking.server import free_port, serving
from sweeper.tracking.tracker import Tracker
from tests.helpers.runners import patience

SECRET = "t0psecret7"
SPEC = {"goals": ["clean_accuracy", "robust_accuracy"], "sets": {}}


class _Server(ThreadingHTTPServer):
    """Answers every request with a status, and keeps the passwords that it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.passwords: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        account = self.headers.get("Authorization", "").removeprefix("Basic ")
        self.server.passwords.add(base64.b64decode(account).decode().partition(":")[2])
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = {"error_code": "BAD_REQUEST", "message": f"refused at http://me:{SECRET}@localhost, {SECRET}"}
        body = json.dumps(said).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("answers", [False, pytest.param(True, marks=pytest.mark.drill)])
def test_what_mlflow_says_of_an_address_is_kept_without_its_password(
    answers: bool, server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses everything, or nobody: MLflow's errors repeat the whole address."""
    port = server.server_port if answers else free_port("127.0.0.1", 20000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:{port}")
    folder = tmp_path / "quickstart"
    folder.mkdir()
    tracker = Tracker(folder, None, tmp_path, "quickstart", "id-1")
    try:
        tracker.sweep_started(SPEC, {})
        with patience(60, "the sender to meet MLflow's error") as again:
            while tracker.problem() is None and again():
                pass
        commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
        assert any("sweeper.tracking.sender" in command for command in commands)
        assert not [command for command in commands if SECRET in command]
        said = tracker.problem()
        assert said is not None and f"http://127.0.0.1:{port}" in said and SECRET not in said
    finally:
        tracker.close()
    if answers:
        assert server.passwords == {SECRET}, "MLflow is given the password"
    texts = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert "Traceback" in texts["tracking.log"]
    assert not [name for name, text in texts.items() if SECRET in text]


def test_the_server_of_ui_gets_the_address_of_its_store_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a package in MLflow's place that writes down how it was called."""
    stub = tmp_path / "path" / "mlflow"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "__main__.py").write_text(
        "import os, sys\nuri = os.environ['MLFLOW_BACKEND_STORE_URI']\nprint(sys.argv[1:], 'store', uri)\nsys.exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(stub.parent), *sys.path]))
    uri = f"postgresql://me:{SECRET}@127.0.0.1:1/mlflow"
    store = Store(uri=uri, artifacts=tmp_path / "mlartifacts")
    with pytest.raises(UnavailableError) as raised, serving(store, tmp_path, "127.0.0.1", 5999):
        pass
    said, logged = str(raised.value), (tmp_path / "mlflow-server.log").read_text()
    arguments, _, given = logged.partition(" store ")
    assert given.strip() == uri and "'--host', '127.0.0.1'" in arguments and SECRET not in arguments
    assert "store postgresql://127.0.0.1:1/mlflow" in said and SECRET not in said


def test_ids_of_runs_cannot_lead_out_of_the_storage(tmp_path: Path) -> None:
    """``sweeper delete`` removes the folders of the runs' artifacts."""
    runs = Runs(uri="sqlite:///mlflow.db", experiment_id="1", sweep_id="s", parent="0a", trials={0: "1b"})
    save_runs(tmp_path, runs)
    assert find_runs(tmp_path) == runs
    for outside in ("../../precious", "/precious", "..", "."):
        save_runs(tmp_path, Runs(uri=runs.uri, experiment_id="1", sweep_id="s", parent="0a", trials={0: outside}))
        assert find_runs(tmp_path) is None, outside

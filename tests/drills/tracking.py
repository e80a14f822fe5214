"""An MLflow server that is down, silent, erring, or cut off in the middle of requests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.drills import processes
from tests.drills.drill import Scene, Skipped
from tests.drills.proxy import Mode, Proxy

_START_S = 180.0


def mlflow_down(scene: Scene) -> None:
    _disturbed(scene, "refuse")


def mlflow_silent(scene: Scene) -> None:
    """Connections are accepted and never answered."""
    _disturbed(scene, "swallow")


def mlflow_erring(scene: Scene) -> None:
    """Every answer is a 500."""
    _disturbed(scene, "error")


def mlflow_half(scene: Scene) -> None:
    """Requests or answers are cut: MLflow has done things of which the sender does not know."""
    _disturbed(scene, "cut")


def mlflow_down_to_the_end(scene: Scene) -> None:
    """The server dies during the sweep; a resume sends the rest once it is back."""
    _disturbed(scene, "refuse", to_the_end=True)


def mlflow_half_and_killed(scene: Scene) -> None:
    """The driver is killed while requests are cut."""
    _disturbed(scene, "cut", kill=True)


def _disturbed(scene: Scene, mode: Mode, *, to_the_end: bool = False, kill: bool = False) -> None:
    folder = scene.place.logs / "own" / scene.sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    port = _server(scene, folder)
    proxy = scene.held.enter_context(Proxy(port, scene.rng))
    scene.sweep.tracking_uri = f"http://127.0.0.1:{proxy.port}"
    scene.mlflow_uri = f"sqlite:///{folder}/server.db"
    at_start = not to_the_end and not kill and scene.rng.random() < 0.3
    if at_start:
        proxy.set(mode)
    driver = scene.start()
    scene.await_moment(driver, *(("warm-up",) if at_start else ("search", "confirm")))
    scene.harm(lambda: proxy.set(mode))
    if kill:
        time.sleep(scene.rng.uniform(0.5, 10))
        scene.harm(lambda: driver.kill() if driver.running() else None)
        driver.wait(30)
        proxy.set("pass")
    elif to_the_end:
        driver.wait(scene.patience_s())
        proxy.set("pass")
    else:
        time.sleep(scene.rng.uniform(2, 0.6 * scene.reference.took_s))
        proxy.set("pass")
    scene.finish(driver, allowed=(0,))
    if driver.code == 0:
        scene.resume()  # sends what an absent server does not have yet; changes nothing otherwise
    scene.notes.append(f"{proxy.harmed} connections harmed")


def _server(scene: Scene, folder: Path) -> int:
    """Start an MLflow server for the time of the drill and return its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "art")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {name: value for name, value in os.environ.items() if name != processes.MARK}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env={**environment, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    scene.held.callback(_end, server)
    until = time.monotonic() + _START_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until and server.poll() is None:
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
                return port
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise Skipped(f"mlflow server does not start: {(folder / 'server.log').read_text(errors='replace')[-300:]}")


def _end(server: subprocess.Popen[bytes]) -> None:
    processes.send_group(server.pid, signal.SIGTERM)
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        processes.send_group(server.pid, signal.SIGKILL)
        server.wait()

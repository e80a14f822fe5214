"""Two sweeps at once on a Ray cluster that Ray's autoscaler makes larger, submitted as jobs; a lost driver goes on.

The nodes are real raylets of the fake provider that Ray ships, with a "GPU" that Ray only counts: trials train on CPUs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.clusters.network import Network
from tests.clusters.ray_nodes import PORT, RayNodes
from tests.drills import checks, processes, records
from tests.drills.sweeps import SPEC, Place, Sweep
from tests.paths import ROOT

PATIENCE_S = 900.0
_NOTHING: dict[str, object] = {
    "auth": {},
    "docker": {},
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}
"""Keys that the autoscaler reads and a fake provider does not use."""


def main(folder: Path) -> int:
    """Run the drill and print what it has found; return the number of problems."""
    place = Place(root=ROOT, storage=folder / "sweeps", logs=folder / "logs")
    place.storage.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    with Network(1) as network, RayNodes(network, Path("/tmp/sws"), token="c" * 32) as cluster:
        (head,) = network.nodes
        config = folder / "autoscaler.json"
        config.write_text(json.dumps(_autoscaling(f"{head.ip}:{PORT}")))
        cluster.environment |= {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "PYTHONPATH": str(Path(__file__).with_name("counted_gpus")),
        }
        cluster.start(head, f"--autoscaling-config={config}", "--num-gpus=0")
        place = Place(
            root=ROOT,
            storage=place.storage,
            logs=place.logs,
            environment=cluster.environment | {"PYTHONPATH": str(ROOT)},
            prefix=tuple(head.command()),
        )
        sweeps = [Sweep(place, f"{name}-{int(time.time())}", 1) for name in ("first", "second")]
        for sweep in sweeps:
            print(_submit(sweep, cluster), flush=True)

        def both(state: str) -> bool:
            return all(_listed(sweep).get("state") == state for sweep in sweeps)

        _await(lambda: both("running") and all(sweep.trial(1).exists() for sweep in sweeps), "both sweeps run")
        print(f"both run after {_seconds_of(sweeps[0])} and {_seconds_of(sweeps[1])}", flush=True)
        first = sweeps[0]
        before = records.taken(first, 0.0, time.time())
        os.kill(json.loads((first.path / "lease.json").read_text())["pid"], signal.SIGKILL)
        _await(lambda: _listed(first).get("state") != "running", "the first sweep has lost its driver")
        print(_submit(first, cluster), flush=True)
        _await(lambda: both("complete"), "both sweeps are complete")
        for sweep in sweeps:
            problems += checks.check_trials(sweep, [before] if sweep is first else [])
            problems += checks.check_mlflow(sweep)
            waited = [line for line in sweep.path.joinpath("log.txt").read_text().splitlines() if "GPUs" in line]
            print("\n".join(waited))
        if not processes.marked(sweeps[0].mark):
            print("no process of a command is left")
    for problem in problems:
        print(f"problem: {problem}")
    return len(problems)


def _autoscaling(gcs_address: str) -> dict[str, object]:
    """Return an autoscaler's configuration: up to two nodes with a GPU each."""
    return {
        "cluster_name": "drill",
        "max_workers": 2,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs_address,
            "disable_node_updaters": True,  # these would log in by SSH
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            "ray.worker.gpu": {
                "resources": {"CPU": 1, "GPU": 1},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.5,
        **_NOTHING,
    }


def _submit(sweep: Sweep, cluster: RayNodes) -> str:
    sweep.logs.mkdir(parents=True, exist_ok=True)
    spec = sweep.logs / "spec.yaml"
    # Nodes of the fake provider share a folder, where each unpacks a package again that others use (Ray 2.60): no two
    # sweeps may send the same spec.
    spec.write_text(f"# {sweep.name}\n" + SPEC.format(trials=10, checkpoint_every_s=0.3, cpus=1))
    options = ["--address", cluster.dashboard, "--gpus", "1", "--wait", "5m", "--python", sys.executable]
    done = subprocess.run(
        sweep.place.command("submit", str(spec), "--name", sweep.name, *options),
        capture_output=True, text=True, env=sweep.place.variables(sweep.mark), cwd=ROOT, timeout=PATIENCE_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"sweeper submit exits with {done.returncode}: {done.stderr.strip()[-1000:]}")
    return done.stderr.strip()


def _listed(sweep: Sweep) -> dict[str, object]:
    """Return the row of a sweep in ``sweeper list``; empty if it is not there yet."""
    done = subprocess.run(
        sweep.place.command("list", "--format", "json"),
        capture_output=True, text=True, env=sweep.place.variables(sweep.mark), cwd=ROOT, timeout=PATIENCE_S,
    )  # fmt: skip
    rows = json.loads(done.stdout) if done.returncode == 0 else []
    return next((row for row in rows if row["name"] == sweep.name), {})


def _seconds_of(sweep: Sweep) -> str:
    lines = sweep.path.joinpath("log.txt").read_text().splitlines()
    return next((line.partition("]")[0].lstrip("[") for line in lines if "trial 1 started" in line), "no time")


def _await(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(1.0)

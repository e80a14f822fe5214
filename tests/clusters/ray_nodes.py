"""A Ray cluster with a node per network namespace, started and joined by hand as on machines of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.clusters.network import Network, Node

PORT, DASHBOARD_PORT = 6399, 8265
CPUS = 2
ATTEMPTS = 4
"""A raylet has 30 s to start (Ray 2.60), too few where all cores are busy."""


class RayNodes:
    """Context manager: ``ray start`` on nodes of a network; the first one is the head."""

    def __init__(self, network: Network, folder: Path, token: str | None = None) -> None:
        """Prepare the cluster.

        Args:
            folder: short, for Ray's files and logs.
            token: the cluster asks for it; None: it asks for none.
        """
        self._network, self._folder = network, folder
        self.address = f"{network.nodes[0].ip}:{PORT}"
        self.dashboard = f"http://{network.nodes[0].ip}:{DASHBOARD_PORT}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        mode = {"RAY_AUTH_MODE": "disabled"} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        self.environment = clean | mode | {"RAY_USAGE_STATS_ENABLED": "0", "HOME": str(folder)}
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> RayNodes:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self

    def start(self, node: Node, *options: str) -> None:
        """Start Ray on a node; the first one becomes the head."""
        head = node is self._network.nodes[0]
        where = ["--head", f"--port={PORT}"] if head else [f"--address={self.address}"]
        if head:
            where += [f"--temp-dir={self._folder}/r", f"--dashboard-host={node.ip}"]
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", *where, f"--node-ip-address={node.ip}", f"--num-cpus={CPUS}", "--block", *options]
        log = self._folder / f"{node.name}.log"
        for _ in range(ATTEMPTS):
            with log.open("wb") as out:
                process = subprocess.Popen(
                    node.command(*command), env=self.environment, stdout=out, stderr=out, start_new_session=True
                )
            self._started.append(process)
            while process.poll() is None:
                if b"Ray runtime started" in log.read_bytes():
                    return
                time.sleep(0.2)
        raise RuntimeError(f"Ray does not start on {node.name}; see {log}")

    def __exit__(self, *_: object) -> None:
        for node in self._network.nodes:
            node.fail()
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)

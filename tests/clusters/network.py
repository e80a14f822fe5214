"""Nodes on one machine: network namespaces, joined by a bridge, each with an address and a host name of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PREFIX, BRIDGE, HOST = "10.209.0", "sweeperbr0", 254


def run(*command: str) -> str:
    """Run a command and return its output. Raise RuntimeError with its last words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


class Node:
    """A network namespace ``name`` with the address ``ip``."""

    def __init__(self, number: int) -> None:
        self.name, self.ip = f"n{number}", f"{PREFIX}.{number}"
        self._namespace = Path("/run/netns") / self.name
        self._veth = f"swv{number}"

    def make(self) -> None:
        self.remove()
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self._veth, "type", "veth", "peer", "name", "e0", "netns", self.name)
        run("ip", "link", "set", self._veth, "master", BRIDGE, "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.ip}/24", "dev", "e0")
        for link in ("e0", "lo"):
            run("ip", "-n", self.name, "link", "set", link, "up")

    def command(self, *command: str) -> list[str]:
        """Return a command that runs on this node, under its host name."""
        inside = f'hostname {self.name} && exec "$@"'
        return ["nsenter", f"--net={self._namespace}", "unshare", "--uts", "sh", "-c", inside, "sh", *command]

    def pids(self) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self.name).split()]

    def fail(self) -> None:
        """Kill every process of the node."""
        for _ in range(3):  # a process may start others meanwhile
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        if self._namespace.exists():
            self.fail()
            run("ip", "netns", "del", self.name)
        subprocess.run(["ip", "link", "del", self._veth], capture_output=True)


class Network:
    """Context manager: some nodes; their names are in /etc/hosts meanwhile. For root."""

    def __init__(self, nodes: int) -> None:
        self.nodes: Sequence[Node] = [Node(number) for number in range(1, nodes + 1)]
        self._hosts = Path("/etc/hosts")
        self._hosts_before = self._hosts.read_text()

    def __enter__(self) -> Network:
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{PREFIX}.{HOST}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        lines = [f"{node.ip} {node.name}" for node in self.nodes] + [f"{PREFIX}.{HOST} control"]
        self._hosts.write_text(self._hosts_before + "\n".join(lines) + "\n")
        for node in self.nodes:
            node.make()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.remove()
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
        self._hosts.write_text(self._hosts_before)

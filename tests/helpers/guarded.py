"""Sweeps whose processes are watched: what they unpickle, where they listen, what their command lines say."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

GUARD = Path(__file__).with_name("guard")
WATCH_S = 0.5


def guarded_variables(notes: Path) -> dict[str, str]:
    """Return environment variables under which no process of ours reads a pickle.

    Args:
        notes: folder for what was refused and which processes were guarded.
    """
    notes.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, (str(GUARD), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "SWEEPER_TEST_GUARD": str(notes)}


def noted(notes: Path, kind: str) -> list[str]:
    """Return the lines of a kind (``refused``, ``guarded``)."""
    return [line for file in sorted(notes.glob(f"{kind}-*")) for line in file.read_text().splitlines()]


class Seen:
    """What was seen of a process and its descendants."""

    def __init__(self) -> None:
        self.listening: dict[str, str] = {}
        """Address -> a process that listens there."""
        self.commands: set[str] = set()
        self.pids: set[int] = set()

    def beyond_loopback(self) -> dict[str, str]:
        return {address: command for address, command in self.listening.items() if not is_loopback(address)}


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


@contextlib.contextmanager
def watched(pid: int, seen: Seen) -> Iterator[None]:
    """Look at a process and its descendants every half second until the context ends."""
    ended = threading.Event()
    thread = threading.Thread(target=lambda: _watch(pid, seen, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(pid: int, seen: Seen, ended: threading.Event) -> None:
    while not ended.wait(WATCH_S):
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    _look_at(process, seen)


def _look_at(process: psutil.Process, seen: Seen) -> None:
    command = " ".join(process.cmdline())
    seen.commands.add(command)
    for connection in process.net_connections("inet"):
        waits_for_datagrams = not connection.raddr and connection.status == psutil.CONN_NONE
        if connection.laddr and (connection.status == psutil.CONN_LISTEN or waits_for_datagrams):
            seen.listening[connection.laddr.ip] = command
    seen.pids.add(process.pid)

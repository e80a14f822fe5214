"""The processes of a drill: all inherit one environment variable, and Ray names those that it starts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "SWEEPER_DRILL"
"""Environment variable that every process of a drill inherits; its value is the drill's own."""
ROLES = {
    "worker": ("ray::RayTrainWorker",),
    "queue": ("ray::Dispatcher",),
    "tune-actor": ("ray::ResourceTrainable", "ray::TrialActor"),
    "controller": ("ray::TrainController",),
    "raylet": ("/raylet/raylet ",),
    "gcs": ("/gcs/gcs_server ",),
    "sender": ("-m sweeper.tracking.sender",),
}
"""Role -> what the command line of its process holds (Ray 2.60)."""
_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def marked(mark: str) -> list[psutil.Process]:
    """Return the live processes of the drill, by what /proc says of their environment."""
    wanted = f"{MARK}={mark}".encode()
    processes = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, psutil.Error):
            if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                process = psutil.Process(int(entry.name))
                if process.status() not in _DEAD:
                    processes.append(process)
    return processes


def in_role(mark: str, role: str) -> list[psutil.Process]:
    """Return the drill's processes in a role, oldest first."""
    processes = [process for process in marked(mark) if any(text in command_of(process) for text in ROLES[role])]
    return sorted(processes, key=lambda process: process.pid)


def pick(mark: str, role: str, rng: random.Random, within_s: float = 60.0) -> psutil.Process | None:
    """Return one process in a role, which may have to start first; None where none comes."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        processes = in_role(mark, role)
        if processes:
            return rng.choice(processes)
        time.sleep(0.1)
    return None


def command_of(process: psutil.Process) -> str:
    """Return the command line with a space behind it; empty for a process that is gone."""
    try:
        return " ".join(process.cmdline()).strip() + " "
    except psutil.Error:
        return ""


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        process.send_signal(number)


def send_group(leader: int, number: signal.Signals) -> None:
    """Send a signal to a process group, as a terminal does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def survivors(mark: str, within_s: float) -> list[str]:
    """Return the command lines of those that are still there after ``within_s``."""
    until = time.monotonic() + within_s
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    return [f"{process.pid} {command_of(process)[:100].strip()}" for process in left]


def end_all(mark: str) -> None:
    """Kill what is left of a drill."""
    while left := marked(mark):
        for process in left:
            send(process, signal.SIGKILL)
        time.sleep(0.1)


def shared_memory() -> set[str]:
    """Return the names of Ray's files in shared memory."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir() if _is_rays(path.name)} if folder.is_dir() else set()


def unused(names: Iterable[str]) -> list[str]:
    """Return those files in shared memory that no live process has mapped."""
    left = set(names)
    for entry in os.scandir("/proc"):
        if left and entry.name.isdigit():
            with contextlib.suppress(OSError):
                maps = Path(entry.path, "maps").read_text(errors="replace")
                left = {name for name in left if f"/dev/shm/{name}" not in maps}
    return sorted(left)


def _is_rays(name: str) -> bool:
    return "ray" in name.lower() or "plasma" in name.lower()

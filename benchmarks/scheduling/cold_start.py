"""Seconds from ``sweeper run`` to the first trial, beside what bare processes need, and what each process does.

    python -m benchmarks.scheduling.cold_start --output FILE

The floor is Ray started alone, and then as many bare processes as the sweep has slots, at once, that import torch and
open_clip. The machine must be idle: every number here grows with other work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.common.machine import environment, publish

SPEC = Path(__file__).resolve().parents[2] / "search_spaces" / "quickstart.yaml"
PACKAGES = ("torch", "pyarrow", "pandas", "sklearn", "scipy", "matplotlib")
"""Packages with libraries of their own: an import shows in the memory map of a process."""
_START_RAY = "from sweeper.execution import cluster; cluster.connect(None); cluster.disconnect()"
_IMPORT = "import torch, open_clip"
_KINDS = {
    "gcs_server": "GCS server",
    "raylet/raylet": "raylet",
    "dashboard/agent.py": "Ray's dashboard agent",
    "dashboard/dashboard.py": "Ray's API server",
    "log_monitor.py": "Ray's log monitor",
    "monitor.py": "Ray's autoscaler monitor",
    "runtime_env/agent": "Ray's runtime environment agent",
    "sweeper.tracking.sender": "MLflow's sender",
    "run/cleanup_process": "sweeper's clean-up process",
    "default_worker.py": "Ray worker, before its first task",
}


@dataclass(frozen=True)
class ProcessSample:
    """What a process had done when the first trial began."""

    kind: str
    cpu_s: float
    own_bytes: int
    packages: tuple[str, ...]
    """Those of ``PACKAGES`` that it has imported."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    ray_s, import_s, first_s = list[float](), list[float](), list[float]()
    samples: list[ProcessSample] = []
    for _ in range(options.rounds):
        ray_s.append(_seconds([_START_RAY]))
        import_s.append(_seconds([_IMPORT] * (os.cpu_count() or 1)))
        seconds, samples = run()
        first_s.append(seconds)
        print(f"{ray_s[-1]:.1f} {import_s[-1]:.1f} {first_s[-1]:.1f}", file=sys.stderr, flush=True)
    floor_s = [a + b for a, b in zip(ray_s, import_s, strict=True)]
    ratios = [first / floor for first, floor in zip(first_s, floor_s, strict=True)]
    lines = [
        "# From `sweeper run` to the first trial",
        "",
        f"Median (lowest to highest) of {options.rounds} rounds; {os.cpu_count()} slots; images and embeddings are not "
        "cached.",
        "",
        "| | seconds |",
        "| --- | --- |",
        f"| Ray started alone, and ended | {_range(ray_s)} |",
        f"| {os.cpu_count()} bare processes at once import torch and open_clip | {_range(import_s)} |",
        f"| floor: both | {_range(floor_s)} |",
        f"| `sweeper run`, until its first trial begins | {_range(first_s)} |",
        f"| ratio to the floor | {_range(ratios, digits=2)} |",
        "",
        "Each process when the first trial begins (last round):",
        "",
        "| process | CPU s | own memory, MB | imports of " + ", ".join(PACKAGES) + " |",
        "| --- | ---: | ---: | --- |",
        *(
            f"| {s.kind} | {s.cpu_s:.1f} | {s.own_bytes / 1e6:.0f} | {', '.join(s.packages) or '-'} |"
            for s in sorted(samples, key=lambda s: -s.cpu_s)
        ),
        f"| together | {sum(s.cpu_s for s in samples):.0f} | {sum(s.own_bytes for s in samples) / 1e6:.0f} | |",
        "",
        environment("ray", "torch", "mlflow"),
    ]
    publish("\n".join(lines) + "\n", options.output)


def run() -> tuple[float, list[ProcessSample]]:
    """Return the seconds until the first trial of a sweep begins, and its processes at that moment."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("sweeper")), "run", str(SPEC), "--trials", "2"]
        started_s, samples, seconds = time.monotonic(), list[ProcessSample](), 0.0
        with subprocess.Popen(
            [*command, "--storage", folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as sweep:
            assert sweep.stderr is not None
            for line in sweep.stderr:
                if "] trial 0 started" in line:
                    seconds = time.monotonic() - started_s
                    samples = list(_processes(sweep.pid))
        if not samples:
            raise SystemExit(f"the sweep ended with {sweep.returncode} before its first trial")
        return seconds, samples


def _processes(driver: int) -> Iterator[ProcessSample]:
    for process in [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]:
        try:
            command, times = " ".join(process.cmdline()), process.cpu_times()
            paths = " ".join(area.path for area in process.memory_maps())
            own_bytes = process.memory_full_info().uss
        except psutil.Error:  # it has ended
            continue
        packages = tuple(name for name in PACKAGES if f"/{name}/" in paths)
        yield ProcessSample(_kind(command, process.pid == driver), times.user + times.system, own_bytes, packages)


def _kind(command: str, is_driver: bool) -> str:
    if is_driver:
        return "driver"
    if command.startswith("ray::"):
        return command.split()[0].removeprefix("ray::").partition(".")[0]
    return next((name for part, name in _KINDS.items() if part in command), "another process")


def _seconds(codes: list[str]) -> float:
    """Return how long processes that run some code at once take together."""
    started_s = time.monotonic()
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    for process in processes:
        if process.wait() != 0:
            raise SystemExit("a bare process failed")
    return time.monotonic() - started_s


def _range(values: list[float], digits: int = 1) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()

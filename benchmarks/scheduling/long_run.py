"""Whether memory, handles and threads of a sweep's processes grow over many short trials, and what it leaves on disk.

    python -m benchmarks.scheduling.long_run --trials 500 --output FILE

One sweep through ``sweeper run``, in a Ray and in folders of its own: transforms on a small generated world, on two
warm slots. Every few seconds each process of the sweep is looked at (``psutil``), from the end of the first trial to
that of the last. The table compares the first and the last quarter of the trials for each process that lived through
both. At the end: bytes on disk by kind of file, and what is left of the sweep's Ray.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.common.machine import environment, publish
from sweeper.storage.sweep_folder import SweepFolder

SPEC = """\
sets:
  world: {kind: world, train: 256, validation: 400, test: 200}
train: {set: world, classes: 0.5}
attack: {recipe: sign}
evaluate: {search: {sets: [world], images: 300}, front: {strengths: [0.5, 1.0]}, test: {sets: [world]}}
parameters:
  objective: {choices: [dpo, cross_entropy]}
  beta: {when: {objective: dpo}, low: 0.1, high: 2.0, log: true}
  tune: transform
  rank: {choices: [16, 32, embed_dim]}
  penalty: {choices: [0.0, 1.0e-3, 1.0e-2]}
  learning_rate: {low: 1.0e-3, high: 2.0e-1, log: true}
search: {sampler: random}
stopping: {kind: none}
training: {epochs: 4, global_batch_size: 64}
resources: {cpus_per_worker: 1}
"""
NAME = "long"
EVERY_S = 3.0
KINDS = {
    "ray::Dispatcher": "dispatcher",
    "ray::ResourceTrainable": "Tune's trial actor",
    "ray::TrainController": "Train's controller",
    "ray::SynchronizationActor": "Train's synchronisation actor",
    "ray::RayTrainWorker": "worker",
}
"""Beginning of the name that Ray gives a process -> kind of process."""
SENDER = "sender of MLflow"
SEEN_TIMES = 8
"""A process that was looked at less often is left out: it did not live through the sweep."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at one process."""

    ended: int
    """Trials that had ended."""
    rss_bytes: int
    own_bytes: int
    """Memory that it shares with no other process."""
    files: int
    """Open file descriptors."""
    threads: int


QUANTITIES: tuple[tuple[str, Callable[[Sample], float]], ...] = (
    ("own memory, MB", lambda sample: sample.own_bytes / 1e6),
    ("resident memory, MB", lambda sample: sample.rss_bytes / 1e6),
    ("open files", lambda sample: sample.files),
    ("threads", lambda sample: sample.threads),
)


def kind_of(process: psutil.Process, driver: psutil.Process) -> str | None:
    """Return the kind of a process of the sweep; None for one that is not looked at."""
    if process == driver:
        return "driver"
    command = process.cmdline()
    if "sweeper.tracking.sender" in command:
        return SENDER
    title = command[0] if command else ""
    return next((kind for prefix, kind in KINDS.items() if title.startswith(prefix)), None)


def look(driver: psutil.Process, ended: int, samples: dict[tuple[str, int], list[Sample]]) -> None:
    """Add a sample of every process of the sweep."""
    for process in (driver, *driver.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            kind = kind_of(process, driver)
            if kind is not None:
                memory = process.memory_full_info()
                samples[kind, process.pid].append(
                    Sample(
                        ended=ended, rss_bytes=memory.rss, own_bytes=memory.uss,
                        files=process.num_fds(), threads=process.num_threads(),
                    )
                )  # fmt: skip


def run_sweep(home: Path, trials: int, most_s: float) -> tuple[dict[tuple[str, int], list[Sample]], int, float]:
    """Run the sweep; return the samples by (kind, process id), the trials that ended, and the seconds it took."""
    (home / "long.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "sweeper", "run", "long.yaml", "--name", NAME, "--storage", str(home / "sweeps")]
    command += ["--gpus", "0", "--trials", str(trials), "--time", f"{max(1, round(most_s / 60))}m"]
    variables = {**os.environ, "RAY_TMPDIR": str(home / "ray"), "OMP_NUM_THREADS": "1"}
    variables.pop("MLFLOW_TRACKING_URI", None)
    package = str(Path(__file__).resolve().parents[2])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    (home / "ray").mkdir()
    samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    began_s, ended = time.monotonic(), 0
    with (home / "driver.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            ended = len(list((home / "sweeps" / NAME / "trials").glob("*/result.json")))
            if ended:  # before that, processes are still starting
                look(driver, ended, samples)
            time.sleep(EVERY_S)
    if process.returncode not in (0, 130):
        raise SystemExit((home / "driver.log").read_text()[-2000:])
    ended = len(list((home / "sweeps" / NAME / "trials").glob("*/result.json")))
    return samples, ended, time.monotonic() - began_s


def slope_per_100(samples: Sequence[Sample], quantity: Callable[[Sample], float]) -> float:
    """Return the growth per 100 trials, by least squares."""
    ended = [float(sample.ended) for sample in samples]
    return 100 * statistics.linear_regression(ended, [quantity(sample) for sample in samples]).slope


def table(samples: dict[tuple[str, int], list[Sample]], ended: int) -> list[str]:
    """Return a row for each process: medians of the first and of the last quarter of the trials."""
    lines = ["| process | " + " | ".join(name for name, _ in QUANTITIES) + " | own memory, MB per 100 trials |"]
    lines.append("| --- |" + " ---: |" * (len(QUANTITIES) + 1))
    for (kind, _), all_seen in sorted(samples.items()):
        seen = [sample for sample in all_seen if sample.ended < ended]  # not the second look and the end
        first = [sample for sample in seen if sample.ended <= ended / 4]
        last = [sample for sample in seen if sample.ended > 0.75 * ended]
        if len(seen) < SEEN_TIMES or not first or not last:
            continue
        cells = []
        for _, quantity in QUANTITIES:
            before, after = (statistics.median(map(quantity, some)) for some in (first, last))
            cells.append(f"{before:.0f} -> {after:.0f}")
        later = [sample for sample in seen if sample.ended > ended / 2]
        lines.append(f"| {kind} | {' | '.join(cells)} | {slope_per_100(later, QUANTITIES[0][1]):+.1f} |")
    return lines


def disk_lines(home: Path) -> list[str]:
    """Return the rows of the table of the sweep's files by name, those of one name together."""
    sums: dict[str, list[int]] = defaultdict(list)
    folder = home / "sweeps" / NAME
    for path in folder.rglob("*"):
        if path.is_file():
            within = path.relative_to(folder)
            name = f"trials/*/{path.name}" if within.parts[0] == "trials" else str(within.parts[0])
            sums[name].append(path.stat().st_size)
    lines = ["| in the sweep's folder | files | MB | KB a file |", "| --- | ---: | ---: | ---: |"]
    for name, sizes in sorted(sums.items(), key=lambda item: -sum(item[1])):
        lines.append(f"| {name} | {len(sizes)} | {sum(sizes) / 1e6:.2f} | {sum(sizes) / len(sizes) / 1e3:.1f} |")
    total = sum(sum(sizes) for sizes in sums.values())
    return [*lines, f"| together | {sum(map(len, sums.values()))} | {total / 1e6:.2f} | |"]


def shared_memory() -> set[str]:
    """Return the names of this user's files in /dev/shm: Ray, PyTorch and Python make no folders there."""
    names = set()
    for path in Path("/dev/shm").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_uid == os.getuid():
                names.add(path.name)
    return names


def left_behind(home: Path, before: set[str]) -> str:
    """Return a line on shared memory, Ray's folder and processes after the end.

    Args:
        before: names in /dev/shm before the sweep.
    """
    shared = shared_memory() - before
    ray_files = sum(1 for path in (home / "ray").rglob("*") if path.is_file())
    alive = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive += process.environ().get("RAY_TMPDIR") == str(home / "ray") and process.pid != os.getpid()
    names = ", ".join(sorted(shared)) or "none"
    return (
        f"After the end: new files in /dev/shm: {names}; files in the sweep's folder of Ray: {ray_files}; processes of "
        f"the sweep: {alive}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--most-minutes", type=float, default=60.0, help="stop the sweep after this time")
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    options = parser.parse_args()
    load, before = os.getloadavg()[0], shared_memory()
    with tempfile.TemporaryDirectory(prefix="swl", dir="/tmp") as text:  # sockets: the path has to be short
        home = Path(text)
        samples, ended, took_s = run_sweep(home, options.trials, 60 * options.most_minutes)
        time.sleep(15.0)  # the process that ends what is left of a session takes up to 13 s
        lines = [
            f"# {ended} short trials on two slots", "",
            f"{environment('ray', 'torch', 'optuna', 'mlflow')}; load average {load:.1f} at the start, "
            f"{os.getloadavg()[0]:.1f} at the end. Transforms on a small generated world, 4 epochs; "
            f"{took_s:.0f} s with the start; each process is looked at every {EVERY_S:g} s. Medians of the first -> of "
            "the last quarter of the trials; the last column is the slope in the second half.", "",
            *table(samples, ended), "", *disk_lines(home), "", left_behind(home, before), "",
        ]  # fmt: skip
        assert SweepFolder(home / "sweeps", NAME).exists()
    publish("\n".join(lines), options.output)


if __name__ == "__main__":
    main()

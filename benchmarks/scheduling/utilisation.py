"""Share of the time that slots are busy, and seconds from the start of a sweep to the first step.

    python -m benchmarks.scheduling.utilisation --output FILE

Whole sweeps (study, search, front, MLflow) of 64 trials on 4 slots, through ``run_sweep``. A slot is busy from the
first step of a trial to its last work. Trials of ``real`` train transforms on the generated world. With fewer than 4
CPUs these trials compete with the driver, so trials of ``short`` and ``long`` sleep 1 to 2 and 5 to 10 seconds: what
remains is the orchestration. Start-up (until all slots are busy) and tail (from when a slot has no further trial) are
shown beside the share and are not part of it. ``--quickstart FOLDER`` adds the share of evaluation in the trials of
that finished sweep.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import sweeper.run.resources
from benchmarks.common.machine import environment, publish
from benchmarks.scheduling.timed import TimedChannel
from sweeper.execution import cluster
from sweeper.execution.runner import make_runner
from sweeper.execution.worker import Channel, Runner, WorkerContext
from sweeper.jobs import Job, JobResult, TrainJob
from sweeper.run.sweep import Options, run_sweep
from sweeper.spec.spec import load_spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Point, TrialResult

SPEC = Path(__file__).resolve().parents[2] / "search_spaces" / "quickstart.yaml"
SLOTS, TRIALS, EPOCHS = 4, 64, 12
TARGET = 0.95
SLEEPS_S = {"short": (1.0, 2.0), "long": (5.0, 10.0)}
"""Kind of sweep -> (shortest, longest) trial, for trials that sleep."""


def make_timed(context: WorkerContext, *, kind: str, stamps: Path, **settings: Any) -> Runner:
    """Return a runner that records when trials begin and end. If trials sleep, it sleeps instead of training."""
    began_s = time.time()
    real = make_runner(context, **settings)
    stamps.mkdir(exist_ok=True)
    (stamps / f"slot-{context.slot}.json").write_text(json.dumps({"began_s": began_s, "ready_s": time.time()}))

    def run(job: Job, channel: Channel) -> JobResult:
        timed = TimedChannel(channel)
        result: JobResult
        if isinstance(job, TrainJob) and kind in SLEEPS_S:
            timed.interrupted()
            result = sleep(job.key, *SLEEPS_S[kind])
        else:
            while len(list(stamps.glob("slot-*.json"))) < SLOTS:  # a slot that is not ready yet does not count as idle
                timed.heartbeat()
                time.sleep(0.1)
            result = real(job, timed)  # type: ignore[arg-type]
        if isinstance(job, TrainJob):
            span = {"slot": context.slot, "first_s": timed.first_s, "last_s": time.time()}
            (stamps / f"trial-{job.key}.json").write_text(json.dumps(span))
        return result

    return run


def sleep(number: int, least_s: float, most_s: float) -> TrialResult:
    """Sleep, and return a result that is never on the front, so that no test follows."""
    seconds = random.Random(number).uniform(least_s, most_s)
    time.sleep(seconds)
    values = {"clean_accuracy": 0.0, "robust_accuracy": 0.0, "text_confusion_rate": 1.0}
    points = (Point(weights="last", strength=1.0, values=values),)
    return TrialResult(values=values, points=points, epochs=EPOCHS, train_s=seconds, evaluation_s=0.0)


@dataclass(frozen=True)
class ProcessUsage:
    """What a process used over the whole sweep."""

    cpu_s: float
    own_bytes: int
    """Memory that it shares with no other process."""


class ProcessMonitor:
    """Samples the CPU time and memory of the sweep's processes, because Ray ends them before the sweep is over."""

    PREFIXES = {
        "dispatcher": "ray::Dispatcher",
        "proxy": "ray::ResourceTrainable",
        "controller": "ray::TrainController",
        "synchronizer": "ray::SynchronizationActor",
        "worker": "ray::RayTrainWorker",
    }

    def __init__(self) -> None:
        self._driver, self._ended = psutil.Process(), threading.Event()
        self._before_s = sum(self._driver.cpu_times()[:2])
        self._used: dict[tuple[str, int], ProcessUsage] = {}
        """(kind of process, process id) -> last sample."""
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def close(self) -> dict[str, ProcessUsage]:
        """Return kind of process -> usage; of several processes of a kind, that of the one with most CPU time."""
        self._ended.set()
        self._thread.join()
        cpu_s = sum(self._driver.cpu_times()[:2]) - self._before_s
        by_kind = {"driver": ProcessUsage(cpu_s, self._driver.memory_full_info().uss)}
        for (kind, _), used in sorted(self._used.items(), key=lambda item: item[1].cpu_s):
            by_kind[kind] = used
        return by_kind

    def _sample(self) -> None:
        while not self._ended.wait(10.0):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, IndexError):
                    title = process.cmdline()[0]
                    for kind, prefix in self.PREFIXES.items():
                        if title.startswith(prefix) and self._driver in process.parents():
                            used = ProcessUsage(sum(process.cpu_times()[:2]), process.memory_full_info().uss)
                            self._used[kind, process.pid] = used


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Timestamps of one sweep, in seconds since 1970."""

    began_s: float
    connected_s: float
    workers_s: float
    """The first worker process runs the runner."""
    ready_s: float
    """The first worker has model, images and the reference's embeddings."""
    all_ready_s: float
    untouched_s: float
    """The untouched model was measured, and the study opened."""
    spans: list[tuple[int, float, float]]
    """(slot, first step, last work) of each trial."""
    used: dict[str, ProcessUsage]
    """``ProcessMonitor.close``."""

    @property
    def first_step_s(self) -> float:
        return min(first for _, first, _ in self.spans)

    def window(self) -> tuple[float, float]:
        """Return (when all slots are busy, when the first slot has no further trial)."""
        by_slot: dict[int, list[tuple[float, float]]] = {}
        for slot, first, last in self.spans:
            by_slot.setdefault(slot, []).append((first, last))
        started = max(min(first for first, _ in spans) for spans in by_slot.values())
        return started, min(max(last for _, last in spans) for spans in by_slot.values())

    def busy(self, window: tuple[float, float]) -> float:
        """Return the share of all slots' time in a window that they are busy."""
        low, high = window
        inside = sum(max(0.0, min(last, high) - max(first, low)) for _, first, last in self.spans)
        return inside / (SLOTS * (high - low))

    @property
    def whole(self) -> tuple[float, float]:
        return self.first_step_s, max(last for *_, last in self.spans)

    @property
    def mean_s(self) -> float:
        return sum(last - first for _, first, last in self.spans) / len(self.spans)


def timed_sweep(home: Path, kind: str, began_s: float) -> tuple[Sweep, SweepFolder]:
    spec = load_spec(SPEC, [
        f"name={kind}", f"search.trials={TRIALS}", f"training.epochs={EPOCHS}",
        "parameters.tune=transform", "parameters.learning_rate={low: 1e-3, high: 2e-1, log: true}",
        "parameters.rank={choices: [16, 32, embed_dim]}", "parameters.penalty={choices: [0.0, 1e-3, 1e-2]}",
        "paint=null",
    ])  # fmt: skip
    folder, stamps = SweepFolder(home, spec.name), home / f"stamps-{kind}"
    folder.create(spec, SPEC.read_text())
    connected_s: list[float] = []
    connect = cluster.connect

    def connect_here(address: str | None = None) -> None:
        connect(address, num_cpus=SLOTS)
        connected_s.append(time.time())

    cluster.connect = connect_here
    monitor = ProcessMonitor()
    sweeper.run.resources.make_runner = partial(make_timed, kind=kind, stamps=stamps)
    try:
        with folder.lease.hold() as lease:
            result = run_sweep(folder, lease, spec, Options(gpus=0))
    finally:
        cluster.connect, sweeper.run.resources.make_runner = connect, make_runner
    if result.state != "complete" or result.failures:
        raise SystemExit(f"the sweep ended {result.state}: {'; '.join(result.failures)}")
    slots = [json.loads(path.read_text()) for path in stamps.glob("slot-*.json")]
    trials = [json.loads(path.read_text()) for path in stamps.glob("trial-*.json")]
    return Sweep(
        began_s=began_s,
        connected_s=connected_s[0],
        workers_s=min(slot["began_s"] for slot in slots),
        ready_s=min(slot["ready_s"] for slot in slots),
        all_ready_s=max(slot["ready_s"] for slot in slots),
        untouched_s=(folder.path / "untouched.json").stat().st_mtime,
        used=monitor.close(),
        spans=[(trial["slot"], trial["first_s"], trial["last_s"]) for trial in trials],
    ), folder


def busy_table(sweeps: dict[str, Sweep]) -> list[str]:
    lines = [
        "| trials | mean trial s | busy share | start-up s | tail s | busy share with start-up and tail |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, sweep in sweeps.items():
        window, whole = sweep.window(), sweep.whole
        lines.append(
            f"| {name} | {sweep.mean_s:.2f} | {100 * sweep.busy(window):.1f} % | {window[0] - whole[0]:.1f} "
            f"| {whole[1] - window[1]:.1f} | {100 * sweep.busy(whole):.1f} % |"
        )
    return [*lines, "", f"Target: {100 * TARGET:.0f} % with start-up and tail left out."]


def start_table(sweeps: dict[str, Sweep]) -> list[str]:
    heads = list(sweeps)
    lines = ["| seconds from nothing to the first step | " + " | ".join(heads) + " |"]
    lines.append("| --- |" + " ---: |" * len(heads))
    marks = ("began_s", "connected_s", "workers_s", "ready_s", "all_ready_s", "untouched_s", "first_step_s")
    texts = (
        "Ray started", "first worker process runs our code", "it has model, images and embeddings",
        "all workers have", "untouched model measured", "first step of the first trial",
    )  # fmt: skip
    for before, after, text in zip(marks, marks[1:], texts, strict=False):
        took = [getattr(sweep, after) - getattr(sweep, before) for sweep in sweeps.values()]
        lines.append(f"| {text} | " + " | ".join(f"{seconds:.1f}" for seconds in took) + " |")
    total = [sweep.first_step_s - sweep.began_s for sweep in sweeps.values()]
    return [*lines, "| **together** | " + " | ".join(f"**{seconds:.1f}**" for seconds in total) + " |"]


def used_table(sweep: Sweep) -> list[str]:
    lines = ["| process | CPU s, start and end included | own memory, MB |", "| --- | ---: | ---: |"]
    labels = {
        "driver": "driver",
        "dispatcher": "dispatcher, one for all slots, beside the driver",
        "proxy": "Tune's trial actor, one per slot, beside the driver",
        "controller": "Train's controller, one per slot, beside the driver",
        "synchronizer": "Train's synchronisation actor, one per slot, beside the driver",
        "worker": "worker of a slot",
    }
    for kind, text in labels.items():
        if kind in sweep.used:
            used = sweep.used[kind]
            lines.append(f"| {text} | {used.cpu_s:.1f} | {used.own_bytes / 1e6:.0f} |")
    return lines


def evaluation_line(folder: Path) -> str:
    """Return the share of evaluation in the time of the finished trials of a sweep."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/result.json"))]
    train_s, evaluation_s = (sum(result[key] for result in results) for key in ("train_s", "evaluation_s"))
    share = evaluation_s / (train_s + evaluation_s)
    return f"{folder.name}, {len(results)} trials: {100 * share:.0f} % of {train_s + evaluation_s:.0f} s"


def main() -> None:
    began_s = time.time()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", nargs="+", choices=["real", *SLEEPS_S], default=["real", *SLEEPS_S])
    parser.add_argument("--quickstart", type=Path, default=None, help="folder of a finished sweep, sweeps/quickstart")
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    options = parser.parse_args()
    load, sweeps, evaluation = [os.getloadavg()[0]], {}, []
    with tempfile.TemporaryDirectory() as home:
        for name in options.trials:
            sweeps[name], folder = timed_sweep(Path(home), name, began_s)
            load.append(os.getloadavg()[0])
            if name == "real":
                evaluation.append(evaluation_line(folder.path))
            began_s = time.time()
    if options.quickstart is not None:
        evaluation.insert(0, evaluation_line(options.quickstart))
    where = environment("ray", "torch", "mlflow")
    text = "\n".join([
        f"# How busy {SLOTS} slots are kept over {TRIALS} trials", "",
        f"{where}; load average {min(load):.1f} to {max(load):.1f}. `real`: transforms on the generated world, "
        f"{EPOCHS} epochs; `short` and `long` only sleep.", "",
        *busy_table(sweeps), "",
        "Trials begin when all slots are warm. A second sweep starts in a process that has imported everything, with "
        "images and embeddings cached.", "",
        *start_table(sweeps), "",
        f"Processes of the sweep of {name} trials:", "", *used_table(sweeps[name]), "",
        *(f"Share of evaluation in the time of trials: {line}." for line in evaluation), "",
    ])  # fmt: skip
    publish(text, options.output)


if __name__ == "__main__":
    main()

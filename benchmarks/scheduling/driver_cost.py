"""What a sweep costs its driver per trial: ``python benchmarks/scale.py --output benchmarks/results/scale.md``.

The real study (SQLite), search, front, its files and MLflow (SQLite) under virtual slots: a trial's reports and outcome
are made up from its parameters, so that nothing but the driver's own work is left. No Ray. The peer is Optuna's
multi-objective TPE alone (ask, suggest, tell on SQLite) over the same space with as many trials at once, in a process
of its own that does a trial whenever the driver has done one.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import optuna
import psutil

from benchmarks.common.machine import environment, publish
from sweeper.front.build import build_front
from sweeper.front.report.writer import FrontFiles
from sweeper.records import Front, Outcome, Task, TrialRecord
from sweeper.run.budget import Go
from sweeper.run.observer import Observer
from sweeper.run.progress import Progress
from sweeper.run.usage import UsageMeter
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.domains import Choices, Range, Value
from sweeper.spec.space import Space
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.tracker import Tracker

SPEC = Path(__file__).resolve().parents[2] / "search_spaces" / "quickstart.yaml"
UNTOUCHED = {"clean_accuracy": 0.91, "robust_accuracy": 0.31, "text_confusion_rate": 0.55}
PROGRESS = (1 / 9, 1 / 3, 2 / 3, 1.0)
"""Where a trial of three epochs reports: two rungs, of which the second is the end of an epoch."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
IMAGES = 5000
WINDOW = 50
FLUSH_S = 1800.0
PARTS = {
    "ask": "search: a suggestion",
    "add": "search: a chosen point",
    "tell": "study: values told",
    "front": "front from the records",
    "bill": "what it costs so far, and the forecast",
    "progress": "lines for the terminal",
    "outbox": "outbox of MLflow",
    "report": "the rest of a report",
    "start": "the rest of a start (folder, trial.json)",
    "end": "the rest of an end",
}


class Watch:
    """Seconds of this thread's CPU by part; a part inside another counts for itself alone."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.wall_s = 0.0
        """The same on the clock, over all parts: it waits for the disk, and for a CPU where there are too few."""
        self._thread = threading.get_ident()
        self._stack: list[str] = []
        self._since_s = 0.0

    def watch(self, owner: Any, part: str, *methods: str) -> None:
        for method in methods:
            setattr(owner, method, self.watched(part, getattr(owner, method)))

    def watched(self, part: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return inner(*args, **kwargs)
            began_s, outermost = time.monotonic(), not self._stack
            self._book()
            self._stack.append(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self._book()
                self._stack.pop()
                self.wall_s += (time.monotonic() - began_s) * outermost

        return measured

    def _book(self) -> None:
        now_s = time.thread_time()
        if self._stack:
            self.cpu_s[self._stack[-1]] += now_s - self._since_s
        self._since_s = now_s


def values_of(parameters: dict[str, Any], progress: float, strength: float, noise: random.Random) -> dict[str, float]:
    """A trade-off of the usual shape: a strong change makes robust and costs clean accuracy, a good one costs less."""
    reach = math.log10(parameters["learning_rate"] / (1e-3 if parameters["tune"] == "visual" else 2e-2))
    hold = math.log10(parameters["lambda_reg"] + 1e-2)
    push = strength * progress**0.3 / (1 + math.exp(-2 * (reach - 0.4 * hold)))
    waste = 0.05 * abs(reach) + 0.03 * abs(hold) + 0.02 * (parameters["objective"] == "ipo")
    clean = 0.91 - 0.25 * push**2 - waste * push + noise.gauss(0.0, 0.004)
    robust = 0.31 + 0.5 * push - waste * push + noise.gauss(0.0, 0.006)
    rounded = [round(min(1.0, max(0.0, value)) * IMAGES) / IMAGES for value in (clean, robust, 0.9 - robust)]
    return dict(zip(("clean_accuracy", "robust_accuracy", "text_confusion_rate"), rounded, strict=True))


def report_of(parameters: dict[str, Any], progress: float, noise: random.Random) -> dict[str, Any]:
    values = values_of(parameters, progress, 1.0, noise)
    losses = {"loss": 0.5 / progress, "preference_loss": 0.4 / progress, "reference_kl": 0.1}
    place = {"step": round(36 * progress), "steps": 36, "epoch": round(3 * progress, 4), "epochs": 3}
    place |= {"progress": progress} | ({"rung": True} if progress < 0.5 else {})
    return place | values | losses | {"train_s": 60 * progress, "evaluation_s": 4.0, "time_s": time.time()}


def outcome_of(task: Task, slot: int, noise: random.Random) -> Outcome:
    parameters = task.payload["parameters"]
    points = [
        {"weights": weights, "strength": strength, "values": values_of(parameters, 1.0, strength, noise)}
        for weights, strength in (*(("last", strength) for strength in STRENGTHS), ("averaged", 1.0))
    ]
    result = {"values": points[len(STRENGTHS) - 1]["values"], "points": points, "epochs": 3}
    result |= {"train_s": 60.0, "evaluation_s": 16.0}
    (Path(task.payload["folder"]) / "result.json").write_text(json.dumps(result))
    return Outcome(kind="complete", result=result, slot=slot, attempt=task.attempt, busy_s=76.0)


@dataclass(kw_only=True)
class Mark:
    """What was used so far, when so many trials had ended."""

    trials: int
    own_s: dict[str, float]
    """CPU of the driver's thread by part."""
    threads_s: float
    """CPU of its other threads."""
    own_wall_s: float
    sender_s: float
    """CPU of the process that tells MLflow."""
    peers_s: tuple[float, float]
    """CPU of Optuna beside running trials, and alone."""
    driver_bytes: int
    sender_bytes: int
    members: int
    events_bytes: int
    study_bytes: int


def run_slots(trials: TrialScheduler, slots: int) -> Iterator[int]:
    """Virtual slots: a trial takes about 100 units of time. Yields the number of trials ended after each."""
    noise = random.Random(0)
    events: list[tuple[float, int, Task, int, int]] = []
    free, now, ended = list(range(slots)), 0.0, 0
    while True:
        while free and (task := trials.next_task()) is not None:
            heapq.heappush(events, (now + noise.uniform(70, 130) * PROGRESS[0], task.key, task, free.pop(), 0))
        if not events:
            return
        now, key, task, slot, done = heapq.heappop(events)
        trials.on_tick()
        trials.on_report(key, report_of(task.payload["parameters"], PROGRESS[done], noise))
        if done + 1 < len(PROGRESS):
            later = now + noise.uniform(70, 130) * (PROGRESS[done + 1] - PROGRESS[done])
            heapq.heappush(events, (later, key, task, slot, done + 1))
            continue
        trials.on_end(key, outcome_of(task, slot, noise))
        free.append(slot)
        ended += 1
        yield ended


def measure(home: Path, spec: Spec, slots: int, at: list[int], peer: Connection | None) -> list[Mark]:
    """Runs a sweep until the last of ``at`` trials have ended; marks before each of them and ``WINDOW`` earlier."""
    folder = SweepFolder(home / "sweeps", spec.name)
    folder.create(spec, SPEC.read_text())
    untouched = {"validation": UNTOUCHED, "chance": 0.05}
    folder.write_json("untouched.json", untouched)
    search, meter = spec.search, Watch()
    study = Study.create(folder.study_path, spec.parameters, seed=search.seed, startup_trials=search.startup())
    tracker = Tracker(folder.path, None, folder.storage, folder.name, folder.sweep_id)
    tracker.sweep_started(spec.resolved(), {})
    progress = Progress(folder.name, search.trials, stream=io.StringIO())
    files = FrontFiles(folder.front_path, tracker.front_updated)

    go = Go(started_s=time.time(), device="cpu", slots=slots, devices_per_slot=1.0, wall_s=0.0)
    bill = UsageMeter(folder, go, [], planned=search.trials)
    progress.charge(bill.line, bill.left_s)

    def build(trials: Sequence[TrialRecord]) -> Front:
        tests = folder.tests()
        return build_front(
            folder.name, trials, goals=spec.goals, untouched=untouched, tests=tests, planned=search.trials
        )

    front, tags = meter.watched("front", build), {"sweeper.version.torch": "2.14"}
    observer = Observer(progress, tracker, files, front, study.trials, tags, bill)
    trials = TrialScheduler(spec, study, FolderTrialFiles(folder, spec), UNTOUCHED, observer)
    meter.watch(study, "ask", "ask")
    meter.watch(study, "add", "add")
    meter.watch(study, "tell", "tell")
    meter.watch(bill, "bill", "started", "reported", "ended", "tick", "costs", "line", "left_s", "may_start")
    meter.watch(progress, "progress", "trial_started", "trial_reported", "trial_ended", "front_updated", "tick")
    meter.watch(tracker, "outbox", "trial_started", "trial_reported", "trial_ended", "hypervolume_changed")
    meter.watch(trials, "report", "on_report", "on_tick")
    meter.watch(trials, "start", "next_task")
    meter.watch(trials, "end", "on_end")
    started_s, driver = time.monotonic(), psutil.Process()
    threads_s, peers_s, marks = time.process_time() - time.thread_time(), (0.0, 0.0), []
    for ended in run_slots(trials, slots):
        if peer is not None and any(count - WINDOW < ended <= count for count in at):
            peer.send("go")
            beside_s, alone_s = peer.recv()
            peers_s = peers_s[0] + beside_s, peers_s[1] + alone_s
        if not any(ended in (count - WINDOW, count) for count in at):
            continue
        if not tracker.flush(FLUSH_S):
            tracker.close()
            raise SystemExit(f"MLflow has not been told everything: {tracker.problem()}")
        [sender] = [process for process in driver.children() if "sweeper.tracking.sender" in process.cmdline()]
        marks.append(Mark(
            trials=ended,
            own_s=dict(meter.cpu_s),
            threads_s=time.process_time() - time.thread_time() - threads_s,
            sender_s=sum(sender.cpu_times()[:2]),
            own_wall_s=meter.wall_s,
            peers_s=peers_s,
            driver_bytes=driver.memory_info().rss,
            sender_bytes=sender.memory_info().rss,
            members=sum(point.member for point in build(study.trials()).points),
            events_bytes=(folder.path / "tracking.jsonl").stat().st_size,
            study_bytes=folder.study_path.stat().st_size,
        ))  # fmt: skip
        sys.stderr.write(f"{ended} trials, {time.monotonic() - started_s:.0f} s\n")
        if peer is not None and ended in at:
            peer.send("enough")
        elif peer is not None:
            peer.send(folder.study_path)
            peer.recv()
        if ended == max(at):
            break
    if peer is not None:
        peer.send("end")
    files.close()
    tracker.close()
    study.close()
    return marks


def peer_main(pipe: Connection, home: Path, startup_trials: int, space: Space) -> None:
    """Optuna alone: given the sweep's study, then one trial more for each message ``go``.

    Answers with CPU seconds: beside as many running trials as the sweep has, and with none.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    noise = random.Random(0)

    def ask(study: optuna.Study) -> tuple[optuna.Trial, dict[str, Any]]:
        trial = study.ask()
        return trial, space.draw(partial(suggest, trial))

    def tell(study: optuna.Study, trial: optuna.Trial, parameters: dict[str, Any]) -> None:
        values = values_of(parameters, 1.0, 1.0, noise)
        study.tell(trial, [values["clean_accuracy"], values["robust_accuracy"]])

    while isinstance(path := pipe.recv(), Path):
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{path}")
        trials = [trial for trial in study.get_trials() if trial.user_attrs["in_space"]]
        beside, alone = (
            optuna.create_study(
                storage=f"sqlite:///{home / f'{kind}-{len(trials)}.db'}",
                sampler=optuna.samplers.TPESampler(
                    n_startup_trials=startup_trials, multivariate=True, group=True, constant_liar=True, seed=0
                ),
                directions=["maximize", "maximize"],
            )
            for kind in ("beside", "alone")
        )
        finished = [trial for trial in trials if trial.state.is_finished()]
        for study in (beside, alone):
            study.add_trials(finished)
        running = [ask(beside) for _ in range(len(trials) - len(finished))]
        pipe.send(None)
        while (message := pipe.recv()) == "go":
            began_s = time.process_time()
            running.append(ask(beside))
            tell(beside, *running.pop(0))
            between_s = time.process_time()
            tell(alone, *ask(alone))
            pipe.send((between_s - began_s, time.process_time() - between_s))
        assert message == "enough"


def suggest(trial: optuna.Trial, name: str, domain: Choices | Range) -> Value:
    if isinstance(domain, Choices):
        choice: Value = trial.suggest_categorical(name, domain.values)
        return choice
    assert not domain.integer and domain.step is None, "not in this space"
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)


def table(marks: list[Mark]) -> list[str]:
    """A column for the last ``WINDOW`` trials before each mark."""
    pairs = list(zip(marks[::2], marks[1::2], strict=True))
    ends = [after for _, after in pairs]
    lines = ["| CPU milliseconds per trial | " + " | ".join(f"at {after.trials} trials" for _, after in pairs) + " |"]
    lines.append("| --- |" + " ---: |" * len(pairs))

    def line(text: str, cells: list[float], digits: int = 1, bold: bool = False) -> list[float]:
        strong = "**" if bold else ""
        shown = " | ".join(f"{strong}{cell:.{digits}f}{strong}" for cell in cells)
        lines.append(f"| {strong}{text}{strong} | {shown} |")
        return cells

    def spent(of: Callable[[Mark], float]) -> list[float]:
        return [1e3 * (of(after) - of(before)) / WINDOW for before, after in pairs]

    for part, text in PARTS.items():
        line(text, spent(lambda mark: mark.own_s[part]))  # noqa: B023
    own = line("the driver's own thread", spent(lambda mark: sum(mark.own_s.values())), bold=True)
    line("the same on the clock (it waits for the disk)", spent(lambda mark: mark.own_wall_s))
    line("other threads of the driver: files of the front, at most 5 % of its time", spent(lambda mark: mark.threads_s))
    line("process that tells MLflow", spent(lambda mark: mark.sender_s))
    for text, index in (("beside as many running trials", 0), ("with no running trial", 1)):
        if ends[-1].peers_s[index] == 0.0:
            continue
        peer = line(f"peer: Optuna's TPE alone on SQLite, {text}", spent(lambda mark: mark.peers_s[index]))  # noqa: B023
        ratios = [a / b for a, b in zip(own, peer, strict=True)]
        line("the driver's own thread / this peer", ratios, digits=2, bold=True)
    lines += ["", "| beside it | " + " | ".join(f"at {mark.trials} trials" for mark in ends) + " |"]
    lines.append("| --- |" + " ---: |" * len(ends))
    line("memory of the driver, MB", [mark.driver_bytes / 1e6 for mark in ends], digits=0)
    line("memory of the process that tells MLflow, MB", [mark.sender_bytes / 1e6 for mark in ends], digits=0)
    line("study.db, MB", [mark.study_bytes / 1e6 for mark in ends])
    line("events for MLflow, MB", [mark.events_bytes / 1e6 for mark in ends])
    line("points on the front", [mark.members for mark in ends], digits=0)
    return lines


def sync_s(folder: Path) -> float:
    """Median seconds of writing a page to disk for good: every commit waits for some."""
    times_s = []
    with (folder / "page").open("wb") as file:
        for _ in range(31):
            began_s = time.monotonic()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times_s.append(time.monotonic() - began_s)
    return statistics.median(times_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000], help="where to look")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="only the sweep")
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    options = parser.parse_args()
    # More trials than are looked at, so that all slots are busy to the end.
    planned = max(options.trials) + 2 * options.slots
    spec = load_spec(SPEC, [f"search.trials={planned}", "search.startup_trials=32"])
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as home:
        disk_s = sync_s(Path(home))
        peer = spawn.Process(
            target=peer_main, args=(theirs, Path(home), spec.search.startup(), spec.parameters), daemon=True
        )
        if options.peer:
            peer.start()
        marks = measure(Path(home), spec, options.slots, sorted(options.trials), ours if options.peer else None)
    load.append(os.getloadavg()[0])
    where = environment("optuna", "sqlalchemy", "mlflow")
    text = "\n".join([
        f"# The driver's cost per trial, {options.slots} virtual slots", "",
        f"{where}; load average {load[0]:.1f} at the start, {load[1]:.1f} at the end; an fsync takes "
        f"{1e3 * disk_s:.1f} ms. The quickstart's search space, {spec.search.startup()} random trials first; "
        f"{len(PROGRESS)} reports and {len(STRENGTHS) + 1} points a trial; means over the last {WINDOW} trials.", "",
        *table(marks), "",
    ])  # fmt: skip
    publish(text, options.output)


if __name__ == "__main__":
    main()

"""CPU time that a sweep costs its driver per trial.

    python -m benchmarks.scheduling.driver_cost --output benchmarks/results/scale.md

The real study (SQLite), search, front, its files and MLflow (SQLite) under virtual slots: the reports and the outcome
of a trial are computed from its parameters, so that only the driver's own work is measured. No Ray. The peer is
Optuna's multi-objective TPE alone (ask, suggest, tell on SQLite) over the same space with as many trials at once, in a
process of its own that runs a trial whenever the driver has ended a trial.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common.goals import DIRECTIONS, TYPOGRAPHIC
from benchmarks.common.machine import environment, publish
from benchmarks.scheduling.optuna_peer import peer_main
from benchmarks.scheduling.virtual_slots import IMAGES, PROGRESS, STRENGTHS, run_slots
from sweeper.front.load import searched_front
from sweeper.front.rendering.writer import FrontFiles
from sweeper.front.search_state import running_front
from sweeper.records import UntouchedModel
from sweeper.run.budget import Session
from sweeper.run.expected_cost import cost_model
from sweeper.run.observer import Observer
from sweeper.run.progress import Progress
from sweeper.run.usage import UsageMeter
from sweeper.run.usage_text import live_line
from sweeper.search.first_points import first_points, rated_baselines
from sweeper.search.scheduler import NoLimits, TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.tracker import Tracker

SPEC = Path(__file__).resolve().parents[2] / "search_spaces" / "quickstart.yaml"
UNTOUCHED = UntouchedModel(
    goals={"clean_accuracy": 0.91, "robust_accuracy": 0.31, "text_confusion_rate": 0.55},
    chance=0.05,
    validation_images=[IMAGES],
    pairs=512,
    weights_digest="",
    data_digest="",
    validation_digest=None,
    broken={},
    assumed=None,
    versions={},
    device="cpu",
    embed_dim=128,
    image_parameters=1_600_000,
)
WINDOW = 50
FLUSH_S = 1800.0
PARTS = {
    "ask": "search: a suggestion",
    "add": "search: a chosen point",
    "tell": "study: values told",
    "front": "front from the records",
    "usage": "what it costs so far, and the forecast",
    "progress": "lines for the terminal",
    "outbox": "outbox of MLflow",
    "report": "the rest of a report",
    "start": "the rest of a start (folder, trial.json)",
    "end": "the rest of an end",
}


class PartTimer:
    """CPU seconds of this thread by part of the driver; time of a nested part counts for the nested part only."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.wall_s = 0.0
        """Wall-clock time of all parts: includes waiting for the disk and for a free CPU."""
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


@dataclass(kw_only=True)
class Mark:
    """Totals of a sweep when ``trials`` trials had ended."""

    trials: int
    own_s: dict[str, float]
    """CPU of the driver's thread by part."""
    threads_s: float
    """CPU of its other threads."""
    own_wall_s: float
    sender_s: float
    """CPU of the process that sends to MLflow."""
    peers_s: tuple[float, float]
    """CPU of Optuna (beside running trials, beside none)."""
    driver_bytes: int
    sender_bytes: int
    members: int
    events_bytes: int
    study_bytes: int


class TickControl(NoLimits):
    """The control of a sweep without limits: keeps the usage on disk and the terminal up to date."""

    def __init__(self, usage: UsageMeter, progress: Progress) -> None:
        self._usage, self._progress = usage, progress

    def tick(self) -> None:
        self._usage.tick()
        self._progress.tick()


def measure(home: Path, spec: Spec, slots: int, at: list[int], peer: Connection | None) -> list[Mark]:
    """Run a sweep until the largest number of trials in ``at`` has ended.

    Return two marks per number: ``WINDOW`` trials earlier, and at that number.
    """
    folder = SweepFolder(home / "sweeps", spec.name)
    folder.create(spec, SPEC.read_text())
    folder.write_untouched(UNTOUCHED)
    search, timer = spec.search, PartTimer()
    study = Study.create(
        folder.study_path, spec.parameters, goals=DIRECTIONS, seed=search.seed, startup_trials=search.startup()
    )
    tracker = Tracker(folder.path, None, folder.storage, folder.name, folder.sweep_id)
    tracker.sweep_started(spec.resolved(), {})
    progress = Progress(folder.name, search.trials, TYPOGRAPHIC, stream=io.StringIO())
    files = FrontFiles(folder.front_path, tracker.front_updated)

    session = Session(started_s=time.time(), device="cpu", slots=slots, devices_per_slot=1.0, wall_s=0.0)
    usage = UsageMeter(folder, session, [], planned=search.trials, epochs=spec.training.epochs, costs=cost_model(spec))
    searched = partial(searched_front, folder, spec, UNTOUCHED)
    observer = Observer(
        progress,
        tracker,
        files,
        usage,
        drawn=partial(running_front, folder, spec, UNTOUCHED),
        searched_front=timer.watched("front", searched),
        trials=study.trials,
        trial_tags={"sweeper.version.torch": "2.14"},
    )
    control, trial_files = TickControl(usage, progress), FolderTrialFiles(folder, spec)
    scheduler = TrialScheduler(
        spec,
        study,
        trial_files,
        UNTOUCHED.goals,
        observer,
        control,
        lambda: False,
        first_points(spec, UNTOUCHED),
        rated_baselines(spec, UNTOUCHED),
    )
    timer.watch(study, "ask", "ask")
    timer.watch(study, "add", "add")
    timer.watch(study, "tell", "tell")
    timer.watch(usage, "usage", "started", "reported", "ended", "tick", "costs", "left_s", "may_start")
    cost = timer.watched("usage", lambda: live_line(usage.usage(), usage.ended_trials(), usage.budget))
    progress.charge(cost, usage.left_s)
    timer.watch(progress, "progress", "trial_started", "trial_reported", "trial_ended", "front_updated", "tick")
    timer.watch(tracker, "outbox", "trial_started", "trial_reported", "trial_ended", "hypervolume_changed")
    timer.watch(scheduler, "report", "on_report", "on_tick")
    timer.watch(scheduler, "start", "next_job")
    timer.watch(scheduler, "end", "on_end")
    started_s, driver = time.monotonic(), psutil.Process()
    threads_s, peers_s, marks = time.process_time() - time.thread_time(), (0.0, 0.0), []
    for ended in run_slots(scheduler, slots):
        if peer is not None and any(count - WINDOW < ended <= count for count in at):
            peer.send("next")
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
            own_s=dict(timer.cpu_s),
            threads_s=time.process_time() - time.thread_time() - threads_s,
            sender_s=sum(sender.cpu_times()[:2]),
            own_wall_s=timer.wall_s,
            peers_s=peers_s,
            driver_bytes=driver.memory_info().rss,
            sender_bytes=sender.memory_info().rss,
            members=sum(point.member for point in running_front(folder, spec, UNTOUCHED, study.trials())[0].points),
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


def table(marks: list[Mark]) -> list[str]:
    """Return the Markdown table: a column per number of trials, over the last ``WINDOW`` trials before it."""
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
    """Return the median seconds of writing and syncing a page: every commit of a study waits for several syncs."""
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
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[100, 1000], help="numbers of ended trials to measure at"
    )
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="only the sweep")
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    options = parser.parse_args()
    # More trials than are measured, so that all slots are busy to the end.
    planned = max(options.trials) + 2 * options.slots
    spec = load_spec(SPEC, [f"search.trials={planned}", "search.startup_trials=32"])
    spawn = multiprocessing.get_context("spawn")
    pipe, peer_pipe = spawn.Pipe()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as home:
        disk_s = sync_s(Path(home))
        peer = spawn.Process(
            target=peer_main, args=(peer_pipe, Path(home), spec.search.startup(), spec.parameters), daemon=True
        )
        if options.peer:
            peer.start()
        marks = measure(Path(home), spec, options.slots, sorted(options.trials), pipe if options.peer else None)
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

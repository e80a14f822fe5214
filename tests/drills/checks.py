"""What has to hold after every drill. Each check returns problems, a line each; none is good."""

from __future__ import annotations

import json
import re
import signal
import statistics
from collections.abc import Set
from typing import Any

from tests.drills import processes, records
from tests.drills.records import Snapshot
from tests.drills.sweeps import CHECKPOINT_EVERY_S, Driver, Sweep

GONE_WITHIN_S = 20.0
SLACK_S = 2.0
"""Beside a checkpoint interval: writing a checkpoint, and until the harness has looked."""
_FIELDS_OF_FRONT = ("trial", "weights", "strength", "member", "validation", "values")
_STATUS = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_LOSSES = ("preference_loss", "reference_kl", "loss", "identity_distance")
_PLACE = {"step", "steps", "epoch", "epochs", "progress", "rung", "time_s", "attempt"}
_OF_RAY = re.compile(r"^\[[^\]]+ [CEF] \d+ \d+\].*\.cc:\d+|[Ss]tack trace|^\*\*\* ")
"""Errors and traces of Ray's C++."""
_LEFTOVERS = re.compile(r"^\..+|.*\.(new|part|tmp)$")


def check_trials(sweep: Sweep, snapshots: list[Snapshot]) -> list[str]:
    """No finished trial is lost, changed or repeated."""
    trials = records.trials(sweep)
    numbers = [trial["number"] for trial in trials]
    problems = [] if numbers == list(range(len(numbers))) else [f"trial numbers are {numbers}"]
    problems += [f"trial {trial['number']} is still running" for trial in trials if trial["state"] == "running"]
    by_number = {trial["number"]: trial for trial in trials}
    for snapshot in snapshots:
        for before in snapshot.ended:
            now = by_number.get(before["number"])
            if now is None:
                problems.append(f"trial {before['number']} is lost")
                continue
            changed = [name for name in records.ENDED_FIELDS if now.get(name) != before.get(name)]
            problems += [f"trial {before['number']}: {name} was changed" for name in changed]
    seeds = [trial["seed"] for trial in trials]
    if len(set(seeds)) != len(seeds):
        problems.append("two trials have the same seed")
    return problems


def check_redone(sweep: Sweep, snapshot: Snapshot, *, torn: Set[int] = frozenset()) -> tuple[int | None, list[str]]:
    """Return how many steps were done again, and problems where more than one checkpoint interval was.

    ``torn``: trials whose checkpoint the drill has destroyed.
    """
    steps, problems = 0, []
    for number, trial in snapshot.running.items():
        lines = records.metric_lines(sweep, number)
        later = [line for line in lines if line.get("attempt", 0) > trial.attempt]
        step_s = trial.step_s or _step_s(lines)
        if step_s is not None:
            steps += round(trial.undone_s / step_s)
        if number in torn:
            continue
        repeated = [line["step"] for line in later if line["step"] < trial.kept_step]
        if repeated:
            steps += trial.kept_step
            problems.append(
                f"trial {number} had a checkpoint of step {trial.kept_step} and did step {repeated[0]} again"
            )
        allowed_s = CHECKPOINT_EVERY_S + 2 * (step_s or 0.5) + 2 * trial.evaluation_s + SLACK_S
        if trial.kept_step > 0 and trial.undone_s > allowed_s:
            problems.append(
                f"trial {number}: {trial.undone_s:.1f} s since its last checkpoint, one interval is {allowed_s:.1f} s"
            )
    return (steps if snapshot.running else None), problems


def _step_s(lines: list[dict[str, Any]]) -> float | None:
    times = [line["train_s"] / line["step"] for line in lines if line["step"] > 0]
    return statistics.median(times) if times else None


def check_mlflow(sweep: Sweep, uri: str | None = None) -> list[str]:
    """One parent, one child per trial with its status, its goals and all metrics of its metric lines."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri or f"sqlite:///{sweep.place.storage}/mlflow.db")
    sweep_id = _sweep_id(sweep)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = list(client.search_runs(experiments, f"tags.`sweeper.sweep_id` = '{sweep_id}'", max_results=1000))
    children: dict[int, list[Any]] = {}
    for run in runs:
        if "sweeper.trial" in run.data.tags:
            children.setdefault(int(run.data.tags["sweeper.trial"]), []).append(run)
    parents = [run for run in runs if "sweeper.trial" not in run.data.tags]
    problems = [] if len(parents) == 1 else [f"MLflow has {len(parents)} parent runs"]
    problems += [f"MLflow: the parent is {run.info.status}" for run in parents if run.info.status != "FINISHED"]
    trials = {trial["number"]: trial for trial in records.trials(sweep)}
    problems += [f"MLflow: trial {number} is not in the study" for number in sorted(set(children) - set(trials))]
    for number, trial in trials.items():
        its_runs = children.get(number, [])
        if len(its_runs) != 1:
            problems.append(f"MLflow: trial {number} has {len(its_runs)} runs")
            continue
        problems += [
            f"MLflow: trial {number} {problem}" for problem in _run_problems(client, sweep, trial, its_runs[0])
        ]
    return problems


def _run_problems(client: Any, sweep: Sweep, trial: dict[str, Any], run: Any) -> list[str]:
    problems = []
    if run.info.status != _STATUS.get(trial["state"]):
        problems.append(f"is {run.info.status}, in the study {trial['state']}")
    for goal, value in (trial["values"] or {}).items():
        if abs(run.data.metrics.get(goal, float("nan")) - value) > 1e-9 or goal not in run.data.metrics:
            problems.append(f"has {goal} {run.data.metrics.get(goal)}, in the study {value}")
    history: dict[str, dict[int, set[float]]] = {}
    for line in records.metric_lines(sweep, trial["number"]):
        for name, value in _sent(line).items():
            if name not in history:
                history[name] = {}
                for metric in client.get_metric_history(run.info.run_id, name):
                    history[name].setdefault(metric.step, set()).add(metric.value)
            sent = history[name].get(line["step"])
            if sent is None:
                problems.append(f"lacks {name} of step {line['step']}")
            elif name.startswith("validation/") and not any(abs(other - value) < 1e-9 for other in sent):
                problems.append(f"has {name} {sorted(sent)} in step {line['step']}, its line says {value}")
    return problems[:5]


def _sent(line: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a metric line by their names in MLflow (sweeper/tracking/projection.py)."""
    sent = {}
    for name, value in line.items():
        if name in ("train_s", "evaluation_s", "checkpoint_s"):
            sent[f"time/{name}"] = value
        elif name in _LOSSES:
            sent[f"train/{name}"] = value
        elif name not in _PLACE:
            sent[f"validation/{name}"] = value
    return sent


def _sweep_id(sweep: Sweep) -> str:
    return str(json.loads((sweep.path / "sweep.json").read_text())["sweep_id"])


def check_same(sweep: Sweep, reference: dict[str, Any]) -> list[str]:
    """With one slot the sweep ends as the undisturbed one."""
    problems = []
    here, there = records.trials(sweep), reference["trials"]
    if len(here) != len(there):
        problems.append(f"{len(here)} trials, undisturbed {len(there)}")
    for trial, undisturbed in zip(here, there, strict=False):
        for name in ("parameters", "state", "stopped_at", "values", "points"):
            if trial[name] != undisturbed[name]:
                problems.append(f"trial {trial['number']}: {name} is not that of the undisturbed sweep")
    if front_of(sweep) != reference["front"]:
        problems.append("the front is not that of the undisturbed sweep")
    return problems


def front_of(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the front's points without what a sweep's name or folder is part of."""
    return [{name: point.get(name) for name in _FIELDS_OF_FRONT} for point in sweep.front()]


def check_words(sweep: Sweep) -> list[str]:
    """No driver shows a traceback, and each that ended early says how to go on."""
    problems = []
    for number, driver in enumerate(sweep.drivers, 1):
        said, by_kill = driver.err(), driver.ended_by_us
        if "Traceback (most recent call last)" in said:
            last = [line for line in said.splitlines() if line.strip()][-1]
            problems.append(f"driver {number} (exit {driver.code}) shows a traceback; last line: {last[:160]}")
        raw = [line for line in said.splitlines() if _OF_RAY.search(line)]
        if raw:
            problems.append(f"driver {number} (exit {driver.code}) shows {len(raw)} lines of Ray's: {raw[0][:120]}")
        early = driver.code is not None and (driver.code < 0 or driver.code in (3, 130, *_SIGNALLED))
        if early and not by_kill and f"sweeper resume {sweep.name}" not in said:
            problems.append(f"driver {number} (exit {driver.code}) does not say how to go on")
        if driver.code == 1 and number > 1 and not by_kill:  # of the first the drill says what is allowed
            problems.append(f"driver {number} ended with exit code 1")
    return problems


_SIGNALLED = tuple(128 + number for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL, signal.SIGABRT))


def check_left(sweep: Sweep, memory_before: set[str]) -> list[str]:
    """Nothing is left: processes, half-written files, the lease, shared memory."""
    problems = [
        f"still there after {GONE_WITHIN_S:g} s: {left}" for left in processes.survivors(sweep.mark, GONE_WITHIN_S)
    ]
    folders = (path for path in sweep.path.rglob("*") if "ray" not in path.relative_to(sweep.path).parts[:1])
    left = [str(path.relative_to(sweep.path)) for path in folders if _LEFTOVERS.match(path.name)]
    problems += [f"left: {path}" for path in left]
    if (sweep.path / "lease.json").exists():
        problems.append("left: lease.json")
    memory = processes.unused(processes.shared_memory() - memory_before)
    return problems + [f"left in shared memory: {name}" for name in memory]


def driver_ends(driver: Driver, allowed: tuple[int, ...]) -> list[str]:
    """Return a problem where a driver's exit code is none of the allowed."""
    if driver.code in allowed or driver.ended_by_us:
        return []
    return [f"exit code {driver.code}, not {' or '.join(map(str, allowed))}"]

"""State and trials of a sweep as rows and text, read only from the records on disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.cli.tables import Row, as_table
from sweeper.errors import UnavailableError, UserError
from sweeper.front.advice import advice
from sweeper.front.load import load_front
from sweeper.front.rendering.table import summary
from sweeper.layout import wrapped
from sweeper.records import Front, FrontPoint, TrialRecord
from sweeper.run.budget import Usage
from sweeper.run.floor_text import sweep_floor_line
from sweeper.run.progress import describe
from sweeper.run.usage_file import read_usage
from sweeper.run.usage_text import forecast_line, usage_line, value_lines
from sweeper.search.floor_files import load_floor, planned_trials
from sweeper.search.noise_floor import NoiseFloor
from sweeper.search.study import read_trials, searched
from sweeper.spec.quantities import HOUR_S, Price, duration, parse_budget
from sweeper.spec.spec import Spec
from sweeper.storage.disk_use import disk_line, disk_use
from sweeper.storage.files import storage_in_reach
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.runs import find_runs, find_store
from trainables.records import Goals, Report


def sweep_row(folder: SweepFolder, spec: Spec, price: Price | None = None) -> Row:
    """Return a sweep's row of `list`.

    Args:
        price: price of a device hour, instead of the sweep's own.
    """
    trials = read_trials(folder, spec)
    front = load_front(folder, spec, trials)
    knee = next((point for point in front.points if point.name == "knee"), None) if front else None
    return {
        "name": folder.name,
        "state": _state(folder, spec, trials),
        "finished": searched(trials),
        "trials": spec.search.trials,
        "failed": sum(trial.state == "failed" for trial in trials),
        **_cost_fields(folder, spec, trials, _usage(folder, price)),
        "hypervolume": round(front.hypervolume, 4) if front else None,
        **{
            f"knee_{goal.short}": round(knee.validation[goal.metric], 4) if knee else None for goal in spec.task_goals()
        },
    }


def status_text(folder: SweepFolder, spec: Spec, price: Price | None = None) -> str:
    """Return the text of `status`.

    Args:
        price: price of a device hour, instead of the sweep's own.
    """
    trials = read_trials(folder, spec)
    search = [trial for trial in trials if trial.confirms is None]
    counts = {state: sum(trial.state == state for trial in search) for state in ("complete", "failed", "stopped")}
    unfinished = sum(trial.state == "running" for trial in trials)
    state = _state(folder, spec, trials)
    lines = [f"{folder.name}: {state}" + (f", by {folder.holder()}" if state == "running" else "")]
    lines.append(
        f"trials: {counts['complete']} complete, {counts['failed']} failed, {counts['stopped']} stopped, "
        f"{unfinished} {'running' if state == 'running' else 'unfinished'}, of {spec.search.trials}"
    )
    if len(search) < len(trials):
        ended = sum(trial.state != "running" for trial in trials) - searched(trials)
        lines.append(f"confirm phase: {ended} of {len(trials) - len(search)} re-trainings begun have ended")
    front, usage = load_front(folder, spec, trials), _usage(folder, price)
    lines += _cost_text(usage, spec, trials, front)
    forecast = forecast_line(usage)
    if state == "running" and forecast is not None:
        ago_s = max(0.0, time.time() - usage.updated_at_s)
        lines.append(f"forecast: {forecast} with {usage.sessions[-1].devices} ({duration(ago_s)} ago)")
    lines += _floor_text(folder, spec, trials)
    lines.append(disk_line(disk_use(folder.path)))
    if front is not None:
        lines.append(wrapped(summary(front)))
        names = (front.goals[0].best, "knee", front.goals[1].best)
        lines += [f"  {_named(front, name)}" for name in names if _named(front, name)]
    lines += [wrapped(f"  trial {trial.number} failed: {trial.reason}") for trial in trials if trial.state == "failed"]
    if state in ("unfinished", "interrupted"):
        lines.append(f"go on with: {folder.command('resume', *_tracked(folder))}")
    return "\n".join(lines)


def front_notes(folder: SweepFolder, spec: Spec, price: Price | None = None) -> list[str]:
    """Return the lines of `front` below the points of a sweep: its cost, its noise floor, and advice."""
    trials, untouched = read_trials(folder, spec), folder.untouched()
    front = load_front(folder, spec, trials)
    lines = [*_cost_text(_usage(folder, price), spec, trials, front), *_floor_text(folder, spec, trials)]
    if front is not None and untouched is not None:
        lines += [wrapped(line) for line in advice(spec, front, trials, untouched, folder.storage)]
    return lines


def floor_fields(folder: SweepFolder, spec: Spec) -> Row:
    """Return the noise floor, for scripts; None if not known."""
    floor = load_floor(folder, spec, read_trials(folder, spec))
    known = floor if isinstance(floor, NoiseFloor) else None
    return {
        "noise_floor_gain": None if known is None else round(known.gain, 6),
        "noise_floor_standard_error": None if known is None else round(known.standard_error, 6),
        "noise_floor_reached": None if known is None else known.reached,
    }


def trial_rows(folder: SweepFolder, spec: Spec) -> list[Row]:
    """Return a row for each trial. Trials that have not ended show their last report, and its epochs."""
    rows: list[Row] = []
    live = folder.is_held()
    trials, goals = read_trials(folder, spec), [goal.metric for goal in spec.task_goals()]
    parameters = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    for trial in trials:
        latest = _latest(folder, trial) if trial.state == "running" else None
        values = trial.values or ({} if latest is None else latest.values)
        row: Row = {"trial": trial.number, "state": _state_of(trial, live=live), "baseline": trial.baseline}
        row["first_point"] = trial.first_point
        row["confirms"] = trial.confirms
        row |= {goal: _rounded(values.get(goal)) for goal in goals}
        row["epoch"] = None if latest is None else _rounded(latest.epoch, 2)
        row["duration_s"], row["cost_s"] = _rounded(trial.duration_s, 1), _rounded(trial.cost_s, 1)
        row |= {name: _rounded(trial.parameters.get(name), 6) for name in parameters}
        row["reason"] = trial.reason
        rows.append(row)
    return rows


def narrow_trial_rows(folder: SweepFolder, spec: Spec) -> list[Row]:
    """Return ``trial_rows`` in six columns: goals by their short names, parameters in one text."""
    goals = spec.task_goals()
    rows: list[Row] = []
    for row, trial in zip(trial_rows(folder, spec), read_trials(folder, spec), strict=True):
        about = describe(trial.parameters)
        for note in (trial.baseline, None if trial.confirms is None else f"trial {trial.confirms} again"):
            about = about if note is None else f"{note}: {about}"
        shown: Row = {"trial": trial.number, "state": row["state"]}
        shown |= {goal.short: _three_digits(row[goal.metric]) for goal in goals}
        rows.append(shown | {"epoch": row["epoch"], "parameters": about if trial.reason is None else trial.reason})
    return rows


def narrow_sweep_row(row: Row) -> Row:
    """Return a row of ``sweep_row`` in six columns."""
    knee = [f"{value:.3f}" for name, value in row.items() if name.startswith("knee_") and isinstance(value, float)]
    cost = None if row.get("device_h") is None else f"{row['device_h']:.3g} {row['device']}-h"
    return {
        "name": row["name"],
        "state": row["state"],
        "trials": None if row.get("trials") is None else f"{row['finished']}/{row['trials']}",
        "failed": row.get("failed") or None,
        "knee": " / ".join(knee) or None,
        "cost": cost,
    }


def trial_text(folder: SweepFolder, spec: Spec, number: int) -> str:
    """Return the text of `show` for a trial.

    Raises:
        UserError: the trial does not exist.
    """
    trials, goals = read_trials(folder, spec), spec.task_goals()
    if number >= len(trials):
        raise UserError(f"sweep {folder.name} has no trial {number}; it has {len(trials)} so far")
    trial, files = trials[number], folder.trial(number)
    with _damage_named(files.path):
        attempts, reports = files.last_attempt(), list(files.reports().values())
    state = _state_of(trial, live=folder.is_held())
    lines = [f"trial {number} of {folder.name}: {state}" + (f" ({trial.baseline})" if trial.baseline else "")]
    if trial.state == "running" and reports:
        latest = list(reports)[-1]
        goals_now = ", ".join(
            f"{goal.short} {latest.values[goal.metric]:.3f}" for goal in goals if goal.metric in latest.values
        )
        lines.append(f"after {latest.epoch:g} of {latest.epochs} epochs: {goals_now} (validation)")
    if trial.first_point is not None:
        lines.append(f"first point: {trial.first_point}")
    if trial.confirms is not None:
        lines.append(f"trains trial {trial.confirms} again, with another seed")
    if trial.reason is not None:
        lines.append(f"reason: {trial.reason}")
    lines += [
        "parameters:",
        *(f"  {name}: {value}" for name, value in trial.parameters.items()),
        f"  seed: {trial.seed}",
    ]
    lines.append(f"attempts: {attempts}, folder: {files.path}")
    if reports:
        lines += ["epochs (goals on validation):", as_table([_epoch_row(report, goals) for report in reports])]
    front = load_front(folder, spec, trials)
    points = [point for point in (*front.points, *front.others) if point.trial == number] if front else []
    if points:
        points.sort(key=lambda point: (point.weights, point.strength))
        lines += ["points (validation; test if measured):", as_table([_point_row(point, goals) for point in points])]
    log = files.path / "log.txt"
    if trial.state == "failed" and log.exists():
        with _damage_named(files.path):
            text = log.read_text(errors="replace")
        lines += ["end of the log:", *("  " + line for line in text.splitlines()[-30:])]
    return "\n".join(lines).rstrip()


def _epoch_row(report: Report, goals: Goals) -> Row:
    seconds: Row = {"train_s": f"{report.train_s:.1f}", "evaluation_s": f"{report.evaluation_s:.1f}"}
    return {
        "epoch": f"{report.epoch:.3g}",
        "loss": None if report.loss is None else f"{report.loss:.4f}",
        "KL": None if report.reference_kl is None else f"{report.reference_kl:.4f}",
        **{goal.short: _three_digits(report.values.get(goal.metric)) for goal in goals},
        **seconds,
    }


def _point_row(point: FrontPoint, goals: Goals) -> Row:
    return {
        "weights": point.weights,
        "strength": f"{point.strength:g}",
        "front": "yes" if point.member else "no",
        **{goal.short: _three_digits(point.validation.get(goal.metric)) for goal in goals},
        **{f"test {goal.short}": _three_digits((point.values or {}).get(goal.metric)) for goal in goals},
    }


def _state_of(trial: TrialRecord, *, live: bool) -> str:
    """Return the state of a trial for display.

    Args:
        live: whether a process runs the sweep; otherwise no trial runs.
    """
    return "unfinished" if trial.state == "running" and not live else trial.state


def _latest(folder: SweepFolder, trial: TrialRecord) -> Report | None:
    """Return the last report of a trial; None if there is none, or if its file is damaged or cannot be reached."""
    with contextlib.suppress(UserError, UnavailableError):
        files = folder.trial(trial.number)
        with _damage_named(files.path):
            return next(reversed(files.reports().values()), None)
    return None


@contextlib.contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
    """Convert errors of reading a trial's files.

    Raises:
        UserError: a file of the trial is damaged.
        UnavailableError: the storage fails.
    """
    try:
        with storage_in_reach():
            yield
    except (UserError, UnavailableError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: a file of the trial is damaged: {error!r}") from error


def _usage(folder: SweepFolder, price: Price | None) -> Usage:
    usage = read_usage(folder)
    return usage if price is None else replace(usage, price=price)


def _cost_text(usage: Usage, spec: Spec, trials: list[TrialRecord], front: Front | None) -> list[str]:
    if not usage.sessions:
        return []
    budget = None if spec.limits.budget is None else parse_budget(spec.limits.budget)
    hypervolume = None if front is None else front.hypervolume_of_accuracies()
    lines = [f"cost: {usage_line(usage, trials, budget)}", *value_lines(usage, trials, hypervolume)]
    return [wrapped(line) for line in lines]


def _floor_text(folder: SweepFolder, spec: Spec, trials: list[TrialRecord]) -> list[str]:
    line = sweep_floor_line(folder, spec, trials)
    return [] if line is None else [wrapped(line)]


def _state(folder: SweepFolder, spec: Spec, trials: list[TrialRecord]) -> str:
    if folder.is_held():
        return "running"
    goes_on = any(trial.state == "running" for trial in trials) or searched(trials) < planned_trials(
        folder, spec, trials
    )
    return "unfinished" if goes_on else "complete"


def _cost_fields(folder: SweepFolder, spec: Spec, trials: list[TrialRecord], usage: Usage) -> Row:
    """Return device hours so far, and money if there is a price; the forecast while the sweep runs."""
    device_hours = {name: round(value, 4) for name, value in usage.device_hours(trials).items()}
    forecast = usage.forecast if folder.is_held() else None
    return {
        "device": usage.device if usage.sessions else None,
        "device_h": device_hours.get("device_h"),
        "saved_device_h": device_hours.get("saved_device_h"),
        "saved_by_noise_floor_device_h": device_hours.get("saved_by_noise_floor_device_h"),
        "price": None if usage.price is None else str(usage.price),
        "money": None if usage.price is None else round(usage.price.amount * usage.device_s / HOUR_S, 4),
        "budget": spec.limits.budget,
        "forecast_device_h": None if forecast is None else round(forecast.device_s / 3600, 4),
        "forecast_left_s": None if forecast is None else round(forecast.left_s, 1),
    }


def _tracked(folder: SweepFolder) -> tuple[str, ...]:
    """Return the option for the MLflow store with the sweep's runs, if a command would use another store."""
    runs = find_runs(folder.path)
    if runs is None or runs.uri == find_store(folder.storage).shown_uri:
        return ()
    return ("--tracking-uri", runs.uri)


def _named(front: Front, name: str) -> str | None:
    point = next((point for point in front.points if point.name == name), None)
    if point is None:
        return None
    goals = ", ".join(f"{goal.short} {point.validation[goal.metric]:.3f}" for goal in front.goals)
    return f"{name}: trial {point.trial} at strength {point.strength:g}, {goals} (validation)"


def _three_digits(value: object) -> str | None:
    return f"{value:.3f}" if isinstance(value, float) else None


def _rounded(value: Any, digits: int = 4) -> Any:
    return round(value, digits) if isinstance(value, float) else value

"""Sweeps and their trials as rows, read only from the records on disk: for the command line and the Python API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.errors import UnavailableError, UserError, one_line
from sweeper.front.load import load_front
from sweeper.records import Front, FrontPoint, TrialRecord
from sweeper.run.budget import Usage
from sweeper.run.usage_file import read_usage
from sweeper.search.floor_files import load_floor, planned_trials
from sweeper.search.noise_floor import NoiseFloor
from sweeper.search.study import read_trials, searched
from sweeper.spec.quantities import HOUR_S, Price
from sweeper.spec.spec import Spec
from sweeper.storage.files import storage_in_reach
from sweeper.storage.remote_storage import remote_storage
from sweeper.storage.sweep_folder import SweepFolder, names
from trainables.files import storage_problem
from trainables.records import Report

Row = dict[str, object]

SWEEP_COLUMNS = (
    "name",
    "state",
    "finished",
    "trials",
    "failed",
    "device",
    "device_h",
    "saved_device_h",
    "saved_by_noise_floor_device_h",
    "price",
    "money",
    "budget",
    "forecast_device_h",
    "forecast_left_s",
    "hypervolume",
)
"""Keys of every sweep's row, before the goals of the knee; unreadable sweeps have no values but the first two."""


def sweep_rows(
    storage: Path, open_sweep: Callable[[str], tuple[SweepFolder, Spec]], problem: Callable[[str], None]
) -> list[Row]:
    """Return a row with the same keys for each sweep of a storage, oldest first.

    Args:
        open_sweep: opens a sweep by its name.
        problem: takes a line for each sweep that cannot be read.
    """
    rows: list[Row] = []
    remote = remote_storage(storage)
    for name in names(storage) if remote is None else remote.names():
        try:
            rows.append(sweep_row(*open_sweep(name)))
        except Exception as error:  # the other sweeps are shown whatever is wrong with this one
            known = isinstance(error, UserError | UnavailableError)
            said = str(error).splitlines()[0] if known else storage_problem(error) or one_line(error)
            rows.append({"name": name, "state": "unreadable"})
            problem(f"{name}: {said}")
    columns = dict.fromkeys([*(SWEEP_COLUMNS if rows else ()), *(key for row in rows for key in row)])
    return [{key: row.get(key) for key in columns} for row in rows]


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
        "state": sweep_state(folder, spec, trials, front),
        "finished": searched(trials),
        "trials": spec.search.trials,
        "failed": sum(trial.state == "failed" for trial in trials),
        **_cost_fields(folder, spec, trials, usage_at(folder, price)),
        "hypervolume": round(front.hypervolume, 4) if front else None,
        **{
            f"knee_{goal.short}": round(knee.validation[goal.metric], 4) if knee else None for goal in spec.task_goals()
        },
    }


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
        row: Row = {"trial": trial.number, "state": trial_state(trial, live=live), "baseline": trial.baseline}
        row["first_point"] = trial.first_point
        row["confirms"] = trial.confirms
        row |= {goal: _rounded(values.get(goal)) for goal in goals}
        row["epoch"] = None if latest is None else _rounded(latest.epoch, 2)
        row["duration_s"], row["cost_s"] = _rounded(trial.duration_s, 1), _rounded(trial.cost_s, 1)
        row |= {name: _rounded(trial.parameters.get(name), 6) for name in parameters}
        row["reason"] = trial.reason
        rows.append(row)
    return rows


def trial_record(folder: SweepFolder, spec: Spec, number: int) -> dict[str, Any]:
    """Return one trial for programs: its state, parameters, reports (``epochs``) and points of the front's table.

    Raises:
        UserError: the trial does not exist, or one of its files is damaged.
    """
    trials = read_trials(folder, spec)
    trial = existing_trial(folder, trials, number)
    files = folder.trial(number)
    with damage_named(files.path):
        attempts, reports = files.last_attempt(), list(files.reports().values())
    points = front_points(load_front(folder, spec, trials), number)
    return {
        "trial": number,
        "state": trial_state(trial, live=folder.is_held()),
        "baseline": trial.baseline,
        "first_point": trial.first_point,
        "confirms": trial.confirms,
        "reason": trial.reason,
        "parameters": trial.parameters,
        "seed": trial.seed,
        "attempts": attempts,
        "folder": str(files.path),
        "epochs": [_report_row(report) for report in reports],
        "points": [
            {
                "weights": point.weights,
                "strength": point.strength,
                "member": point.member,
                "validation": point.validation,
                "test": point.values,
            }
            for point in points
        ],
    }


def existing_trial(folder: SweepFolder, trials: Sequence[TrialRecord], number: int) -> TrialRecord:
    """Return a trial by its number.

    Raises:
        UserError: the trial does not exist.
    """
    if number >= len(trials):
        raise UserError(f"sweep {folder.name} has no trial {number}; it has {len(trials)} so far")
    return trials[number]


def front_points(front: Front | None, number: int) -> list[FrontPoint]:
    """Return the points of a trial in the front's table, by weights and strength."""
    points = [] if front is None else [point for point in (*front.points, *front.others) if point.trial == number]
    return sorted(points, key=lambda point: (point.weights, point.strength))


def sweep_state(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord], front: Front | None) -> str:
    """Return ``running``, ``unfinished`` or ``complete``.

    A sweep is complete when its trials have ended and its front is measured on test.
    """
    if folder.is_held():
        return "running"
    goes_on = (
        any(trial.state == "running" for trial in trials)
        or searched(trials) < planned_trials(folder, spec, trials)
        or front is None
        or any(point.values is None for point in front.points)
    )
    return "unfinished" if goes_on else "complete"


def trial_state(trial: TrialRecord, *, live: bool) -> str:
    """Return the state of a trial for display.

    Args:
        live: whether a process runs the sweep; otherwise no trial runs.
    """
    return "unfinished" if trial.state == "running" and not live else trial.state


def usage_at(folder: SweepFolder, price: Price | None) -> Usage:
    """Return the recorded usage; with ``price``, at this price of a device hour instead of the sweep's own."""
    usage = read_usage(folder)
    return usage if price is None else replace(usage, price=price)


@contextlib.contextmanager
def damage_named(folder: Path) -> Iterator[None]:
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


def _latest(folder: SweepFolder, trial: TrialRecord) -> Report | None:
    """Return the last report of a trial; None if there is none, or if its file is damaged or cannot be reached."""
    with contextlib.suppress(UserError, UnavailableError):
        files = folder.trial(trial.number)
        with damage_named(files.path):
            return next(reversed(files.reports().values()), None)
    return None


def _report_row(report: Report) -> Row:
    return {
        "step": report.step,
        "epoch": report.epoch,
        "loss": report.loss,
        "preference_loss": report.preference_loss,
        "reference_kl": report.reference_kl,
        **report.values,
        "train_s": report.train_s,
        "evaluation_s": report.evaluation_s,
        "checkpoint_s": report.checkpoint_s,
    }


def _cost_fields(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord], usage: Usage) -> Row:
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


def _rounded(value: Any, digits: int = 4) -> Any:
    return round(value, digits) if isinstance(value, float) else value

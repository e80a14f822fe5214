"""Text about one sweep or trial for the command line, and rows that fit a terminal."""

from __future__ import annotations

from sweeper.cli.tables import as_table
from sweeper.front.advice import advice
from sweeper.front.load import load_front
from sweeper.layout import wrapped
from sweeper.records import FrontPoint
from sweeper.run.listing import (
    Row,
    damage_named,
    existing_trial,
    front_points,
    trial_rows,
    trial_state,
    usage_at,
)
from sweeper.run.progress import describe
from sweeper.run.status_text import cost_lines, floor_lines
from sweeper.search.study import read_trials
from sweeper.spec.quantities import Price
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Goals, Report


def front_notes(folder: SweepFolder, spec: Spec, price: Price | None = None) -> list[str]:
    """Return the lines of `front` below the points of a sweep: its cost, its noise floor, and advice."""
    trials, untouched = read_trials(folder, spec), folder.untouched()
    front = load_front(folder, spec, trials)
    lines = [*cost_lines(usage_at(folder, price), spec, trials, front), *floor_lines(folder, spec, trials)]
    if front is not None and untouched is not None:
        lines += [wrapped(line) for line in advice(spec, front, trials, untouched, folder.storage)]
    return lines


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
    trial, files = existing_trial(folder, trials, number), folder.trial(number)
    with damage_named(files.path):
        attempts, reports = files.last_attempt(), list(files.reports().values())
    state = trial_state(trial, live=folder.is_held())
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
    points = front_points(load_front(folder, spec, trials), number)
    if points:
        lines += ["points (validation; test if measured):", as_table([_point_row(point, goals) for point in points])]
    log = files.path / "log.txt"
    if trial.state == "failed" and log.exists():
        with damage_named(files.path):
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


def _three_digits(value: object) -> str | None:
    return f"{value:.3f}" if isinstance(value, float) else None

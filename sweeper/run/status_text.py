"""The text of `sweeper status` and the lines about cost and noise floor, read only from the records on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sweeper.front.load import load_front
from sweeper.front.rendering.table import summary
from sweeper.layout import wrapped
from sweeper.records import Front, TrialRecord
from sweeper.run.budget import Usage
from sweeper.run.floor_text import sweep_floor_line
from sweeper.run.listing import sweep_state, usage_at
from sweeper.run.usage_text import forecast_line, usage_line, value_lines
from sweeper.search.study import read_trials, searched
from sweeper.spec.quantities import Price, duration, parse_budget
from sweeper.spec.spec import Spec
from sweeper.storage.disk_use import disk_line, disk_use
from sweeper.storage.sweep_folder import SweepFolder
from sweeper.tracking.runs import find_runs, find_store


def status_text(folder: SweepFolder, spec: Spec, price: Price | None = None) -> str:
    """Return the text of `status`.

    Args:
        price: price of a device hour, instead of the sweep's own.
    """
    trials = read_trials(folder, spec)
    search = [trial for trial in trials if trial.confirms is None]
    counts = {state: sum(trial.state == state for trial in search) for state in ("complete", "failed", "stopped")}
    unfinished = sum(trial.state == "running" for trial in trials)
    front, usage = load_front(folder, spec, trials), usage_at(folder, price)
    state = sweep_state(folder, spec, trials, front)
    lines = [f"{folder.name}: {state}" + (f", by {folder.holder()}" if state == "running" else "")]
    lines.append(
        f"trials: {counts['complete']} complete, {counts['failed']} failed, {counts['stopped']} stopped, "
        f"{unfinished} {'running' if state == 'running' else 'unfinished'}, of {spec.search.trials}"
    )
    if len(search) < len(trials):
        ended = sum(trial.state != "running" for trial in trials) - searched(trials)
        lines.append(f"confirm phase: {ended} of {len(trials) - len(search)} re-trainings begun have ended")
    lines += cost_lines(usage, spec, trials, front)
    forecast = forecast_line(usage)
    if state == "running" and forecast is not None:
        ago_s = max(0.0, time.time() - usage.updated_at_s)
        lines.append(f"forecast: {forecast} with {usage.sessions[-1].devices} ({duration(ago_s)} ago)")
    lines += floor_lines(folder, spec, trials)
    lines.append(disk_line(disk_use(folder.path)))
    if front is not None:
        lines.append(wrapped(summary(front)))
        names = (front.goals[0].best, "knee", front.goals[1].best)
        lines += [f"  {_named(front, name)}" for name in names if _named(front, name)]
    lines += [wrapped(f"  trial {trial.number} failed: {trial.reason}") for trial in trials if trial.state == "failed"]
    if state in ("unfinished", "interrupted"):
        lines.append(f"go on with: {folder.command('resume', *_tracked(folder))}")
    return "\n".join(lines)


def cost_lines(usage: Usage, spec: Spec, trials: Sequence[TrialRecord], front: Front | None) -> list[str]:
    """Return the lines about the cost; none before the first session."""
    if not usage.sessions:
        return []
    budget = None if spec.limits.budget is None else parse_budget(spec.limits.budget)
    hypervolume = None if front is None else front.hypervolume_of_accuracies()
    lines = [f"cost: {usage_line(usage, trials, budget)}", *value_lines(usage, trials, hypervolume)]
    return [wrapped(line) for line in lines]


def floor_lines(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> list[str]:
    """Return the line about the noise floor; none before it is known."""
    line = sweep_floor_line(folder, spec, trials)
    return [] if line is None else [wrapped(line)]


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

"""Training a trial of a sweep again, alone and in this process, to check whether its result is reproduced."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.environment import device_named
from sweeper.errors import UserError
from sweeper.models.model_card import validation_intervals
from sweeper.records import TrialRecord, goals_among
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Goals, Report
from trainables.tasks.known import TrialSettings, install_code, open_context, read_trial_settings

if TYPE_CHECKING:
    import torch

    from trainables.context.trial_context import TrialContext

Values = dict[str, float]
Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """Goals on validation, strength 1, last weights: recorded in the sweep, and measured again."""

    sweep: str
    trial: int
    state: str
    """State of the trial in the sweep."""
    seed: int
    recorded: Values | None
    """None if the trial did not finish."""
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals of ``recorded``."""
    again: Values
    """Goals with the trial's own seed."""
    other_seeds: dict[int, Values]

    @property
    def reproduced(self) -> bool | None:
        """Return whether every goal lies in its interval; None if nothing was recorded."""
        if self.recorded is None:
            return None
        return all(low <= self.again[goal] <= high for goal, (low, high) in self.intervals.items())

    def rows(self) -> list[Row]:
        """Return a row for each goal."""
        rows: list[Row] = []
        for goal in self.again:
            low, high = self.intervals.get(goal, (None, None))
            row: Row = {"goal": goal, "recorded": None if self.recorded is None else self.recorded[goal]}
            row |= {"low": low, "high": high, "again": self.again[goal], "inside": None}
            if low is not None and high is not None:
                row["inside"] = low <= self.again[goal] <= high
            rows.append(row | {f"seed {seed}": values[goal] for seed, values in self.other_seeds.items()})
        return rows

    def conclusion(self) -> str:
        """Return one or two sentences on whether the result was reproduced."""
        if self.recorded is None:
            first = f"Trial {self.trial} is {self.state} in sweep {self.sweep}: there is no result to compare with."
        else:
            apart = max(abs(self.again[goal] - self.recorded[goal]) for goal in self.again)
            if apart == 0:
                first = "Reproduced exactly: the same seed gives the recorded values."
            elif self.reproduced:
                first = f"Reproduced: the same seed lies inside the 95 % intervals, at most {apart:.4f} apart."
            else:
                outside = [row["goal"] for row in self.rows() if not row["inside"]]
                first = f"NOT reproduced: {' and '.join(map(str, outside))} outside the 95 % interval, "
                first += f"at most {apart:.4f} apart."
        return " ".join([first, *(self._spread(goal) for goal in self.again if self.other_seeds)])

    def _spread(self, goal: str) -> str:
        values = [goals[goal] for goals in self.other_seeds.values()]
        mean = sum(values) / len(values)
        count = f"{len(values)} other seed{'' if len(values) == 1 else 's'}"
        return f"{goal} over {count}: mean {mean:.4f}, from {min(values):.4f} to {max(values):.4f}."

    def as_json(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep,
            "trial": self.trial,
            "state": self.state,
            "seed": self.seed,
            "recorded": self.recorded,
            "intervals": self.intervals,
            "again": self.again,
            "other_seeds": self.other_seeds,
            "reproduced": self.reproduced,
            "conclusion": self.conclusion(),
        }


def rerun_trial(
    folder: SweepFolder, spec: Spec, number: int, *, seeds: int, device: str | None, echo: Callable[[str], None]
) -> Rerun:
    """Train the trial with its own seed and with the ``seeds`` seeds that follow it, in a temporary folder.

    Raises:
        UserError: the trial does not exist, its model or images cannot be loaded, or it fails again.
    """
    from trainables.numerics import flushed_denormals

    record = _record(folder, spec, number)
    path = folder.trial(number).path / "trial.json"
    if not path.exists():
        raise UserError(f"trial {number} of sweep {folder.name} has not begun: {path} is missing")
    trial = read_trial_settings(json.loads(path.read_text()))
    on, goals = device_named(device), spec.task_goals()
    try:
        echo(f"preparing {', '.join(trial.task.sets)} for {trial.task.model.architecture} on {on}")
        install_code(trial)
        with flushed_denormals():
            context = open_context(trial.task, data_seed=trial.data_seed, cache=folder.cache_path, device=on)
            for line in _differences(folder, context, on):
                echo(line)
            again = _train(context, trial, trial.seed, goals, echo)
            others = {
                seed: _train(context, trial, seed, goals, echo)
                for seed in range(trial.seed + 1, trial.seed + 1 + seeds)
            }
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"trial {number} cannot be run again: {error}") from error
    recorded = None if record.values is None else goals_among(record.values, goals)
    images = context.data.validation_images()
    return Rerun(
        sweep=folder.name,
        trial=number,
        state=record.state,
        seed=trial.seed,
        recorded=recorded,
        intervals=validation_intervals(recorded or {}, images, goals),
        again=again,
        other_seeds=others,
    )


def _record(folder: SweepFolder, spec: Spec, number: int) -> TrialRecord:
    trials: Sequence[TrialRecord] = read_trials(folder, spec)
    if number >= len(trials):
        raise UserError(f"sweep {folder.name} has no trial {number}; it has {len(trials)} so far")
    return trials[number]


def _differences(folder: SweepFolder, context: TrialContext, device: torch.device) -> list[str]:
    """Return a line for each difference that may prevent the same result."""
    before = folder.untouched()
    if before is None:
        return []
    digests = (
        ("weights digest", before.weights_digest, context.clip.digest),
        ("data digest", before.data_digest, context.data.digest()),
    )
    lines = [
        f"warning: {what} was {digest_before[:12]} and is now {digest[:12]}: model or images changed"
        for what, digest_before, digest in digests
        if digest_before != digest
    ]
    if before.device is not None and (before.device == "cpu") != (device.type == "cpu"):
        lines.append(f"note: the sweep ran on {before.device}, this runs on {device}: sums round differently")
    return lines


def _train(context: TrialContext, trial: TrialSettings, seed: int, goals: Goals, echo: Callable[[str], None]) -> Values:
    from trainables.training.hooks import Hooks
    from trainables.training.trial import run_trial
    from trainables.training.trial_folder import TrialFolder

    def on_report(report: Report) -> None:
        values = "  ".join(f"{goal.short} {report.values[goal.metric]:.3f}" for goal in goals)
        echo(f"seed {seed}  epoch {report.epoch}/{report.epochs}  loss {report.loss:.4f}  {values} (validation)")

    with tempfile.TemporaryDirectory() as scratch:
        folder, hooks = TrialFolder(Path(scratch)), Hooks(report=on_report)
        result = run_trial(context, trial.parameters, seed=seed, folder=folder, hooks=hooks)
    return goals_among(result.values, goals)

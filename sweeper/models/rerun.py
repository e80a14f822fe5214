"""Training a trial of a sweep again, alone and in this process, to check whether its result is reproduced."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.environment import device_named
from sweeper.errors import UserError
from sweeper.models.model_card import validation_intervals
from sweeper.records import TrialRecord, goals_among
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.files import replace_file
from trainables.records import Goals, Report
from trainables.tasks.known import TrialSettings, install_code, open_context, read_trial_settings
from trainables.training.trial_folder import WEIGHTS_FILE

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
    kept_weights: bool | None = None
    """Whether the weights of ``again`` are in the trial's folder now; None if nobody asked for them."""

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
        if self.kept_weights is not None:
            first += " The weights are in the sweep again." if self.kept_weights else " The weights are not kept."
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
            "kept_weights": self.kept_weights,
            "conclusion": self.conclusion(),
        }


def rerun_trial(
    folder: SweepFolder,
    spec: Spec,
    number: int,
    *,
    seeds: int,
    device: str | None,
    echo: Callable[[str], None],
    keep_weights: bool = False,
) -> Rerun:
    """Train the trial with its own seed and with the ``seeds`` seeds that follow it, in a temporary folder.

    Args:
        keep_weights: put the weights of its own seed into the trial's folder, if they reproduce the result.

    Raises:
        UserError: the trial does not exist, its model or images cannot be loaded, it fails again, or the sweep has the
            weights that are to be kept.
    """
    from trainables.numerics import flushed_denormals

    record = _record(folder, spec, number)
    path = folder.trial(number).path / "trial.json"
    if not path.exists():
        raise UserError(f"trial {number} of sweep {folder.name} has not begun: {path} is missing")
    if keep_weights:
        _check_weights_are_missing(folder, record)
    trial = read_trial_settings(json.loads(path.read_text()))
    on, goals = device_named(device), spec.task_goals()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            echo(f"preparing {', '.join(trial.task.sets)} for {trial.task.model.architecture} on {on}")
            install_code(trial)
            with flushed_denormals():
                context = open_context(trial.task, data_seed=trial.data_seed, cache=folder.cache_path, device=on)
                for line in _differences(folder, context, on):
                    echo(line)
                again, *others = (
                    _train(context, trial, seed, goals, echo, Path(scratch) / str(seed))
                    for seed in range(trial.seed, trial.seed + 1 + seeds)
                )
        except (ValueError, ArithmeticError) as error:
            raise UserError(f"trial {number} cannot be run again: {error}") from error
        recorded = None if record.values is None else goals_among(record.values, goals)
        rerun = Rerun(
            sweep=folder.name,
            trial=number,
            state=record.state,
            seed=trial.seed,
            recorded=recorded,
            intervals=validation_intervals(recorded or {}, context.data.validation_images(), goals),
            again=again,
            other_seeds=dict(enumerate(others, start=trial.seed + 1)),
        )
        if not keep_weights:
            return rerun
        if rerun.reproduced:
            _keep_weights(folder, number, Path(scratch) / str(trial.seed) / WEIGHTS_FILE)
        return replace(rerun, kept_weights=rerun.reproduced)


def _check_weights_are_missing(folder: SweepFolder, record: TrialRecord) -> None:
    """Check that a trial has no weights but could have some.

    Raises:
        UserError: the trial is not complete, or its weights are there.
    """
    trial = folder.trial(record.number)
    if folder.remote is not None:
        folder.remote.trial(trial.path).pull()
    if record.state != "complete":
        raise UserError(f"trial {record.number} is {record.state}: only a complete trial has weights to keep")
    if (trial.path / WEIGHTS_FILE).exists():
        raise UserError(f"sweep {folder.name} has the weights of trial {record.number}; leave --keep-weights out")


def _keep_weights(folder: SweepFolder, number: int, weights: Path) -> None:
    target = folder.trial(number).path
    with weights.open("rb") as file:
        replace_file(target / WEIGHTS_FILE, lambda part: shutil.copyfileobj(file, part))
    if folder.remote is not None:
        folder.remote.trial(target).push()


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


def _train(
    context: TrialContext, trial: TrialSettings, seed: int, goals: Goals, echo: Callable[[str], None], path: Path
) -> Values:
    from trainables.training.hooks import Hooks
    from trainables.training.trial import run_trial
    from trainables.training.trial_folder import TrialFolder

    def on_report(report: Report) -> None:
        values = "  ".join(f"{goal.short} {report.values[goal.metric]:.3f}" for goal in goals)
        echo(f"seed {seed}  epoch {report.epoch}/{report.epochs}  loss {report.loss:.4f}  {values} (validation)")

    path.mkdir()
    folder, hooks = TrialFolder(path), Hooks(report=on_report)
    result = run_trial(context, trial.parameters, seed=seed, folder=folder, hooks=hooks)
    return goals_among(result.values, goals)

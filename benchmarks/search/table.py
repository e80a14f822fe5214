"""The response table of the embedded world: what the trials of a discrete search space reported.

``benchmarks.search.response_table`` trains the trials and writes the table; simulated trials report what it holds.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

Part = Literal["untouched", "transform", "visual", "authors"]
Value = str | int | float
"""Value of a parameter."""

PARAMETERS: dict[str, type[str] | type[int] | type[float]] = {
    "objective": str,
    "tune": str,
    "beta": float,
    "lambda_reg": float,
    "learning_rate": float,
    "rank": int,
    "copies": int,
    "images": int,
}
"""Columns that are parameters of a trial; empty where a parameter does not apply."""


@dataclass(frozen=True)
class Measured:
    """One evaluation of one trial; costs are totals since the trial began."""

    weights: Literal["last", "averaged"]
    strength: float
    progress: float
    """Share of the trial's steps that are done; 1 at its end."""
    step: int
    epoch: float
    image_steps: int
    """Images passed forward and backward, clean and attacked."""
    train_s: float
    """Wall-clock time on a machine that was shared with other work."""
    evaluation_images: int
    """Validation images evaluated, this evaluation included."""
    evaluation_s: float
    """Wall-clock time of the evaluations, this one included."""
    clean_validation: float
    robust_validation: float
    clean_test: float | None
    """None where test was not measured: before the end of trials that tune the image tower."""
    robust_test: float | None

    @property
    def validation(self) -> tuple[float, float]:
        """(clean accuracy, robust accuracy)."""
        return self.clean_validation, self.robust_validation

    @property
    def test(self) -> tuple[float, float]:
        """(clean accuracy, robust accuracy). Raises ValueError where test was not measured."""
        if self.clean_test is None or self.robust_test is None:
            raise ValueError(f"test was not measured at progress {self.progress:.3f}")
        return self.clean_test, self.robust_test


@dataclass(frozen=True)
class RecordedTrial:
    number: int
    part: Part
    parameters: dict[str, Value]
    course: tuple[Measured, ...]
    """Evaluations of the last weights at strength 1, in order of progress: the trial's reports."""
    points: tuple[Measured, ...]
    """Evaluations at the trial's end: the last weights at strength 1, then other strengths and averaged weights."""

    def at(self, progress: float) -> Measured:
        """Return the first report at or after a progress."""
        return next(report for report in self.course if report.progress >= progress - 1e-6)


@dataclass(frozen=True)
class Table:
    untouched: Measured
    trials: tuple[RecordedTrial, ...]

    def part(self, *names: Part) -> list[RecordedTrial]:
        return [trial for trial in self.trials if trial.part in names]

    def choices(self, **fixed: Value) -> dict[str, list[Value]]:
        """Return parameter -> sorted values over the searched grids (``transform`` and ``visual``).

        ``fixed`` restricts the trials, for instance ``choices(tune="visual", objective="dpo")["beta"]``.
        """
        choices: dict[str, set[Value]] = {}
        for trial in self.part("transform", "visual"):
            if all(trial.parameters.get(name) == value for name, value in fixed.items()):
                for name, value in trial.parameters.items():
                    choices.setdefault(name, set()).add(value)
        return {
            name: sorted(values, key=lambda value: (isinstance(value, str), value)) for name, values in choices.items()
        }

    def find(self, parameters: Mapping[str, Value | None]) -> RecordedTrial:
        """Return the trial of the searched grids with exactly these parameters; None: the trial has none.

        Raises KeyError if the grids have no such trial.
        """
        return self._by_key[_key(parameters)]

    def nearest(self, parameters: Mapping[str, Value | None]) -> RecordedTrial:
        """Return the closest trial of the searched grids with the same ``objective`` and ``tune``.

        Distances are those of the logarithms of numeric parameters. Raises KeyError if the grids have neither.
        """
        kind = (parameters["objective"], parameters["tune"])
        trials = self._by_kind[kind]

        def distance(trial: RecordedTrial) -> float:
            total = 0.0
            for name, value in trial.parameters.items():
                wanted = parameters.get(name)
                if isinstance(value, int | float) and isinstance(wanted, int | float):
                    total += math.log(wanted / value) ** 2
            return total

        return min(trials, key=distance)

    @cached_property
    def _by_key(self) -> dict[tuple[tuple[str, Value], ...], RecordedTrial]:
        return {_key(trial.parameters): trial for trial in self.part("transform", "visual")}

    @cached_property
    def _by_kind(self) -> dict[tuple[Value | None, Value | None], list[RecordedTrial]]:
        trials: dict[tuple[Value | None, Value | None], list[RecordedTrial]] = {}
        for trial in self.part("transform", "visual"):
            trials.setdefault((trial.parameters["objective"], trial.parameters["tune"]), []).append(trial)
        return trials


COLUMNS = ("trial", "part", *PARAMETERS, *Measured.__dataclass_fields__)


def load_table(path: Path) -> Table:
    """Raise ValueError for a file with other columns or without the untouched model."""
    with gzip.open(path, "rt", newline="") as file:
        return read_table(csv.DictReader(file), str(path))


def read_table(reader: csv.DictReader[str], name: str) -> Table:
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{name} has the columns {reader.fieldnames}; expected {', '.join(COLUMNS)}")
    untouched, trials = None, []
    rows: dict[int, list[dict[str, str]]] = {}
    for row in reader:
        rows.setdefault(int(row["trial"]), []).append(row)
    for number, lines in rows.items():
        part: Part = lines[0]["part"]  # type: ignore[assignment]
        measured = [_measured(line) for line in lines]
        if part == "untouched":
            untouched = measured[0]
            continue
        parameters = {column: kind(lines[0][column]) for column, kind in PARAMETERS.items() if lines[0][column]}
        course = sorted(filter(_is_report, measured), key=lambda evaluation: evaluation.progress)
        points = [evaluation for evaluation in measured if evaluation.progress == 1.0]
        points.sort(key=lambda evaluation: not _is_report(evaluation))
        trials.append(RecordedTrial(number, part, parameters, tuple(course), tuple(points)))
    if untouched is None:
        raise ValueError(f"{name} has no row of the untouched model")
    return Table(untouched, tuple(trials))


def save_table(path: Path, table: Table) -> None:
    """Write a table; equal tables give equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(0, "untouched", {}, [table.untouched]))
    for trial in table.trials:
        writer.writerows(_rows(trial.number, trial.part, trial.parameters, [*trial.course, *trial.points[1:]]))
    part = path.with_name(path.name + ".part")
    part.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    part.replace(path)


def _rows(
    number: int, part: Part, parameters: Mapping[str, Value], evaluations: Iterable[Measured]
) -> Iterable[list[str]]:
    for evaluation in evaluations:
        values = [getattr(evaluation, name) for name in Measured.__dataclass_fields__]
        yield [str(number), part, *(_text(parameters.get(name)) for name in PARAMETERS), *map(_text, values)]


def _text(value: Value | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _measured(row: Mapping[str, str]) -> Measured:
    def share(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return Measured(
        weights=row["weights"],  # type: ignore[arg-type]
        strength=float(row["strength"]),
        progress=float(row["progress"]),
        step=int(row["step"]),
        epoch=float(row["epoch"]),
        image_steps=int(row["image_steps"]),
        train_s=float(row["train_s"]),
        evaluation_images=int(row["evaluation_images"]),
        evaluation_s=float(row["evaluation_s"]),
        clean_validation=float(row["clean_validation"]),
        robust_validation=float(row["robust_validation"]),
        clean_test=share("clean_test"),
        robust_test=share("robust_test"),
    )


def _is_report(evaluation: Measured) -> bool:
    return evaluation.weights == "last" and evaluation.strength == 1.0


def _key(parameters: Mapping[str, Value | None]) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted((name, value) for name, value in parameters.items() if value is not None))

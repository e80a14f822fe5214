"""The response table of the embedded world: what trials of a discrete search space reported, trained for real once.

``load_table(path)`` reads what ``response_table.py`` wrote; a simulated trial looks up what a real one measured.
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
"""Of a parameter."""

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
"""Columns that are parameters of a trial; empty where one does not apply."""


@dataclass(frozen=True)
class Measured:
    """One evaluation of one trial; costs are those of the trial so far."""

    weights: Literal["last", "averaged"]
    strength: float
    progress: float
    """Share of the trial's steps that are done; 1 at its end."""
    step: int
    epoch: float
    image_steps: int
    """Images passed forward and backward, clean and attacked ones counted alike."""
    train_s: float
    """On the clock of a machine that was shared with other work."""
    evaluation_images: int
    """Validation images looked at, this evaluation included."""
    evaluation_s: float
    """For them, on the same clock."""
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
    """The last weights at strength 1 by progress: what a study is told on the way and, last, at the end."""
    points: tuple[Measured, ...]
    """At the trial's end: the last weights at strength 1 first, then other strengths and the averaged weights."""

    def at(self, progress: float) -> Measured:
        """The first evaluation at or after this progress."""
        return next(one for one in self.course if one.progress >= progress - 1e-6)


@dataclass(frozen=True)
class Table:
    untouched: Measured
    trials: tuple[RecordedTrial, ...]

    def part(self, *names: Part) -> list[RecordedTrial]:
        return [trial for trial in self.trials if trial.part in names]

    def choices(self, **fixed: Value) -> dict[str, list[Value]]:
        """Parameter -> its values over the searched grids (``transform`` and ``visual``), sorted; ``fixed`` ones only
        where the trial has these values, for instance ``choices(tune="visual", objective="dpo")["beta"]``."""
        found: dict[str, set[Value]] = {}
        for trial in self.part("transform", "visual"):
            if all(trial.parameters.get(name) == value for name, value in fixed.items()):
                for name, value in trial.parameters.items():
                    found.setdefault(name, set()).add(value)
        return {name: sorted(values, key=lambda one: (isinstance(one, str), one)) for name, values in found.items()}

    def find(self, parameters: Mapping[str, Value | None]) -> RecordedTrial:
        """The trial of the searched grids with exactly these parameters (None: left out).

        Raises KeyError where there is none.
        """
        return self._by_key[_key(parameters)]

    def nearest(self, parameters: Mapping[str, Value | None]) -> RecordedTrial:
        """The trial of the searched grids that is closest in the logarithm of each number, of the same ``objective``
        and ``tune``. Raises KeyError where none has these."""
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
        found: dict[tuple[Value | None, Value | None], list[RecordedTrial]] = {}
        for trial in self.part("transform", "visual"):
            found.setdefault((trial.parameters["objective"], trial.parameters["tune"]), []).append(trial)
        return found


COLUMNS = ("trial", "part", *PARAMETERS, *Measured.__dataclass_fields__)


def load_table(path: Path) -> Table:
    """Raises ValueError for a file with other columns or without the untouched model."""
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
        course = sorted((one for one in measured if _is_told(one)), key=lambda one: one.progress)
        points = [one for one in measured if one.progress == 1.0]
        points.sort(key=lambda one: not _is_told(one))
        trials.append(RecordedTrial(number, part, parameters, tuple(course), tuple(points)))
    if untouched is None:
        raise ValueError(f"{name} has no row of the untouched model")
    return Table(untouched, tuple(trials))


def save_table(path: Path, table: Table) -> None:
    """The same rows give the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(0, "untouched", {}, [table.untouched]))
    for trial in table.trials:
        writer.writerows(_rows(trial.number, trial.part, trial.parameters, [*trial.course, *trial.points[1:]]))
    part = path.with_name(path.name + ".part")
    part.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    part.replace(path)


def _rows(number: int, part: Part, parameters: Mapping[str, Value], lines: Iterable[Measured]) -> Iterable[list[str]]:
    for one in lines:
        values = [getattr(one, name) for name in Measured.__dataclass_fields__]
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


def _is_told(one: Measured) -> bool:
    return one.weights == "last" and one.strength == 1.0


def _key(parameters: Mapping[str, Value | None]) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted((name, value) for name, value in parameters.items() if value is not None))

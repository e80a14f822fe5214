"""Values of the paper's table, from the answers of its models, beside what was predicted.

Accuracies are those of ``trainables.evaluation.answers``, on answers as ``sweeper evaluate`` writes them. Intervals are
95 %: over test images with one seed, over test images and seeds with several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.paper.rows import ROWS, Column
from sweeper.errors import UserError
from sweeper.front.intervals import LEVEL, interval
from trainables.evaluation.answers import Answers
from trainables.evaluation.metrics import bootstrap_interval

AnswersOfSeeds = Sequence[Sequence[Answers]]
"""For each seed the answers of a model on every set and view."""

Bounds = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A measured value with its interval and its prediction, in percent or percentage points."""

    row: str
    column: str
    value: float
    low: float
    high: float
    seeds: int
    images: int
    predicted: Bounds | None
    """None: nothing was predicted."""

    @property
    def verdict(self) -> str:
        """Return whether the value is inside what was predicted; undecided if its interval crosses an end of that."""
        if self.predicted is None:
            return "not predicted"
        least, most = self.predicted
        if least <= self.value <= most:
            return "inside" if least <= self.low and self.high <= most else "inside, undecided"
        return "outside, undecided" if self.low <= most and self.high >= least else "outside"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A prediction about the difference of two models."""

    row: str
    minus: str
    column: str
    interval: Bounds
    says: str


@dataclass(frozen=True, kw_only=True)
class Predictions:
    date: str
    rows: Mapping[str, Mapping[str, Bounds]]
    """Row -> column -> interval, in percent."""
    statements: Sequence[Statement]
    reasoning: Sequence[str]


def read_predictions(file: Path) -> Predictions:
    """Return the predictions of a file in the form of ``benchmarks/paper/predictions.yaml``.

    Raises:
        UserError: the file has another form, or names a model that the table does not have.
    """
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    known = {row.key for row in ROWS}
    try:
        rows = {
            row: {f"{name}/{part}": _bounds(ends) for name, parts in columns.items() for part, ends in parts.items()}
            for row, columns in content["rows"].items()
        }
        statements = [
            Statement(
                row=one["row"],
                minus=one["minus"],
                column=one["column"],
                interval=_bounds(one["interval"]),
                says=one["says"],
            )
            for one in content["statements"]
        ]
        predictions = Predictions(
            date=str(content["date"]), rows=rows, statements=statements, reasoning=content["reasoning"]
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: not a file of predictions: {error!r}; see benchmarks/paper/predictions.yaml"
        ) from error
    named = {*rows, *(name for one in statements for name in (one.row, one.minus))}
    if strange := sorted(named - known):
        raise UserError(f"{file}: {strange[0]} is no row of the table; rows are {', '.join(sorted(known))}")
    return predictions


def cell(row: str, column: Column, answers: AnswersOfSeeds, predicted: Bounds | None) -> Cell:
    """Return a value of the table.

    Args:
        answers: of one or more seeds, on the same images.
    """
    sets = [np.stack([_scores(of_seed, column, name) for of_seed in answers]) for name in column.sets]
    low, high = interval(sets) if len(answers) > 1 else bootstrap_interval([scores[0] for scores in sets])
    return _cell(row, column, sets, (low, high), predicted)


def difference(statement: Statement, column: Column, first: AnswersOfSeeds, second: AnswersOfSeeds) -> Cell:
    """Return ``statement.row`` minus ``statement.minus``, paired over images and, if both have several, over seeds.

    Args:
        first, second: answers of both models; one of them may have a single seed (the untouched model), which then
            stands for every seed.
    """
    seeds = max(len(first), len(second))
    sets = [
        np.stack([_scores(first[seed % len(first)], column, name).astype(float) for seed in range(seeds)])
        - np.stack([_scores(second[seed % len(second)], column, name) for seed in range(seeds)])
        for name in column.sets
    ]
    ends = bootstrap_interval([apart[0] for apart in sets]) if seeds == 1 else _paired_interval(sets)
    return _cell(f"{statement.row} - {statement.minus}", column, sets, ends, statement.interval)


def _cell(row: str, column: Column, sets: Sequence[np.ndarray], ends: Bounds, predicted: Bounds | None) -> Cell:
    return Cell(
        row=row,
        column=column.key,
        value=100 * float(np.mean([scores.mean() for scores in sets])),
        low=100 * ends[0],
        high=100 * ends[1],
        seeds=len(sets[0]),
        images=sum(scores.shape[1] for scores in sets),
        predicted=predicted,
    )


def _scores(answers: Sequence[Answers], column: Column, name: str) -> np.ndarray:
    """Return whether each image of a set is right (N,), by the column's measure."""
    matching = (one for one in answers if (one.set.partition("/")[0], one.view) == (name, column.view))
    of_view = next(matching, None)
    if of_view is None or column.measure not in of_view.measures():
        raise UserError(f"no {column.measure} of the set {name}, view {column.view}, in the answers; measure again")
    return of_view.measures()[column.measure]


def _paired_interval(sets: Sequence[np.ndarray]) -> Bounds:
    """Return the interval of a mean difference over fresh seeds and images, from differences (k, N) of each set.

    Seeds and images vary independently, as in ``sweeper.front.intervals``, each with its own t quantile.
    """
    from scipy.special import stdtrit

    seeds = len(sets[0])
    by_seed = np.mean([apart.mean(1) for apart in sets], axis=0)
    of_images = 0.0
    for apart in sets:
        images = apart.shape[1]
        by_image = apart.mean(0)
        rest = apart - by_image - apart.mean(1, keepdims=True) + apart.mean()
        of_rest = float((rest**2).sum()) / ((seeds - 1) * (images - 1))
        of_images += max(0.0, float(by_image.var(ddof=1)) - of_rest / seeds) / images
    of_images /= len(sets) ** 2
    degrees = (seeds - 1, sum(apart.shape[1] for apart in sets) - len(sets))
    t_seeds, t_images = (float(stdtrit(count, (1 + LEVEL) / 2)) for count in degrees)
    reach = math.sqrt(t_seeds**2 * float(by_seed.var(ddof=1)) / seeds + t_images**2 * of_images)
    return float(by_seed.mean()) - reach, float(by_seed.mean()) + reach


def _bounds(ends: Any) -> Bounds:
    low, high = map(float, ends)
    if low > high:
        raise ValueError(f"[{low:g}, {high:g}] ends below its beginning")
    return low, high

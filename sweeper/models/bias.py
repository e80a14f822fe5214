"""Measurement and comparison of the bias of models about an attribute, on sets with that attribute."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import UserError
from sweeper.models.compare import Comparison
from sweeper.models.evaluate import Data, Weights, scorer_of

if TYPE_CHECKING:
    from trainables.evaluation.answers import Answers
    from trainables.evaluation.bias import Seen


def seen_by(
    model: str,
    data: Data,
    *,
    weights: Weights,
    cache: Path | None,
    echo: Callable[[str], None],
    count: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, Seen]:
    """Return a model's outputs for each set.

    Raises:
        UserError: the model or the images cannot be loaded.
    """
    from trainables.data.cache import Store
    from trainables.evaluation.bias import look_at_set
    from trainables.numerics import flushed_denormals

    assert data.attribute is not None, "the data name an attribute"
    with ExitStack() as stack:
        stack.enter_context(flushed_denormals())
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-")))
        try:
            scorer, seen = scorer_of(model, weights, device), {}
            for name, (settings, split) in data.sets.items():
                echo(f"{name}: {model}")
                seen[name] = look_at_set(
                    scorer, name, settings, split, section=data.attribute, store=Store(folder), seed=seed, count=count
                )
                for image in seen[name].labelled.images.broken:
                    echo(f"{name}: left out: {image}")
        except ValueError as error:
            raise UserError(str(error)) from error
    return seen


def rows(data: Data, seen: dict[str, Seen]) -> list[dict[str, object]]:
    """Return a row for each set and metric, with its 95 % bootstrap interval over the images if it has one."""
    from trainables.evaluation.bias import bias_of

    assert data.attribute is not None, "the data name an attribute"
    table: list[dict[str, object]] = []
    for name, of_set in seen.items():
        measured = bias_of(data.attribute, of_set)
        for metric, value in measured.values.items():
            low, high = measured.intervals.get(metric, (None, None))
            row: dict[str, object] = {"set": name, "images": measured.images, "metric": metric, "value": value}
            table.append(row | {"low": low, "high": high})
    return table


def rows_for_people(table: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows with value and interval in one column."""
    lines = []
    for row in table:
        interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
        line: dict[str, object] = {name: row[name] for name in ("model", "set", "images")}
        lines.append(line | {"metric": str(row["metric"]).replace("_", " "), "value": f"{row['value']:.3f}{interval}"})
    return lines


def answers_in(seen: dict[str, Seen]) -> list[Answers]:
    """Return the answers about content and attribute, image by image."""
    from dataclasses import replace

    from trainables.evaluation.attribute import answers_of

    return [
        replace(answers, reference_kl=None)
        for of_set in seen.values()
        for answers in answers_of(of_set.labelled, of_set.looked)
    ]


def skew_comparisons(data: Data, first: dict[str, Seen], second: dict[str, Seen]) -> list[Comparison]:
    """Return the difference in MaxSkew on each set, with a paired interval."""
    from trainables.evaluation.attribute import skew_name
    from trainables.evaluation.bias import skew_difference

    assert data.attribute is not None, "the data name an attribute"
    compared = []
    for name, of_first in first.items():
        skew = skew_difference(data.attribute, of_first, second[name])
        compared.append(
            Comparison(
                set=name,
                view="retrieval",
                measure=skew_name(data.attribute),
                images=len(of_first.labelled.images.keys),
                first=skew.first,
                second=skew.second,
                difference=skew.second - skew.first,
                low=skew.low,
                high=skew.high,
            )
        )
    return compared

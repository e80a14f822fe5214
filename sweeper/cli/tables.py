"""Rows printed as a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from enum import StrEnum
from typing import Annotated

import typer

from sweeper.layout import columns, terminal_width, wrapped

Row = dict[str, object]
Wide = Annotated[
    bool, typer.Option("--wide", help="All columns of the table, at any width. Default: those that fit the terminal.")
]


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


def print_rows(
    rows: list[Row], format: Format, *, empty: str, narrow: list[Row] | None = None, wide: bool = False
) -> None:
    """Print rows.

    Args:
        empty: printed on standard error in place of an empty table.
        narrow: printed as a table unless ``wide``; by default the columns of ``rows`` that fit.
        wide: whether a table has all columns.
    """
    if format is Format.json:
        typer.echo(as_json(rows))
    elif not rows:
        typer.echo(empty, err=True)
    elif format is Format.csv:
        typer.echo(as_csv(rows), nl=False)
    elif wide:
        typer.echo(as_table(rows), nl=False)
    else:
        typer.echo(as_table(rows if narrow is None else narrow, terminal_width()), nl=False)


def as_table(rows: list[Row], width: int | None = None) -> str:
    """Return columns side by side; columns without any value are left out.

    Args:
        width: columns of the terminal; a line below the table names the columns that did not fit. None: all columns.
    """
    names = [
        name for name in dict.fromkeys(key for row in rows for key in row) if any(row[name] is not None for row in rows)
    ]
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    lines, left_out = columns(cells, width)
    if left_out:
        named = ", ".join(left_out[:4]) + (", ..." if len(left_out) > 4 else "")
        lines.append(wrapped(f"({len(left_out)} more with --wide: {named})", width))
    return "".join(f"{line}\n" for line in lines)


def as_json(value: object) -> str:
    """Return JSON; numbers that are not finite, which JSON does not have, are null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows({name: _finite(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value

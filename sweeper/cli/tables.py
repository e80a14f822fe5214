"""Rows printed as a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from enum import StrEnum

import typer

_COMMAND = re.compile("`[^`]*`")
Row = dict[str, object]


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


def print_rows(rows: list[Row], format: Format, *, empty: str) -> None:
    """``empty``: said on standard error in place of an empty table."""
    if format is Format.json:
        typer.echo(json.dumps(rows, indent=2))
    elif not rows:
        typer.echo(empty, err=True)
    else:
        typer.echo(as_csv(rows) if format is Format.csv else as_table(rows), nl=False)


def as_table(rows: list[Row]) -> str:
    """Return columns side by side; columns without any value are left out."""
    columns = [
        name for name in dict.fromkeys(key for row in rows for key in row) if any(row[name] is not None for row in rows)
    ]
    cells = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in cells
    )


def wrapped(line: str) -> str:
    """Return a line broken at spaces so that it fits 80 columns; `commands` in backquotes stay whole, to be copied."""
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", "\0"), line)
    broken = textwrap.fill(whole, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return broken.replace("\0", " ")


def as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)

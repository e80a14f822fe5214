"""The tables of a report as CSV: numbers with nine significant digits, intervals in columns of their own."""

from __future__ import annotations

import csv
import io

from sweeper.report.numbers import Bounded, Cell, Number, Table


def csv_table(table: Table) -> str:
    """Return a table as CSV with a heading."""
    ranged = [any(isinstance(row[place], Bounded) for row in table.rows) for place in range(len(table.columns))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heading = zip(table.columns, ranged, strict=True)
    writer.writerow([part for name, wide in heading for part in (_names(name) if wide else [name])])
    for row in table.rows:
        cells = zip(row, ranged, strict=True)
        writer.writerow([part for cell, wide in cells for part in (_parts(cell) if wide else [_value(cell)])])
    return text.getvalue()


def _names(name: str) -> list[str]:
    return [name, f"{name} low", f"{name} high"]


def _parts(cell: Cell) -> list[str]:
    if isinstance(cell, Bounded):
        return [_value(cell.value), _value(cell.low), _value(cell.high)]
    return [_value(cell), "", ""]


def _value(cell: Cell) -> str:
    if isinstance(cell, Number):
        return cell.shown if cell.form == "count" else repr(cell.recorded)
    assert not isinstance(cell, Bounded), "intervals have columns of their own"
    return cell or ""

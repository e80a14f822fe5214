"""The paper's table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper.results import Cell, Statement
from benchmarks.paper.rows import Column, Row

STAND_IN = (
    "OF STAND-INS: drawn images and a small model in the place of the sets and of CLIP. These numbers mean nothing; "
    "they show that the protocol runs."
)
CSV_COLUMNS = (
    "model",
    "column",
    "value",
    "low",
    "high",
    "seeds",
    "images",
    "predicted_low",
    "predicted_high",
    "verdict",
)


@dataclass(frozen=True, kw_only=True)
class Table:
    rows: Sequence[Row]
    columns: Sequence[Column]
    cells: Mapping[tuple[str, str], Cell]
    """(row, column) -> value."""
    statements: Sequence[tuple[Statement, Cell]]
    predicted: str
    """Date of the predictions."""
    facts: Sequence[str]
    """Lines on models, sets and software."""
    left_out: Sequence[str]
    """Sets that were not measured."""
    stand_in: bool


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.tex`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in (("table.md", markdown(table)), ("table.csv", csv_text(table)), ("table.tex", latex(table))):
        files.append(folder / name)
        files[-1].write_text(text, encoding="utf-8")
    return files


def markdown(table: Table) -> str:
    """Return the table, then every prediction beside what was measured."""
    lines = [STAND_IN, ""] if table.stand_in else []
    lines += ["# Table 1 and the real typographic sets", "", *(f"- {fact}" for fact in table.facts)]
    if table.left_out:
        lines.append(f"- left out: {', '.join(table.left_out)}")
    lines += [
        "",
        "Accuracy in percent, half of the 95 % interval behind it. O: clean, T: with a wrong word pasted on; "
        "photographs of written words: over all classes (all), and true against written word (2-way). `x`: outside "
        "what was predicted, `?`: undecided, the interval crosses an end of what was predicted.",
        "",
    ]
    for part in _parts(table.columns):
        lines += [
            "| model | " + " | ".join(column.title for column in part) + " |",
            "| --- |" + " ---: |" * len(part),
        ]
        for row in table.rows:
            lines.append(f"| {row.title} | " + " | ".join(_short(table, row, column) for column in part) + " |")
        lines.append("")
    differences = [cell for _, cell in table.statements]
    lines += [f"## Differences, as predicted on {table.predicted}", "", _verdicts(differences), ""]
    lines += [
        "| prediction | difference | column | measured | predicted | |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    for statement, cell in table.statements:
        texts = [statement.says, cell.row, cell.column, _measured(cell), _ends(cell), cell.verdict]
        lines.append(f"| {' | '.join(texts)} |")
    cells = [table.cells[row.key, column.key] for row in table.rows for column in table.columns]
    lines += ["", f"## Every value, as predicted on {table.predicted}", "", _verdicts(cells), ""]
    lines += ["| model | column | measured | predicted | |", "| --- | --- | ---: | ---: | --- |"]
    lines += [f"| {cell.row} | {cell.column} | {_measured(cell)} | {_ends(cell)} | {cell.verdict} |" for cell in cells]
    return "\n".join(lines) + "\n"


def csv_text(table: Table) -> str:
    """Return a line for each value and each difference."""
    text = io.StringIO()
    if table.stand_in:
        text.write(f"# {STAND_IN}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    cells = [table.cells[row.key, column.key] for row in table.rows for column in table.columns]
    for cell in [*cells, *(cell for _, cell in table.statements)]:
        predicted = ("", "") if cell.predicted is None else tuple(f"{end:g}" for end in cell.predicted)
        numbers = [f"{number:.2f}" for number in (cell.value, cell.low, cell.high)]
        writer.writerow([cell.row, cell.column, *numbers, cell.seeds, cell.images, *predicted, cell.verdict])
    return text.getvalue()


def latex(table: Table) -> str:
    """Return the table for a paper that loads booktabs, in parts of the width of a page."""
    lines = [f"% {STAND_IN}"] if table.stand_in else []
    lines.append(r"% needs \usepackage{booktabs}; a dagger: outside what was predicted")
    for part in _parts(table.columns):
        lines += [
            r"\begin{tabular}{l" + "r" * len(part) + "}",
            r"\toprule",
            " & ".join(["model", *(column.title for column in part)]) + r" \\",
            r"\midrule",
        ]
        for row in table.rows:
            values = []
            for column in part:
                cell = table.cells[row.key, column.key]
                mark = r"$^\dagger$" if cell.verdict.startswith("outside") else ""
                values.append(f"{cell.value:.1f}{{\\tiny$\\pm${_half(cell):.1f}}}{mark}")
            lines.append(" & ".join([row.title, *values]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _parts(columns: Sequence[Column], width: int = 8) -> list[Sequence[Column]]:
    return [columns[start : start + width] for start in range(0, len(columns), width)]


def _short(table: Table, row: Row, column: Column) -> str:
    cell = table.cells[row.key, column.key]
    mark = " x" if cell.verdict == "outside" else " ?" if "undecided" in cell.verdict else ""
    return f"{cell.value:.1f} ± {_half(cell):.1f}{mark}"


def _half(cell: Cell) -> float:
    return (cell.high - cell.low) / 2


def _measured(cell: Cell) -> str:
    return f"{cell.value:.1f} [{cell.low:.1f}, {cell.high:.1f}]"


def _ends(cell: Cell) -> str:
    return "" if cell.predicted is None else f"[{cell.predicted[0]:g}, {cell.predicted[1]:g}]"


def _verdicts(cells: Sequence[Cell]) -> str:
    """Return how many predictions held, in one line."""
    predicted = [cell for cell in cells if cell.predicted is not None]
    inside = sum(cell.verdict.startswith("inside") for cell in predicted)
    unsure = sum("undecided" in cell.verdict for cell in predicted)
    return f"{inside} of {len(predicted)} inside what was predicted; {unsure} are undecided."

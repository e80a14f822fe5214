"""The tables of a report in LaTeX, for the packages booktabs and fontenc (T1), and the paragraph of the checklist."""

from __future__ import annotations

from sweeper.report.numbers import Bounded, Cell, Number, Section, Table, Text

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


def latex_table(table: Table) -> str:
    """Return a table as a ``tabular`` with the rules of booktabs; columns with numbers are aligned to the right."""
    columns = range(len(table.columns))
    numeric = [any(isinstance(row[place], Number | Bounded) for row in table.rows) for place in columns]
    lines = [
        f"% {_one_line(table.title)}; needs \\usepackage{{booktabs}}",
        f"\\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
        "\\toprule",
        _row([escaped(name) for name in table.columns]),
        "\\midrule",
        *(_row([_cell(cell) for cell in row]) for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def latex_paragraph(section: Section) -> str:
    """Return the texts of a section as a paragraph, a sentence on each line."""
    return "\n".join(_text(text) for text in section.texts) + "\n"


def escaped(text: str) -> str:
    """Return a text that LaTeX shows as it is, on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _cell(cell: Cell) -> str:
    if cell is None:
        return "--"
    if isinstance(cell, Bounded):
        return f"{_number(cell.value)} {{\\scriptsize [{_number(cell.low)}, {_number(cell.high)}]}}"
    # A bracket after the end of the row before would be its optional argument.
    return _number(cell) if isinstance(cell, Number) else f"{{{escaped(cell)}}}" if cell[:1] == "[" else escaped(cell)


def _text(text: Text) -> str:
    # Blanks at the ends of pieces count, so they are escaped letter by letter.
    words = (piece if isinstance(piece, str) else piece.shown for piece in text)
    return "".join(_SPECIAL.get(letter, letter if letter.isprintable() else " ") for word in words for letter in word)


def _number(number: Number) -> str:
    return f"${number.shown}$" if number.shown[:1] in "+-" else number.shown

"""Text that fits a terminal, or 80 columns if there is none: wrapped lines and tables."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

NARROWEST = 40
"""Least number of columns, even if a terminal reports fewer."""
_COMMAND = re.compile("`[^`]*`")
_GAP = "  "
_SHORTEST = 8
"""Least number of characters of a text column that is cut off; with fewer the column is left out."""


def terminal_width() -> int:
    """Return the columns of the terminal on standard output, or of the variable ``COLUMNS``; else 80."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def wrapped(line: str, width: int | None = None) -> str:
    """Return a line broken at spaces; `commands` in backquotes stay whole, to be copied.

    Args:
        width: in columns; by default that of the terminal, 80 at most.
    """
    width = min(80, terminal_width()) if width is None else width
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", "\0"), line)
    broken = textwrap.fill(whole, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return broken.replace("\0", " ")


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters; an ellipsis replaces the rest."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def columns(lines: Sequence[Sequence[str]], width: int | None = None) -> tuple[list[str], list[str]]:
    """Return cells as lines of columns side by side, and the heads of the columns that were left out.

    Args:
        lines: cells, the heads first; all of the same length.
        width: of the longest line, in columns. Columns at the right give way first: a text column is cut off, others
            are left out. The first two stay at any width. None: no column is left out.
    """
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = len(widths)
    while width is not None and _total(widths[:shown]) > width:
        rest = width - _total([*widths[: shown - 1], 0])
        if rest >= _SHORTEST and _is_text([line[shown - 1] for line in lines[1:]]):
            widths[shown - 1] = rest
        elif shown > 2:
            shown -= 1
        else:
            widths[0] = max(_SHORTEST, widths[0] - (_total(widths[:shown]) - width))
            break
    text = [
        _GAP.join(cut(cell, room).ljust(room) for cell, room in zip(line[:shown], widths, strict=False)).rstrip()
        for line in lines
    ]
    return text, list(lines[0][shown:])


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _is_text(cells: Sequence[str]) -> bool:
    """Return whether a cell may be cut off: a number without its last digits is another number."""
    return not all(cell[:1] in "+-.0123456789[" for cell in cells)

"""Parts of a report: numbers with a key each, and the texts and tables that show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sweeper.spec.quantities import hours

Form = Literal["count", "three", "four", "signed", "short", "hours"]
"""``three``: three decimals. ``signed``: the same, with + or -. ``short``: four significant digits."""
_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number of a report. Numbers with equal keys are equal."""

    key: str
    """Place in the report, such as ``front/knee/test/clean_accuracy``."""
    value: float
    form: Form = "three"

    @property
    def shown(self) -> str:
        """Return the text that stands in the report."""
        if self.form == "count":
            return f"{self.value:.0f}"
        if self.form == "hours":
            return hours(self.value)
        return f"{self.value:{_FORMATS[self.form]}}"

    @property
    def recorded(self) -> float:
        """Return the value with nine significant digits, in which computations on two machines agree."""
        return float(f"{self.value:.{_DIGITS}g}")


_FORMATS = {"three": ".3f", "four": ".4f", "signed": "+.3f", "short": ".4g"}


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A number with the ends of its interval."""

    value: Number
    low: Number
    high: Number


Text = tuple[str | Number, ...]
"""Words and numbers in the order in which they are shown."""
Cell = str | Number | Bounded | None
"""None is shown as a dash."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, in the page and as files of its name."""

    name: str
    """Name of its files."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a report."""

    name: str
    """Name for links within the page."""
    title: str
    texts: tuple[Text, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[str, ...] = ()
    """Names of figures, drawn in this order."""
    plain: str | None = None
    """Text that is shown as it was written, line by line."""


def number(key: str, value: float, form: Form = "three") -> Number:
    return Number(key=key, value=value, form=form)


def optional(key: str, value: float | None, form: Form = "three") -> Number | None:
    return None if value is None else number(key, value, form)


def bounded(key: str, value: float | None, interval: tuple[float, float] | None) -> Cell:
    """Return a value with its interval, or what there is of both."""
    if value is None or interval is None:
        return optional(key, value)
    low, high = interval
    return Bounded(value=number(key, value), low=number(f"{key}/low", low), high=number(f"{key}/high", high))


def numbers_in(sections: Iterable[Section]) -> Iterator[Number]:
    """Yield all numbers of sections in the order in which they are shown."""
    for section in sections:
        for text in section.texts:
            yield from (piece for piece in text if isinstance(piece, Number))
        for table in section.tables:
            for row in table.rows:
                for cell in row:
                    yield from numbers_of(cell)


def numbers_of(cell: Cell) -> tuple[Number, ...]:
    """Return the numbers of a cell: the value, then the ends of its interval."""
    if isinstance(cell, Bounded):
        return cell.value, cell.low, cell.high
    return (cell,) if isinstance(cell, Number) else ()

"""Bounds that points of a front must keep: of the goals and of further metrics, on validation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainables.records import Direction

_RELATIVE = re.compile(r"untouched\s*(?:([-+])\s*([0-9]*\.?[0-9]+))?")
EXAMPLE = "write a number or, for instance, untouched - 0.05"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A floor of a metric that is maximised, or a ceiling of a metric that is minimised."""

    metric: str
    direction: Direction
    value: float

    def missed_by(self, values: Mapping[str, float]) -> float:
        """Return the amount by which ``values`` miss the bound; 0 if they keep it."""
        sign = 1.0 if self.direction == "maximize" else -1.0
        return max(0.0, sign * (self.value - values[self.metric]))

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.direction == 'maximize' else '<='} {self.value:.4g}"


Bounds = tuple[Bound, ...]


def is_bound(written: float | str) -> bool:
    """Return whether a spec may hold this value as a bound."""
    return not isinstance(written, str) or _RELATIVE.fullmatch(written.strip()) is not None


def bound_value(written: float | str, untouched: float) -> float:
    """Return a bound as a number, given the untouched model's value."""
    if not isinstance(written, str):
        return written
    match = _RELATIVE.fullmatch(written.strip())
    assert match is not None, "checked when the spec was read"
    return untouched + float((match[1] or "") + (match[2] or "0"))


def violation(bounds: Bounds, values: Mapping[str, float]) -> float:
    """Return the sum of the amounts by which values miss the bounds; 0 if they keep all."""
    return sum(bound.missed_by(values) for bound in bounds)


def keeps(bounds: Bounds, values: Mapping[str, float]) -> bool:
    """Return whether values keep all bounds."""
    return all(bound.missed_by(values) == 0 for bound in bounds)

"""Points of a space that are chosen instead of drawn: the middle, and points that differ from it in one parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sweeper.spec.domains import Choices, Fixed, Range, Value
from sweeper.spec.space import SHAPING, Space

Preferences = Mapping[str, Sequence[Value]]
"""Parameter -> values, of which the first that may be drawn is taken."""

CROSS_ENTROPY_FIRST: Preferences = {"objective": ("cross_entropy",)}


def middle_point(
    space: Space,
    preferred: Preferences = CROSS_ENTROPY_FIRST,
    *,
    positions: Mapping[str, float] | None = None,
    rate: float | None = None,
) -> dict[str, Value]:
    """Return a point, as ``Space.draw`` returns it, with every parameter in the middle of its domain.

    Args:
        preferred: values to take instead, if they may be drawn. Parameters that decide which others exist (``SHAPING``)
            have their first choice if no value is preferred.
        positions: positions of some parameters in their domains, from 0 to 1.
        rate: a learning rate; the nearest value in its domain is taken.
    """

    def value(name: str, domain: Choices | Range) -> Value:
        parameter = name.partition("[")[0]
        for wanted in preferred.get(parameter, ()):
            match = domain.match(wanted)
            if match is not None:
                return match
        if parameter == "learning_rate" and rate is not None:
            return nearest(domain, rate)
        position = (positions or {}).get(parameter, 0.5)
        if isinstance(domain, Range):
            return domain.at(position)
        return domain.values[0] if parameter in SHAPING else domain.values[round(position * (len(domain.values) - 1))]

    return space.draw(value)


def nearest(domain: Choices | Range, rate: float) -> Value:
    """Return the value of a domain of positive numbers that is nearest to ``rate`` in the logarithm."""
    if isinstance(domain, Range):
        return min(max(rate, float(domain.low)), float(domain.high))
    return min(domain.values, key=lambda value: abs(math.log(float(value) / rate)))


def anchors(space: Space) -> list[dict[str, Value]]:
    """Return the trials of a soup, as ``Space.draw`` returns them.

    For each ``tune`` there are three points: cross-entropy (or the space's first objective) with every other parameter
    in the middle of its domain, then with the most and the least of ``lambda_reg``.
    """
    points: list[dict[str, Value]] = []
    for tune in sorted(values_of(space, "tune"), key=str):
        for position in (0.5, 1.0, 0.0):
            point = middle_point(space, {**CROSS_ENTROPY_FIRST, "tune": (tune,)}, positions={"lambda_reg": position})
            if point not in points:
                points.append(point)
    return points


def values_of(space: Space, parameter: str) -> list[Value]:
    """Return the values of a parameter of choices, in the order of the spec."""
    return list(
        dict.fromkeys(
            value
            for branch in space.branches.get(parameter, ())
            if isinstance(branch.domain, Choices | Fixed)
            for value in branch.domain.examples()
        )
    )

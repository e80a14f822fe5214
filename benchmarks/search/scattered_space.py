"""The settings that ``benchmarks.search.record`` trains: ranges of each scope, and a sequence scattered over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from scipy.stats.qmc import Sobol

from sweeper.spec.domains import Choices, Range, Value
from sweeper.spec.space import Space

Scope = Literal["transform", "last_blocks", "visual"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NUMBERS = ("beta", "lambda_reg", "learning_rate", "weight_decay", "rank")
"""Searched parameters that are numbers, all of them on a logarithmic scale: the axes of the unit box."""

_COORDINATES = ("objective", "beta", "lambda_reg", "learning_rate", "weight_decay", "rank", "form")
_TOWER_COORDINATES = _COORDINATES[:5]
"""Parameters that the sequence has a coordinate for; the image tower has neither rank nor form."""
_SEQUENCE_SEEDS: dict[Scope, int] = {"transform": 0, "last_blocks": 1, "visual": 2}
_DIGITS = 6
"""Significant digits of a number in a setting."""


def ranges(scopes: Sequence[Scope]) -> dict[str, Any]:
    """Return what trials of these scopes may be given, as a spec writes it; ``Space.parse`` reads it."""
    of_transform = {"when": {"tune": "transform"}}
    of_tower = {"when": {"tune": ["last_blocks", "visual"]}}
    return {
        "objective": {"choices": ["cross_entropy", "dpo", "ipo", "kto"]},
        "tune": {"choices": list(scopes)},
        "blocks": {"when": {"tune": "last_blocks"}, "value": 1},
        "form": {**of_transform, "choices": ["direct", "residual"]},
        "rank": {**of_transform, "low": 4, "high": 64, "log": True},
        "beta": [
            {"when": {"objective": ["dpo", "kto"]}, "low": 0.05, "high": 5.0, "log": True},
            {"when": {"objective": "ipo"}, "low": 0.005, "high": 0.5, "log": True},
        ],
        "lambda_reg": {"low": 0.01, "high": 10.0, "log": True},
        "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
        "learning_rate": [
            {**of_transform, "low": 1e-4, "high": 1.0, "log": True},
            {**of_tower, "low": 1e-5, "high": 1e-2, "log": True},
        ],
    }


@cache
def whole_space() -> Space:
    """Return the space of all scopes with their whole ranges."""
    return Space.parse(ranges(SCOPES))


def setting(scope: Scope, number: int) -> dict[str, Value]:
    """Return the parameters at an index of the scope's scrambled Sobol sequence.

    A setting depends on its number only, so that runs and processes extend one sequence.
    """
    coordinates = _COORDINATES if scope == "transform" else _TOWER_COORDINATES
    sequence = Sobol(len(coordinates), scramble=True, seed=_SEQUENCE_SEEDS[scope])
    if number > 0:  # fast_forward(0) raises OverflowError (SciPy 1.17)
        sequence.fast_forward(number)
    point = sequence.random(1)[0]
    positions = dict(zip(coordinates, point.tolist(), strict=True))

    def value(name: str, domain: Choices | Range) -> Value:
        parameter = name.partition("[")[0]
        if parameter == "tune":
            return scope
        position = positions[parameter]
        if isinstance(domain, Choices):
            return domain.values[int(position * len(domain.values))]
        return _rounded(domain.at(position))

    return whole_space().draw(value)


def unit_box(parameters: Mapping[str, Any]) -> np.ndarray:
    """Return where the ``NUMBERS`` of a point lie in their ranges: (5,) from 0 to 1, NaN for one that does not apply.

    Raises ValueError for a point outside the whole space.
    """
    located = whole_space().place(parameters).located
    position = dict.fromkeys(NUMBERS, np.nan)
    for name, domain in whole_space().domains(located).items():
        if isinstance(domain, Range):
            part = np.log(float(located[name]) / domain.low) / np.log(domain.high / domain.low)
            position[name.partition("[")[0]] = float(part)
    return np.array([position[name] for name in NUMBERS])


def shifted_space(scopes: Sequence[Scope], names: Sequence[str], share: float, rng: np.random.Generator) -> Space:
    """Return the space of these scopes in which each range of the parameters ``names`` is cut to a part of it.

    The part has ``share`` of the range's width in the logarithm and lies anywhere in it with equal probability.
    """
    raw = ranges(scopes)
    for name in names:
        branches = raw[name] if isinstance(raw[name], list) else [raw[name]]
        for branch in branches:
            whole = Range(branch["low"], branch["high"], log=True)
            start = rng.uniform(0.0, 1.0 - share)
            branch["low"], branch["high"] = _rounded(whole.at(start)), _rounded(whole.at(start + share))
    return Space.parse(raw)


def _rounded(value: Value) -> Value:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value

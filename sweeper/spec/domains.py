"""The domain of a parameter, its possible values: a fixed value, choices or a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from sweeper.spec.problems import KeyPath, Problem, ProblemsError, did_you_mean, rule, shown
from trainables.settings.parameters import Parameters

Value = str | int | float


def same(first: object, second: object) -> bool:
    """Return whether two parameter values are equal: 1 equals 1.0, but not true."""
    return first == second and (type(first) is type(second) or _is_number(first) and _is_number(second))


@dataclass(frozen=True)
class Fixed:
    """The domain of a parameter that is not searched: a single value."""

    value: Value

    def match(self, value: object) -> Value | None:
        """Return the value in the domain's own type, None for a value outside."""
        return self.value if same(value, self.value) else None

    def examples(self) -> list[Value]:
        """Return every value of a finite domain, the bounds of a range."""
        return [self.value]

    def written(self) -> list[tuple[KeyPath, Value]]:
        """Return the values that a spec writes for this domain, each with its path below the parameter."""
        return [(("value",), self.value)]

    def __str__(self) -> str:
        return f"always {self.value}"


@dataclass(frozen=True)
class Choices:
    """The domain of a parameter that has one of several values."""

    values: tuple[Value, ...]

    def match(self, value: object) -> Value | None:
        return next((choice for choice in self.values if same(choice, value)), None)

    def examples(self) -> list[Value]:
        return list(self.values)

    def written(self) -> list[tuple[KeyPath, Value]]:
        return [(("choices", index), value) for index, value in enumerate(self.values)]

    def __str__(self) -> str:
        return "one of " + ", ".join(str(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """The domain of a number from low to high, both included: a whole number where both bounds are whole."""

    low: int | float
    high: int | float
    log: bool = False
    """Whether the sampler draws the logarithm uniformly."""
    step: int | float | None = None
    auto: bool = False
    """Whether the search narrows the range by itself (``learning_rate: auto``)."""

    @property
    def integer(self) -> bool:
        """Whether all values are whole numbers."""
        return isinstance(self.low, int)

    def match(self, value: object) -> Value | None:
        if not _is_number(value) or not self.low <= value <= self.high:
            return None
        if self.integer and value != int(value):
            return None
        if self.step is not None and not _whole((value - self.low) / self.step):
            return None
        return int(value) if self.integer else float(value)

    def examples(self) -> list[Value]:
        return [self.low, self.high]

    def at(self, position: float) -> Value:
        """Return the value at a position from 0 (low) to 1 (high), which is linear in the logarithm if ``log``."""
        if self.log:
            value = self.low * (self.high / self.low) ** position
        else:
            value = self.low + (self.high - self.low) * position
        if self.step is not None:
            value = self.low + round((value - self.low) / self.step) * self.step
        return round(value) if self.integer else min(max(float(value), self.low), self.high)

    def written(self) -> list[tuple[KeyPath, Value]]:
        return [(("low",), self.low), (("high",), self.high)]

    def cut(self, low: float, high: float) -> Range:
        """Return the part of a range of numbers that are not whole."""
        return replace(self, low=max(low, self.low), high=min(high, self.high))

    def __str__(self) -> str:
        kind = "a whole number" if self.integer else "a number"
        return f"{kind} from {self.low} to {self.high}" + (f" in steps of {self.step}" if self.step else "")


AUTO_RATE = Range(1e-9, 10.0, log=True, auto=True)
"""The domain of ``learning_rate: auto``: wide enough for any model."""

Domain = Fixed | Choices | Range
"""The possible values of a parameter under a condition."""


def parse_domain(raw: Any, where: str) -> Domain:
    """Return the domain written as a plain value, ``{value}``, ``{choices}`` or ``{low, high, log, step}``, without
    ``when``.

    Args:
        where: name of the parameter in messages.

    Raises:
        ProblemsError: the domain cannot be used; paths are relative to ``raw``.
    """
    if raw == "auto" and where.partition(".")[0] == "learning_rate":
        return AUTO_RATE
    if not isinstance(raw, Mapping):
        if not isinstance(raw, str | int | float) or isinstance(raw, bool):
            message = f"`{where}` is {shown(raw)}; write a value, {{choices: [...]}} or {{low: ..., high: ...}}"
            raise ProblemsError([Problem((), message)])
        return Fixed(raw)
    forms = {"value": {"value"}, "choices": {"choices"}, "low": {"low", "high", "log", "step"}}
    if "high" in raw and "low" not in raw:
        raise ProblemsError([Problem((), f"`{where}` has a `high` but no `low`")])
    form = next((allowed for key, allowed in forms.items() if key in raw), None)
    if form is None:
        known = ["choices", "low", "high", "log", "step", "value", "when"]
        hint = did_you_mean(next(iter(raw), ""), known)
        message = f"`{where}` has no values; write {{low, high}}, {{choices: [...]}} or a plain value"
        raise ProblemsError([Problem((), message + hint)])
    problems = [
        Problem((key,), f"`{where}`: unknown key `{key}`" + did_you_mean(key, [*sorted(form), "when"]), at_key=True)
        for key in raw
        if key not in form
    ]
    if problems:
        raise ProblemsError(problems)
    if "value" in raw:
        return parse_domain(raw["value"], where) if not isinstance(raw["value"], Mapping) else _refuse_value(where)
    return _choices(raw["choices"], where) if "choices" in raw else _range(raw, where)


def _refuse_value(where: str) -> Domain:
    raise ProblemsError([Problem(("value",), f"`{where}`: `value` is one plain value, not a mapping")])


def _choices(raw: Any, where: str) -> Choices:
    if not isinstance(raw, list) or not raw:
        message = f"`{where}`: `choices` is a list of values ([a, b]), not {shown(raw)}"
        raise ProblemsError([Problem(("choices",), message)])
    problems = []
    for index, value in enumerate(raw):
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            problems.append(Problem(("choices", index), f"`{where}`: a choice is text or a number, not {shown(value)}"))
        elif any(same(value, other) for other in raw[:index]):
            problems.append(Problem(("choices", index), f"`{where}`: the choice {shown(value)} stands there twice"))
    if problems:
        raise ProblemsError(problems)
    if all(_is_number(value) for value in raw) and any(isinstance(value, float) for value in raw):
        return Choices(tuple(float(value) for value in raw))
    return Choices(tuple(raw))


def _range(raw: Mapping[str, Any], where: str) -> Range:
    problems = []
    for key in ("low", "high", "step"):
        value = raw.get(key)
        if key == "step" and value is None:
            continue
        if key not in raw:
            problems.append(Problem((), f"`{where}` has a `low` but no `high`"))
        elif value == "embed_dim":
            message = "the model's embedding width is not known here; write the number"
            problems.append(Problem((key,), f"`{where}`: {message}"))
        elif not _is_number(value) or not math.isfinite(value):
            problems.append(Problem((key,), f"`{where}`: `{key}` must be a finite number, not {shown(value)}"))
    if not isinstance(raw.get("log", False), bool):
        problems.append(Problem(("log",), f"`{where}`: `log` is true or false, not {shown(raw['log'])}"))
    if problems:
        raise ProblemsError(problems)
    low, high, log, step = raw["low"], raw["high"], raw.get("log", False), raw.get("step")
    if low >= high:
        hint = "write it as a plain value" if low == high else "swap them"
        raise ProblemsError([Problem(("low",), f"`{where}`: low {low} is not below high {high}; {hint}")])
    if log and low <= 0:
        message = f"`{where}`: a log range starts above 0, not at {low}; raise `low` or drop `log`"
        raise ProblemsError([Problem(("low",), message)])
    if not (isinstance(low, int) and isinstance(high, int)):
        low, high = float(low), float(high)
    elif isinstance(step, float):
        raise ProblemsError([Problem(("step",), f"`{where}`: steps between whole bounds are whole, not {step}")])
    if step is not None:
        if log:
            raise ProblemsError([Problem(("step",), f"`{where}`: a log range has no `step`; drop one of the two")])
        if step <= 0:
            raise ProblemsError([Problem(("step",), f"`{where}`: `step` must be above 0, not {step}")])
        if not _whole((high - low) / step):
            last = low + math.floor((high - low) / step) * step
            message = f"`{where}`: steps of {step} from {low} never come to {high}; end, for instance, at {last:g}"
            raise ProblemsError([Problem(("high",), message)])
    return Range(low, high, log, step)


def field_problem(parameter: str, value: object) -> str | None:
    """Return what is wrong with the value of a parameter, whatever the others are.

    A parameter that is no field of Parameters is one of an objective of the user's own, which takes any finite value.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f"{shown(value)} must be a finite number"
    if parameter not in Parameters.model_fields:
        return None
    field = Parameters.model_fields[parameter]
    annotated: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        TypeAdapter(annotated).validate_python(value, strict=True)
    except ValidationError as error:
        words = ", or `auto`" if parameter == "learning_rate" and isinstance(value, str) else ""
        details = error.errors()
        own = [detail for detail in details if detail["type"] == "value_error"]  # a function's name that was misspelt
        return f"{shown(value)} {rule((own or details)[0])}{words}"
    return None


def legal_values(parameter: str) -> list[Value]:
    """Return the values of a field of Parameters that has a choice of them, none for any other parameter."""
    if parameter not in Parameters.model_fields:
        return []
    annotation = Parameters.model_fields[parameter].annotation
    forms = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)  # X | None
    return [value for form in forms if get_origin(form) is Literal for value in get_args(form)]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-9 * max(1.0, abs(number))

"""Problems of a spec: the fault of a value, in words for users, and the place of the value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trainables.settings.sets import SettingError

Key = str | int
KeyPath = tuple[Key, ...]
"""Path from the top of a document to a value: keys of mappings, indices of lists."""


@dataclass(frozen=True)
class Problem:
    """The fault of the value at ``path``, or a missing value there."""

    path: KeyPath
    message: str
    at_key: bool = False
    """Whether the key itself is wrong, not its value."""

    def below(self, path: KeyPath) -> Problem:
        """Return the same problem in a document that contains this one at ``path``."""
        return Problem((*path, *self.path), self.message, self.at_key)


class ProblemsError(ValueError):
    """Several problems at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problem.message for problem in self.problems))


def dotted(path: Iterable[Key]) -> str:
    """Return a path as text: ``("points", 0, "beta")`` -> ``points.0.beta``."""
    return ".".join(str(key) for key in path)


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return ``; did you mean `x`?`` if a known word is close, then the known words (twenty at most).

    A word with letters that look like others, or with characters that nobody sees, is written out.
    """
    names = [str(name) for name in known]
    written = "" if (text := str(word)).isascii() and text.isprintable() else f" (written {ascii(text)})"
    guess = closest(str(word), names)
    listed = ", ".join(names) if len(names) <= 20 else ", ".join(names[:20]) + f" and {len(names) - 20} more"
    return written + (f"; did you mean `{guess}`?" if guess else ";") + f" known here: {listed}"


def closest(word: str, known: Sequence[str]) -> str | None:
    """Return the known word that was probably meant: similar letters, a beginning, or initials (``lr``)."""
    word = word.lower()
    lowered = [name.lower() for name in known]
    close = difflib.get_close_matches(word, lowered, n=1, cutoff=0.6)
    short = [name for name in lowered if name.startswith(word) or "".join(p[:1] for p in name.split("_")) == word]
    candidates = (close or short) if word else []
    return known[lowered.index(candidates[0])] if candidates else None


def shown(value: object) -> str:
    """Return a value as a user wrote it, on one line and shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text (put it in quotes if it looks like a number)",
    "bool_type": "true or false",
    "path_type": "a path",
    "list_type": "a list ([a, b])",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}
"""Type of pydantic's error -> the required kind of value, in words."""


def rule(error: ErrorDetails, *, of_several: bool = False) -> str:
    """Return the rule that a value broke, in words that follow the value.

    Args:
        of_several: whether the value has broken other rules too and would be valid if it kept one of them.
    """
    kind, context = error["type"], error.get("ctx") or {}
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    if kind == "literal_error":
        choices = _quoted(context["expected"])
        if len(choices) == 1:
            return f"must be `{choices[0]}`" + ("" if of_several else ", the only one for now")
        return "is none of the choices" + did_you_mean(error.get("input"), choices)
    if kind in ("greater_than", "greater_than_equal"):
        return f"must be above {context['gt']:g}" if "gt" in context else f"must be {context['ge']:g} or more"
    if kind in ("less_than", "less_than_equal"):
        return f"must be below {context['lt']:g}" if "lt" in context else f"must be {context['le']:g} or less"
    if kind == "too_short":
        least = context["min_length"]
        return f"needs at least {least} {'entry' if least == 1 else 'entries'}"
    if kind == "value_error":
        return str(context["error"])
    return error["msg"]


def from_validation(error: ValidationError, data: Any, model: type[BaseModel]) -> list[Problem]:
    """Return pydantic's errors about ``data`` as problems with paths into it.

    A value that fits none of several forms is one problem; if it is close to one of them, that form's problem.
    """
    details: dict[KeyPath, list[ErrorDetails]] = {}
    own: dict[KeyPath, list[Problem]] = {}
    for detail in error.errors():
        path = _path(detail["loc"], data, named=detail["type"] in ("missing", "extra_forbidden"))
        details.setdefault(path, [])
        cause = _cause(detail)
        if isinstance(cause, ProblemsError):
            own[path] = [*own.get(path, ()), *(problem.below(path) for problem in cause.problems)]
        else:
            details[path].append(detail)
    problems: list[Problem] = []
    for path, details_at_path in details.items():
        if any(other[: len(path)] == path and len(other) > len(path) for other in details if details[other]):
            continue  # One form of a union was closer: it got further into the value.
        problems += own.get(path, [])
        close = [detail for detail in details_at_path if not detail["type"].endswith(("_type", "literal_error"))]
        if details_at_path:
            problems.append(_worded(path, close or details_at_path, data, model))
    return problems


def _worded(path: KeyPath, details: Sequence[ErrorDetails], data: Any, model: type[BaseModel]) -> Problem:
    first = details[0]
    context = first.get("ctx") or {}
    if first["type"] == "extra_forbidden":
        where = f" in `{dotted(path[:-1])}`" if path[:-1] else ""
        hint = did_you_mean(path[-1], _known_keys(model, path[:-1], data))
        return Problem(path, f"unknown key `{path[-1]}`{where}{hint}", at_key=True)
    if first["type"] == "missing":
        return Problem(path, f"`{dotted(path)}` is missing")
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        cause = _cause(first)
        about = cause.path if isinstance(cause, SettingError) else ()
        message = rule(first)
        located = (*path, *about) if _reaches(data, (*path, *about)) else path
        return Problem(located, f"`{dotted(path)}`: {message}" if path else message)
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        given = context.get("tag")
        known = did_you_mean(given, _quoted(context.get("expected_tags", "")))
        unknown = f"`{dotted(path)}.kind`: {given!r} is unknown{known}"
        return Problem((*path, "kind"), unknown if given is not None else f"`{dotted(path)}.kind` is missing")
    rules = dict.fromkeys(rule(detail, of_several=len(details) > 1) for detail in details)
    broken = ", or ".join(rules).replace(", or must be", ", or")
    return Problem(path, f"`{dotted(path)}`: {shown(first['input'])} {broken}")


def _cause(detail: ErrorDetails) -> Exception | None:
    """Return the exception that one of sweeper's own checks raised; None for others."""
    cause: Exception | None = (detail.get("ctx") or {}).get("error")
    return cause


def _quoted(choices: str) -> list[str]:
    """Return the choices in ``'a', 'b' or 'c'``; pydantic 2 gives literals and tags in this form only."""
    return re.findall(r"'([^']*)'", choices)


def _path(location: Sequence[Key], data: Any, named: bool) -> KeyPath:
    """Remove the parts that pydantic adds to a location: names of a union's members are not keys of the document.

    Args:
        named: whether the last part is a key, though the document may not have it.
    """
    path: list[Key] = []
    for position, key in enumerate(location):
        if _has(data, key):
            data = data[key]
            path.append(key)
        elif named and position == len(location) - 1:
            path.append(key)
    return tuple(path)


def _reaches(data: Any, path: KeyPath) -> bool:
    """Return whether ``data`` has a value at ``path``."""
    for key in path:
        if not _has(data, key):
            return False
        data = data[key]
    return True


def _has(data: Any, key: Key) -> bool:
    if isinstance(data, list):
        return isinstance(key, int) and key < len(data)
    return isinstance(data, Mapping) and key in data


def _known_keys(model: type[BaseModel], path: Sequence[Key], data: Any) -> list[str]:
    """Return the keys that the mapping at ``path`` may have: those of its ``kind`` if it names one."""
    models = [model]
    for key in path:
        data = data[key]
        fields = [field for owner in models for name, field in owner.model_fields.items() if key in (name, field.alias)]
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
    kind = data.get("kind")
    of_kind = [
        candidate
        for candidate in models
        if "kind" in candidate.model_fields and kind in get_args(candidate.model_fields["kind"].annotation)
    ]
    keys = [(field.alias or name) for candidate in of_kind or models for name, field in candidate.model_fields.items()]
    return list(dict.fromkeys(keys))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _models_in(argument)]

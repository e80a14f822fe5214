"""What is wrong with a value and where it stands: findings of the spec's checks, in words for users."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Key = str | int


@dataclass(frozen=True)
class Problem:
    """One finding. ``path`` leads from the top of the document to the value (or to the place where one is missing)."""

    path: tuple[Key, ...]
    message: str
    at_key: bool = False
    """Whether the key itself is wrong, not its value."""


class ProblemsError(ValueError):
    """Several findings at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problem.message for problem in self.problems))


def dotted(path: Iterable[Key]) -> str:
    """``("points", 0, "beta")`` -> ``points.0.beta``."""
    return ".".join(str(key) for key in path)


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """``; did you mean `x`?`` where something known is close, then everything known (twenty at most)."""
    names = [str(name) for name in known]
    guess = closest(str(word), names)
    listed = ", ".join(names) if len(names) <= 20 else ", ".join(names[:20]) + f" and {len(names) - 20} more"
    return (f"; did you mean `{guess}`?" if guess else ";") + f" known here: {listed}"


def closest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant: much the same letters, a beginning, or initials (``lr``)."""
    word = word.lower()
    lowered = [name.lower() for name in known]
    close = difflib.get_close_matches(word, lowered, n=1, cutoff=0.6)
    short = [name for name in lowered if name.startswith(word) or "".join(p[:1] for p in name.split("_")) == word]
    found = (close or short) if word else []
    return known[lowered.index(found[0])] if found else None


def shown(value: object) -> str:
    """A value as a user wrote it, on one line and not too long."""
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
    "string_type": "text (put it in quotes where it looks like a number)",
    "bool_type": "true or false",
    "path_type": "a path",
    "list_type": "a list ([a, b])",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}


def rule(error: Mapping[str, Any]) -> str:
    """The rule that a value broke, from one of pydantic's error details, worded to follow the value."""
    kind, context = str(error["type"]), error.get("ctx") or {}
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        if len(choices) == 1:
            return f"must be `{choices[0]}`, the only one for now"
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
    return str(error["msg"])


def from_validation(error: ValidationError, data: Any, model: type[BaseModel]) -> list[Problem]:
    """Pydantic's findings about ``data``, as problems with paths into it.

    A value that fits none of several forms is one problem; where it comes close to one of them, that form's.
    """
    found: list[tuple[tuple[Key, ...], Mapping[str, Any]]] = []
    for detail in error.errors():
        inner = (detail.get("ctx") or {}).get("error")
        path = _path(detail["loc"], data, named=detail["type"] in ("missing", "extra_forbidden"))
        if isinstance(inner, ProblemsError):
            found += [(path, {**detail, "problem": problem}) for problem in inner.problems]
        else:
            found.append((path, detail))
    paths = [path for path, detail in found if "problem" not in detail]
    problems: list[Problem] = []
    for path in dict.fromkeys(path for path, _ in found):
        details = [detail for other, detail in found if other == path]
        if any(other[: len(path)] == path and len(other) > len(path) for other in paths):
            continue  # One form of a union came closer: it got further into the value.
        problems += [
            Problem((*path, *detail["problem"].path), detail["problem"].message, detail["problem"].at_key)
            for detail in details
            if "problem" in detail
        ]
        plain = [detail for detail in details if "problem" not in detail]
        close = [detail for detail in plain if not detail["type"].endswith(("_type", "literal_error"))]
        if plain:
            problems.append(_worded(path, close or plain, data, model))
    return problems


def _worded(path: tuple[Key, ...], details: Sequence[Mapping[str, Any]], data: Any, model: type[BaseModel]) -> Problem:
    first = details[0]
    if first["type"] == "extra_forbidden":
        where = f" in `{dotted(path[:-1])}`" if path[:-1] else ""
        hint = did_you_mean(path[-1], _known_keys(model, path[:-1], data))
        return Problem(path, f"unknown key `{path[-1]}`{where}{hint}", at_key=True)
    if first["type"] == "missing":
        return Problem(path, f"`{dotted(path)}` is missing")
    if first["type"] == "value_error" and isinstance(first.get("input"), Mapping):
        message = rule(first)
        # A check over several values says first which one it is about.
        named = re.match(r"[a-z_.]+", message)
        about = tuple(named[0].strip(".").split(".")) if named else ()
        located = (*path, *about) if _reaches(data, path, about) else path
        return Problem(located, f"`{dotted(path)}`: {message}" if path else message)
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = re.findall(r"'([^']*)'", str(first["ctx"].get("expected_tags", "")))
        given = first["ctx"].get("tag")
        unknown = f"`{dotted(path)}.kind`: {given!r} is unknown{did_you_mean(given, kinds)}"
        return Problem((*path, "kind"), unknown if given is not None else f"`{dotted(path)}.kind` is missing")
    rules = list(dict.fromkeys(rule(detail).removesuffix(", the only one for now") for detail in details))
    if len(details) == 1:
        rules = [rule(first)]
    broken = ", or ".join(rules).replace(", or must be", ", or")
    return Problem(path, f"`{dotted(path)}`: {shown(first.get('input'))} {broken}")


def _path(location: Sequence[Key], data: Any, named: bool) -> tuple[Key, ...]:
    """Drops what pydantic adds to a location: names of a union's members are no keys of the document.

    ``named``: the last part is a key, though it may not be there.
    """
    path: list[Key] = []
    for position, key in enumerate(location):
        inside = isinstance(data, Mapping) and key in data
        if inside or isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
            path.append(key)
        elif named and position == len(location) - 1:
            path.append(key)
    return tuple(path)


def _reaches(data: Any, path: Sequence[Key], about: Sequence[str]) -> bool:
    for key in path:
        data = data[key]
    for name in about:
        if not isinstance(data, Mapping) or name not in data:
            return False
        data = data[name]
    return bool(about)


def _known_keys(model: type[BaseModel], path: Sequence[Key], data: Any) -> list[str]:
    candidates = [model]
    for key in path:
        data = data[key]
        fields = [field for one in candidates for name, field in one.model_fields.items() if key in (name, field.alias)]
        candidates = [inner for field in fields for inner in _models_in(field.annotation)] or candidates
    kind = data.get("kind")
    kinds = {one: get_args(one.model_fields["kind"].annotation) for one in candidates if "kind" in one.model_fields}
    of_kind = [one for one in candidates if kind in kinds.get(one, ())]
    known = [(field.alias or name) for one in of_kind or candidates for name, field in one.model_fields.items()]
    return list(dict.fromkeys(known))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _models_in(argument)]

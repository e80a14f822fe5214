"""The JSON Schema of a spec: what a spec may hold, with the descriptions that users read.

The descriptions are the docstrings below the fields of the settings. They are read from the source when a schema is
asked for: pydantic's own way (``use_attribute_docstrings``) doubles the time that every command takes to start.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from sweeper.spec.spec import EXTENSION, spec_type
from trainables.settings.parameters import Parameters
from trainables.tasks.known import KINDS

_WHEN = {"type": "object", "description": "Values of other parameters under which this domain applies."}
_VALUE = {"anyOf": [{"type": "string"}, {"type": "number"}]}
_FORMS: list[dict[str, Any]] = [
    {"properties": {"value": _VALUE, "when": _WHEN}, "required": ["value"]},
    {"properties": {"choices": {"type": "array", "items": _VALUE}, "when": _WHEN}, "required": ["choices"]},
    {
        "properties": {
            "low": {"type": "number", "description": "The smallest value."},
            "high": {"description": "The largest value."},
            "log": {"type": "boolean", "description": "Draw the logarithm uniformly.", "default": False},
            "step": {"type": "number", "description": "Only low, low + step, low + 2 steps and so on."},
            "when": _WHEN,
        },
        "required": ["low", "high"],
    },
]
_CONDITIONAL = [{"type": "object", "additionalProperties": False, **form} for form in _FORMS]
_DOMAIN: dict[str, Any] = {"anyOf": [_VALUE, *_CONDITIONAL, {"type": "array", "items": {"anyOf": _CONDITIONAL}}]}
"""Forms of a parameter in a search space, see ``sweeper.spec.domains``."""
_OF_FUNCTION = {"$ref": "#/$defs/Domain", "description": "A parameter of an objective that is a function of your own."}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a spec, for editors: one alternative per task, every field with a description."""
    definitions: dict[str, Any] = {}
    of_tasks = []
    for kind in KINDS:
        read = spec_type(kind.name)
        described = read.model_json_schema()
        described["required"].remove("name")
        described["patternProperties"] = {f"^{EXTENSION}": {}}
        own: dict[str, Any] = described.pop("$defs", {})
        for model in models_of(read):
            _describe(described if model is read else own[model.__name__], model)
        described["description"] = _plain(kind.settings.__doc__ or "")
        described["properties"]["parameters"]["properties"] = _parameters()
        described["properties"]["parameters"]["additionalProperties"] = _OF_FUNCTION
        definitions |= own
        of_tasks.append(described)
    definitions["Domain"] = _DOMAIN
    return {"anyOf": of_tasks, "$defs": definitions}


def models_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a model and every model that its fields hold, each once, outermost first."""
    found = [model]
    for outer in found:
        held = (inner for field in outer.model_fields.values() for inner in _models_in(field.annotation))
        found += [inner for inner in dict.fromkeys(held) if inner not in found]
    return found


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return what the fields of a model are for, by the name of the field: the docstrings below them, those of its
    bases included."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        # A model that was made by ``create_model`` has no source, and no fields of its own.
        if issubclass(base, BaseModel) and base is not BaseModel and base.__qualname__ in _names(base):
            texts |= _docstrings(base)
    return {name: texts[name] for name in model.model_fields if name in texts}


def _names(model: type[BaseModel]) -> set[str]:
    module = inspect.getmodule(model)
    return set(vars(module)) if module is not None else set()


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: _plain(below.value.value)
        for field, below in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def _parameters() -> dict[str, Any]:
    texts = descriptions(Parameters)
    return {name: {"$ref": "#/$defs/Domain", "description": texts[name]} for name in Parameters.model_fields}


def _describe(described: dict[str, Any], model: type[BaseModel]) -> None:
    if "description" in described:
        described["description"] = _plain(described["description"])
    for name, text in descriptions(model).items():
        described["properties"][model.model_fields[name].alias or name]["description"] = text


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _plain(docstring: str) -> str:
    """Return a docstring on one line, code between single backticks."""
    return " ".join(docstring.split()).replace("``", "`")

"""Output for scripts, held against the schema that ``sweeper schema output`` states."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from jsonschema import Draft202012Validator

from sweeper.cli.output_schema import csv_schema, schemas


def assert_json_fits(listing: str, text: str) -> Any:
    """Return the data of ``--format json``; fail where they do not follow the schema of the listing."""
    data = json.loads(text, parse_constant=_refuse)
    Draft202012Validator(schemas()[listing]).validate(data)
    return data


def assert_csv_fits(listing: str, text: str) -> list[dict[str, object]]:
    """Return the rows of ``--format csv``; fail where a column or a value does not follow the schema."""
    rows = list(csv.DictReader(io.StringIO(text)))
    typed = [{name: _value(cell) for name, cell in row.items()} for row in rows]
    validator = Draft202012Validator(csv_schema(listing))
    for row in typed:
        validator.validate(row)
    return typed


def _value(cell: str) -> object:
    if cell == "":
        return None
    if cell in ("True", "False"):
        return cell == "True"
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        return float(cell)
    except ValueError:
        return cell


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")

"""What a spec may hold is described once, for editors and for docs/spec.md."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.spec.reference import reference
from sweeper.spec.schema import descriptions, models_of, schema
from sweeper.spec.spec import spec_type
from tests.paths import ROOT
from trainables.settings.parameters import Parameters
from trainables.tasks.known import KINDS

MODELS = {model: None for kind in KINDS for model in models_of(spec_type(kind.name))}


@pytest.mark.parametrize("model", [*MODELS, Parameters], ids=lambda model: model.__name__)
def test_every_key_of_a_spec_is_described(model: Any) -> None:
    texts = descriptions(model)
    assert set(texts) == set(model.model_fields)
    assert all(text.endswith((".", ".)")) and len(text) > 6 for text in texts.values()), texts
    assert model.__doc__


def test_the_schema_holds_the_descriptions() -> None:
    described = schema()
    mappings = [*described["anyOf"], *(inner for inner in described["$defs"].values() if "properties" in inner)]
    for mapping in mappings:
        for key, value in mapping["properties"].items():
            assert value.get("description"), (mapping.get("title"), key)
    parameters = described["anyOf"][0]["properties"]["parameters"]["properties"]
    assert list(parameters) == list(Parameters.model_fields)
    assert "first trials find it" in parameters["learning_rate"]["description"]


def test_a_path_may_be_a_text_or_a_list_in_the_schema() -> None:
    folder = schema()["$defs"]["ImageFolderSet"]["properties"]
    assert [form.get("type") for form in folder["train"]["anyOf"]] == ["string", "array", "null"]
    assert {"$ref": "#/$defs/HeldBack"} in folder["validation"]["anyOf"]


def test_the_page_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["schema", "--markdown"])
    assert printed.exit_code == 0 and printed.stdout == reference()
    page = (ROOT / "docs" / "spec.md").read_text()
    assert page == reference(), "make it again: sweeper schema --markdown > docs/spec.md"


def test_the_page_has_a_row_for_every_key_and_every_link_leads_somewhere() -> None:
    page = reference()
    headings = {line[3:].lower() for line in page.splitlines() if line.startswith("## ")}
    anchors = {"".join(c for c in title if c.isalnum() or c in "_ -").replace(" ", "-") for title in headings}
    links = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert links <= anchors
    for model in MODELS:
        for name, field in model.model_fields.items():
            assert f"| `{field.alias or name}` | " in page, (model, name)


def test_what_the_page_says_of_a_key_is_what_the_settings_say() -> None:
    rows = {tuple(line.split(" | ")[:3]) for line in reference().splitlines() if line.startswith("| `")}
    assert ("| `trials`", "whole number, at least 1", "`32`") in rows
    assert ("| `share`", "number, above 0, below 1", "-") in rows
    assert ("| `from`", "`train`", "**needed**") in rows
    example = reference().split("```yaml\n")[1].split("```")[0]
    assert set(yaml.safe_load(example)) < set(Parameters.model_fields)
    json.dumps(schema())

"""The page docs/spec.md, made from the JSON Schema of a spec: ``sweeper schema --markdown``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sweeper.spec.schema import schema
from trainables.settings.parameters import Parameters

Json = dict[str, Any]
_SCALARS = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text"}

_SECTIONS = {
    "ModelSettings": "model",
    "Preprocess": "model.preprocess",
    "Expectation": "model.expect",
    "WorldSet": "sets, kind world",
    "ImageFolderSet": "sets, kind image_folder",
    "TorchvisionSet": "sets, kind torchvision",
    "WebDatasetSet": "sets, kind webdataset",
    "WrittenLabelSet": "sets, kind rta100 or paint",
    "DisentanglingSet": "sets, kind disentangling",
    "ScamSet": "sets, kind scam",
    "AttributeFolderSet": "sets, kind attribute_folder",
    "AttributeTableSet": "sets, kind attribute_table",
    "UtkFaceSet": "sets, kind utkface",
    "CelebASet": "sets, kind celeba",
    "HeldBack": "Images held back",
    "AttackedTrainSettings": "train",
    "AttackSettings": "attack",
    "AttackedEvaluateSettings": "evaluate",
    "SearchEvaluation": "evaluate.search",
    "FrontEvaluation": "evaluate.front",
    "SecondLookEvaluation": "evaluate.second_look",
    "AttackedTestSettings": "evaluate.test",
    "GoalSettings": "goals",
    "OwnMetric": "metrics",
    "Domain": "parameters",
    "Search": "search",
    "Stopping": "stopping",
    "Paint": "paint",
    "Confirm": "confirm",
    "Resources": "resources",
    "Limits": "limits",
    "TrainingSettings": "training",
    "TrainSettings": "train, task attribute",
    "AttributeEvaluateSettings": "evaluate, task attribute",
    "HeldOutEvaluation": "evaluate.test, task attribute",
    "AttributeSection": "attribute",
}
"""The title of the section of every definition, in the order of the page."""

_HEAD = """\
# Spec reference

Every key of a spec. `sweeper init` writes a commented spec to start from, `sweeper schema` prints the same descriptions
as a JSON Schema for editors, and `sweeper check` tells every mistake with its line and what to write instead.

This page is made by `sweeper schema --markdown > docs/spec.md`, from the docstrings of the settings: change those.

A spec is one YAML mapping. Relative paths are taken from the folder of the file, `~` and `$DATA` in them are replaced.
Keys at the top that begin with `x-` are ignored: a place for YAML anchors, which `<<: *common` merges.

**needed**: there is no default. **-**: nothing, unless you write something.
"""

_PARAMETERS = """\
A parameter has a plain value (the same in all trials), choices, or a range; `when` limits either to trials in which
other parameters have certain values, and a list holds several, one for each condition:

```yaml
weight_decay: 0.0                                       # a plain value; also {value: 0.0}
objective: {choices: [dpo, ipo, kto, cross_entropy]}
tune: {choices: [transform, last_blocks]}
lambda_reg: {low: 0.01, high: 10.0, log: true}          # log: the logarithm is drawn uniformly
epochs: {low: 2, high: 8, step: 2}                      # whole numbers where both ends are whole
blocks: {when: {tune: last_blocks}, choices: [1, 2]}
beta:
  - {when: {objective: [dpo, kto]}, low: 0.05, high: 5.0, log: true}
  - {when: {objective: ipo}, low: 0.005, high: 0.5, log: true}
rank: {when: {tune: transform}, low: 16, high: embed_dim, log: true}    # embed_dim: the model's embedding width
learning_rate: auto                                     # found by the first trials
```

Objectives may be functions of your own ([objectives.md](objectives.md)); their parameters stand beside the others,
limited by `when: {objective: package.module:function}`.
"""


def reference() -> str:
    """Return docs/spec.md: a table for each section of a spec, with values, default and description of each key."""
    described = schema()
    definitions = described["$defs"]
    typographic, attribute = described["anyOf"]
    own = {key: value for key, value in attribute["properties"].items() if value != typographic["properties"].get(key)}
    lines = [_HEAD, *_section("Keys at the top", typographic)]
    lines += _section("Keys at the top, task attribute", {**attribute, "properties": own})
    for name, title in _SECTIONS.items():
        lines += _parameters(title, typographic) if name == "Domain" else _section(title, definitions[name])
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, described: Json) -> Iterator[str]:
    yield f"## {title}\n"
    if "description" in described:
        yield described["description"] + "\n"
    yield "| key | values | default | what it is for |"
    yield "| --- | --- | --- | --- |"
    for key, value in described["properties"].items():
        default = "**needed**" if key in described.get("required", []) else _default(value)
        yield f"| `{key}` | {_values(value)} | {default} | {value['description']} |"
    yield ""


def _parameters(title: str, described: Json) -> Iterator[str]:
    yield f"## {title}\n"
    yield _PARAMETERS
    yield "| parameter | values | what it is for |"
    yield "| --- | --- | --- |"
    fields = Parameters.model_json_schema()["properties"]
    for key, value in described["properties"]["parameters"]["properties"].items():
        text = value["description"].replace("||", "\\|\\|")
        yield f"| `{key}` | {_values(fields[key])} | {text} |"
    yield ""


def _default(value: Json) -> str:
    default = value.get("default")
    if default is None or "$ref" in value:
        return "-"
    if isinstance(default, dict) and default:
        return "see there"
    return f"`{json.dumps(default) if not isinstance(default, str) else default}`"


def _values(value: Json) -> str:
    """Return what may be written for a key, in words."""
    forms = value.get("anyOf") or value.get("oneOf") or [value]
    words = [_form(form) for form in forms if form.get("type") != "null"]
    return " or ".join(dict.fromkeys(words))


def _form(form: Json) -> str:
    if "$ref" in form:
        return _link(_SECTIONS[form["$ref"].rpartition("/")[2]])
    if "const" in form:
        return f"`{form['const']}`"
    if "examples" in form:
        return " or ".join(f"`{example}`" for example in form["examples"])
    if "enum" in form:
        return ", ".join(f"`{word}`" for word in form["enum"])
    if form.get("type") == "array":
        if "prefixItems" in form:
            return f"list of {len(form['prefixItems'])} numbers"
        return f"list of {_values(form['items'])}"
    if form.get("type") == "object":
        if "propertyNames" in form:
            return _link(_SECTIONS["Domain"])
        held = form.get("additionalProperties")
        return f"mapping from names to {_values(held)}" if isinstance(held, dict) else "mapping"
    return _SCALARS[form["type"]] + _bounds(form)


def _bounds(form: Json) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return "".join(f", {word} {form[key]:g}" for key, word in words.items() if key in form)


def _link(title: str) -> str:
    """Return a link to a section by its title, as GitHub names it."""
    return f"[{title.removeprefix('sets, ')}](#{re.sub(r'[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')})"

"""README.md and docs/: every spec, command and link in them is one that works."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from sweeper.cli.main import app
from sweeper.spec.spec import Spec, spec_type
from tests.paths import ROOT
from trainables.settings.parameters import Parameters
from trainables.settings.task import absolute_paths

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "PAPER.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?:\]\(|src=\")([^)\"\s]+)[)\"]")
WHOLE = {"sets", "train", "evaluate", "parameters"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks of code of a page."""
    return [(match[1], match[2]) for match in BLOCK.finditer(page.read_text())]


def named(page: Path, index: int) -> str:
    return f"{page.relative_to(ROOT)}:{index}"


YAML = [
    pytest.param(page, text, id=named(page, index))
    for page in PAGES
    for index, (language, text) in enumerate(blocks(page))
    if language == "yaml"
]


def read(data: dict[str, Any]) -> Spec:
    """A spec as far as it can be read without the images that it names."""
    data = absolute_paths({"name": "mine", **data}, ROOT)
    kind = spec_type(data.get("task", "typographic"))
    return kind.model_validate_json(json.dumps(data), strict=True, context={"embed_dim": 512})


def laid_over(base: Any, part: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(part, dict)):
        return part
    return {**base, **{key: laid_over(base.get(key), value) for key, value in part.items()}}


@pytest.mark.parametrize("page, text", YAML)
def test_a_spec_in_the_docs_can_be_read(page: Path, text: str) -> None:
    """A part of a spec is laid over the quickstart."""
    data = yaml.safe_load(text.replace("1e-", "1.0e-").replace("2e-", "2.0e-"))
    quickstart = yaml.safe_load((ROOT / "search_spaces" / "quickstart.yaml").read_text().replace("1e-", "1.0e-"))
    quickstart["sets"]["mine"] = quickstart["sets"]["world"]
    if set(data) <= set(Parameters.model_fields):
        data = {"parameters": {**data, "learning_rate": "auto"}, "points": []}
        quickstart = {key: value for key, value in quickstart.items() if key != "parameters"}
        quickstart["train"] = {**quickstart["train"], "images": None, "copies": 10}
    spec = read(data if set(data) >= WHOLE else laid_over(quickstart, data))
    assert spec.parameters.examples()


def commands() -> list[Any]:
    """The lines of blocks that begin with a command of ours, without their comments."""
    lines = []
    for page in PAGES:
        for language, text in blocks(page):
            for line in text.splitlines():
                words = line.partition(" #")[0].strip().removeprefix("$ ").removeprefix(".venv/bin/")
                if language in ("", "sh", "bash", "console") and words.startswith(("sweeper ", "make ", "python -m ")):
                    lines.append(pytest.param(words, id=f"{page.name}: {words}"))
    return lines


def commands_of_sweeper() -> dict[str, Any]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group.commands


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_docs_is_one(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])  # without what a shell does with the output
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if re.fullmatch("[a-z]+", word)} <= set(targets)
    elif words[0] == "python":
        assert importlib.util.find_spec(words[2]) is not None
    else:
        context = commands_of_sweeper()[words[1]].make_context(words[1], words[2:])
        assert context.params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_sentences_have_options_that_exist(page: Path) -> None:
    prose = BLOCK.sub("", page.read_text())
    for line in re.findall(r"`sweeper ([a-z]+[^`]*)`", prose):
        words = line.split()
        options = {name for parameter in commands_of_sweeper()[words[0]].params for name in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        if not target.startswith(("https://", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def strings_of_the_code() -> list[str]:
    """Every text in the code, ``...`` where an f-string holds a value."""
    texts = []
    for file in [*(ROOT / "sweeper").rglob("*.py"), *(ROOT / "trainables").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_every_message_in_troubleshooting_is_one_of_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| `")]
    texts = strings_of_the_code()
    assert len(rows) > 40
    unknown = []
    for row in rows:
        parts = [part.strip(" ;:(),.") for part in row.removeprefix("`").removesuffix("`").split("...")]
        for part in parts:
            if len(part) > 3 and not any(part in text for text in texts):
                unknown.append((row, part))
    assert not unknown


def test_the_first_page_is_short() -> None:
    words = (ROOT / "README.md").read_text().split()
    assert len(words) <= 900, f"README.md has {len(words)} words; what does not fit belongs into docs/"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in LINK.findall(index)}
    assert {page for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"} <= linked

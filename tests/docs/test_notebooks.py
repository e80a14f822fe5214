"""The notebooks of examples/ are executed, and use only what the Python API has. ``make notebooks`` executes them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sweeper import api
from tests.paths import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LARGEST_PICTURE_BYTES = 100_000
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(root|home|tmp|usr|opt|var|work|mnt)/")


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_is_a_notebook_for_each_task() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["attribute", "typographic"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_executed_from_top_to_bottom(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) > 1
    assert max(len(picture) * 3 // 4 for picture in pictures) < LARGEST_PICTURE_BYTES
    for output in outputs:
        texts = [output.get("text"), *(text for kind, text in output.get("data", {}).items() if "image" not in kind)]
        assert not MACHINE_PATH.search("".join("".join(text) for text in texts if text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_names_that_the_api_has(path: Path) -> None:
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in code_cells(path)))
    used: dict[str, set[str]] = {"api": set(), "sweep": set()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in used:
            used[node.value.id].add(node.attr)
    assert {"run", "compare"} <= used["api"] <= set(api.__all__)
    assert {"front", "trials", "picture"} & used["sweep"] and all(hasattr(api.Sweep, name) for name in used["sweep"])

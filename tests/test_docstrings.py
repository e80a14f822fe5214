"""Docstrings of the packages have one form: what can be checked without taste, read from the source without imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

SECTIONS = ("Args", "Returns", "Raises", "Examples")
_HEAD = re.compile(r"(Args|Arguments|Parameters|Return|Returns|Yields|Raise|Raises|Example|Examples):(.*)")
_ARGUMENT = re.compile(r"\*{0,2}\w+(, \w+)*: \S")
_ERROR = re.compile(r"[A-Za-z_][\w.]*: \S.*")
_SENTENCE = re.compile(r"(?:^|[.:;] |\n)Raises? ")
RIDDLES = (
    "what",
    "whose",
    "whoever",
    "whatever",
    "who",
    "of",
    "those",
    "it",
    "they",
    "that",
    "where",
    "as",
    "how",
    "by",
)
"""Words that begin a summary without a subject."""
UNPLAIN = ("whoever", "whomever", "anew", "cannot be had", "be had", "somebody")
"""Words that stand in place of a noun or of a common verb."""
FILES = [path for package in ("sweeper", "trainables") for path in sorted((ROOT / package).rglob("*.py"))]
_FINISHED = re.compile(r"[.:)`}\]]$|[.]['\"]$")


def docstrings(path: Path) -> Iterator[tuple[int, str, ast.AST]]:
    """Yield line, text and node of all docstrings in a file: of modules, definitions and below attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
                continue
            if isinstance(statement.value.value, str):
                yield statement.lineno, statement.value.value, node


def describes_keys(path: Path) -> bool:
    """Return whether docstrings of a file are descriptions of keys of a spec, which may begin as a question does."""
    return path.parent == ROOT / "trainables" / "settings" or path in (
        ROOT / "sweeper" / "spec" / "spec.py",
        ROOT / "sweeper" / "spec" / "sections.py",
    )


def form_problems(text: str) -> list[str]:
    """Return what is wrong with the form of a docstring's sections."""
    lines, problems, section = text.split("\n"), [], ""
    indents = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(indents, default=0)
    seen: list[str] = []
    for previous, line in zip(["", *lines], lines, strict=False):
        content = line.strip()
        depth = len(line) - len(line.lstrip()) - margin
        head = _HEAD.fullmatch(content) if line is not lines[0] and depth == 0 else None
        if head is not None:
            section = head[1]
            seen.append(section)
            if section not in SECTIONS or head[2]:
                problems.append(f"{content!r} is not a line of its own with one of {', '.join(SECTIONS)}")
            if previous.strip():
                problems.append(f"no empty line before {section}")
        elif section and content and depth == 4:
            if section == "Raises" and not _ERROR.fullmatch(content):
                problems.append(f"{content!r} in Raises is not `Error: when.`, one to a line")
            if section == "Args" and not _ARGUMENT.match(content):
                problems.append(f"{content!r} in Args is not `name: text`")
        elif section and content and depth < 4:
            problems.append(f"{content!r} stands behind {section} and belongs to no section")
        if section != "Raises" and _SENTENCE.search(content):
            problems.append(f"{content!r} tells of an error outside of a Raises section")
    if seen != sorted(seen, key=lambda name: SECTIONS.index(name) if name in SECTIONS else 0):
        problems.append(f"sections in the order {', '.join(seen)}, not {', '.join(SECTIONS)}")
    return problems


def summary_problems(text: str) -> list[str]:
    """Return what is wrong with the first paragraph of a docstring."""
    first = text.split("\n\n")[0]
    problems = []
    if not text.strip() or text[0].isspace():
        problems.append("does not begin with its summary")
    elif not _FINISHED.search(first.rstrip()):
        problems.append(f"{first!r} does not end like a sentence")
    words = first.split()
    if words and words[0].strip("`").lower() in RIDDLES:
        problems.append(f"{first!r} begins with {words[0]!r} in place of a subject or a verb")
    plain = " ".join(text.lower().split())
    return problems + [f"{word!r} is no plain word" for word in UNPLAIN if re.search(rf"\b{word}\b", plain)]


def names_of(node: ast.AST) -> set[str]:
    """Return the arguments of a function, or of the function that makes a class."""
    makers = [node]
    if isinstance(node, ast.ClassDef):
        makers = [entry for entry in node.body if isinstance(entry, ast.FunctionDef) and entry.name == "__init__"]
        fields = {entry.target.id for entry in node.body
                  if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)}  # fmt: skip
    else:
        fields = set()
    for maker in makers:
        if isinstance(maker, ast.FunctionDef | ast.AsyncFunctionDef):
            given = maker.args
            fields |= {argument.arg for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]}
            fields |= {argument.arg for argument in (given.vararg, given.kwarg) if argument is not None}
    return fields


def explained_arguments(text: str) -> set[str]:
    """Return the names in the Args section of a docstring."""
    section = re.search(r"\n( *)Args:\n(.*?)(?=\n\s*\n|\Z)", text, re.DOTALL)
    if section is None:
        return set()
    entries = re.findall(rf"^{section[1]}    (\*{{0,2}}\w+(?:, \w+)*):", section[2], re.MULTILINE)
    return {name.strip().lstrip("*") for entry in entries for name in entry.split(",")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_have_one_form(path: Path) -> None:
    tree = ast.parse(path.read_text())
    problems = [] if not tree.body or ast.get_docstring(tree) else [f"{path}: the module has no docstring"]
    for line, text, node in docstrings(path):
        found = form_problems(text) + ([] if describes_keys(path) else summary_problems(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found += [f"Args explains {name!r}, which is not an argument"
                      for name in sorted(explained_arguments(text) - names_of(node))]  # fmt: skip
        problems += [f"{path.relative_to(ROOT)}:{line}: {problem}" for problem in found]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Return x. Raise ValueError where it is not.", "outside of a Raises section"),
        ("Return x.\n\n    Raises SetError.\n    ", "outside of a Raises section"),
        ("Return x.\n\n    Raises:\n        ValueError, OSError where not.\n    ", "one to a line"),
        ("Return x.\n\n    Raises:\n        ValueError: it is not.\n\n    More.\n    ", "belongs to no section"),
        ("Return x.\n    Raises:\n        ValueError: it is not.\n    ", "no empty line"),
        ("Return x.\n\n    Returns: scalar.\n    ", "a line of its own"),
        ("Return x.\n\n    Raises:\n        E: it is.\n\n    Args:\n        a: b.\n    ", "in the order"),
        ("What a trial reports.", "in place of a subject"),
        ("Return the name of whoever runs the sweep.", "no plain word"),
        ("Return x", "does not end like a sentence"),
    ],
)
def test_a_docstring_of_another_form_is_found(text: str, problem: str) -> None:
    assert any(problem in found for found in form_problems(text) + summary_problems(text))

"""A YAML file as plain data that remembers the place of each value.

Read as YAML 1.2: ``1e-4`` is a number, ``on`` and ``no`` are words, a date is text (all three differ in YAML 1.1,
PyYAML's dialect). Keys are text, as in JSON. A repeated key is an error. Merge keys (``<<: *common``) are those of YAML
1.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.errors import UserError
from sweeper.spec.problems import Key, KeyPath, dotted
from trainables.text_files import LFS_POINTER, TextFileError, decoded_text, is_lfs_pointer

_LARGEST = 200_000
"""Limit of the bytes of a file, and of the values after aliases: far above any spec, far below a hang."""

_DEEPEST = 40
"""Limit of nesting: far above any spec, far below the limit of JSON parsers."""
_LONGEST_NUMBER = 40
"""Longest number, in characters."""
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: dict[str, bool | None] = {"null": None, "Null": None, "NULL": None, "~": None, "": None}
_SPECIAL |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_ZERO_FIRST = re.compile(r"[-+]?0[0-9]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Place:
    """The place of a value: ``source:line:column`` of a file, or an option of the command line."""

    source: str
    line: int = 0
    """Line, from 1; 0 if the place is the whole source."""
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Document:
    """A YAML file as plain data (``data``), with the place of every value."""

    def __init__(self, path: Path) -> None:
        """Read a file.

        Raises:
            UserError: it is not a YAML mapping; the message has the place, if there is one.
        """
        self.path = path
        self._places: dict[KeyPath, Place] = {}
        self._keys: dict[KeyPath, Place] = {}
        self._override: Place | None = None
        """Place of the override whose value is being read."""
        self._values = 0
        """Number of values read, those of an alias each time."""
        self._open: list[yaml.Node] = []
        """The nodes around the one that is being read."""
        text = _text(path)
        if is_lfs_pointer(text.encode()):
            raise UserError(f"{path} {LFS_POINTER}")
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise UserError(f"{self._at(mark)}: {_plain(error)}") from error
        except yaml.reader.ReaderError as error:
            before = text[: error.position].rpartition("\n")
            place = Place(str(path), before[0].count("\n") + (1 if not before[1] else 2), len(before[2]) + 1)
            raise UserError(
                f"{place}: the character {chr(error.character)!r} may not stand in YAML; remove it"
            ) from error
        except yaml.YAMLError as error:
            raise UserError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from error
        except RecursionError as error:
            raise UserError(f"{path}: this is not YAML: too many nested brackets") from error
        if node is None:
            raise UserError(f"{path}: the file is empty; `sweeper init` writes a spec to start from")
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{self._at(node.start_mark)}: a spec is a mapping (key: value lines), not {_kind(node)}")
        self.data: dict[str, Any] = self._read(node, ())

    def override(self, setting: str) -> None:
        """Set one value: ``search.trials=8``, ``points.0.beta=1.5``.

        Raises:
            UserError: the path or the value is invalid.
        """
        dotted_path, equals, text = setting.partition("=")
        names = dotted_path.strip().split(".")
        if not equals or not all(names):
            raise UserError(f"--set {setting}: write key=value, for instance search.trials=8")
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise UserError(f"--set {setting}: the value is not YAML: {' '.join(str(error).split())}") from error
        except RecursionError as error:
            raise UserError(f"--set {dotted_path}: the value has too many nested brackets") from error
        path: KeyPath = ()
        parent: Any = self.data
        for position, name in enumerate(names):
            last = position == len(names) - 1
            if isinstance(parent, list):
                if not name.isdigit() or int(name) >= len(parent):
                    raise UserError(f"--set {setting}: {dotted(path)} is a list; write an index below {len(parent)}")
                key: Key = int(name)
            elif isinstance(parent, dict):
                key = name
                if not last and parent.get(key) is None:
                    parent[key] = {}
                    self._places[(*path, key)] = self._keys[(*path, key)] = Place(f"--set {dotted_path}")
            else:
                raise UserError(f"--set {setting}: {dotted(path)} is a plain value, it holds no `{name}`")
            path = (*path, key)
            if last:
                self._forget(path)
                self._override = Place(f"--set {dotted(path)}")
                parent[key] = self._read(node, path) if node is not None else None
                self._places[path] = self._keys[path] = self._override
                self._override = None
            else:
                parent = parent[key]

    def place(self, path: KeyPath, at_key: bool = False) -> Place:
        """Return the place of a value, of its key, or of the nearest value around it."""
        if at_key and path in self._keys:
            return self._keys[path]
        while path and path not in self._places:
            path = path[:-1]
        return self._places.get(path, Place(str(self.path)))

    def _forget(self, path: KeyPath) -> None:
        """Drop the places of a value that is replaced, and of all values in it."""
        for places in (self._places, self._keys):
            for inner in [other for other in places if other[: len(path)] == path]:
                del places[inner]

    def _read(self, node: yaml.Node, path: KeyPath) -> Any:
        self._values += 1
        if self._values > _LARGEST or node in self._open:
            raise UserError(f"{self._at(node.start_mark)}: aliases (*name) that grow without end")
        if len(self._open) > _DEEPEST:
            raise UserError(f"{self._at(node.start_mark)}: values nested more than {_DEEPEST} deep; that is not a spec")
        self._places[path] = self._at(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise UserError(f"{self._at(node.start_mark)}: the tag {node.tag} is not allowed; write plain values")
        self._open.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self._read(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        merged: list[yaml.MappingNode] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{self._at(key.start_mark)}: a key is plain text, this is {_kind(key)}")
            if key.tag == _MERGE:
                merged += self._merged(value)
                continue
            name = self._text(key)
            if name in mapping:
                first = self._keys[(*path, name)]
                raise UserError(f"{self._at(key.start_mark)}: `{name}` is here twice (first at {first}); keep one")
            self._keys[(*path, name)] = self._at(key.start_mark)
            mapping[name] = self._read(value, (*path, name))
        for other in merged:  # keys of the mapping itself win, then those of the first one
            mapping = {**self._read_aside(other, path, set(mapping)), **mapping}
        return mapping

    def _read_aside(self, node: yaml.MappingNode, path: KeyPath, known: set[str]) -> dict[str, Any]:
        """Return the entries of a merged mapping that are not ``known``, with their places below ``path``."""
        if node in self._open or len(self._open) > _DEEPEST:
            raise UserError(f"{self._at(node.start_mark)}: aliases (*name) that grow without end")
        pairs = [pair for pair in node.value if not (isinstance(pair[0], yaml.ScalarNode) and pair[0].value in known)]
        self._open.append(node)
        try:
            return self._mapping(yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark), path)
        finally:
            self._open.pop()

    def _merged(self, value: yaml.Node) -> list[yaml.MappingNode]:
        """Return the mappings that a merge key names: a single mapping, or a list of them."""
        named = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for node in named:
            if not isinstance(node, yaml.MappingNode):
                raise UserError(
                    f"{self._at(node.start_mark)}: `<<` takes the keys of another mapping (<<: *name) or of a list of "
                    f"mappings, not {_kind(node)}"
                )
        return list(named)

    def _text(self, node: yaml.ScalarNode) -> str:
        """Return the text of a node.

        Raises:
            UserError: it holds characters that no file or setting can have.
        """
        text: str = node.value
        if _SURROGATE.search(text):  # JSON writes a character beyond 16 bits as a pair
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        if "\0" in text or _SURROGATE.search(text):
            raise UserError(f"{self._at(node.start_mark)}: {text!r} holds a character that is not text; write it again")
        return text

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = self._text(node)
        if node.tag not in _SCALAR_TAGS:
            raise UserError(f"{self._at(node.start_mark)}: the tag {node.tag} is not allowed; write plain values")
        if node.style is not None:
            return text
        if text in _SPECIAL:
            return _SPECIAL[text]
        if len(text) > _LONGEST_NUMBER and (_INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)):
            shown = f"{text[:12]}...{text[-4:]}"
            raise UserError(
                f"{self._at(node.start_mark)}: {shown}: a number of {len(text)} characters is not a setting"
            )
        if _ZERO_FIRST.fullmatch(text):
            raise UserError(
                f"{self._at(node.start_mark)}: {text} is octal in YAML 1.1 and decimal in YAML 1.2; write {int(text)}, "
                f"or '{text}' in quotes for text"
            )
        if _INTEGER.fullmatch(text):
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if infinite := _INFINITE.fullmatch(text):
            return float("nan") if infinite[3] else float(f"{infinite[1]}inf")
        return text

    def _at(self, mark: yaml.Mark | None) -> Place:
        if self._override is not None:
            return self._override
        return Place(str(self.path), mark.line + 1, mark.column + 1) if mark is not None else Place(str(self.path))


_SCALAR_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}
_MERGE = "tag:yaml.org,2002:merge"
_SCALAR_TAGS |= {_MERGE, "tag:yaml.org,2002:value"}


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; name the spec file in it")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)  # a device has no size
        if len(content) > _LARGEST:
            raise UserError(f"{path} has {max(len(content), path.stat().st_size)} bytes; that is not a spec")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return decoded_text(path, content)  # says what the file is
    except FileNotFoundError as error:
        near = sorted(str(other) for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = f"; in this folder are {', '.join(near[:5])}" if near else ""
        raise UserError(f"{path} does not exist{hint}") from error
    except TextFileError as error:
        raise UserError(str(error)) from error
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {error}") from error


def _kind(node: yaml.Node) -> str:
    kinds = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping", yaml.ScalarNode: "a plain value"}
    return kinds[type(node)]


def _plain(error: yaml.MarkedYAMLError) -> str:
    """Return PyYAML's error in words for users; PyYAML 6 distinguishes its syntax errors by their text only."""
    message = " ".join(part for part in (error.context, error.problem) if part)
    if "'\\t'" in message:
        mark = error.problem_mark
        before = "" if mark is None or mark.buffer is None else mark.buffer[: mark.pointer].rpartition("\n")[2]
        return "a tab; YAML wants spaces " + (
            "between words and before a comment" if before.strip() else "for indentation"
        )
    hints = {
        "mapping values are not allowed here": "is the indentation right, and is text with a colon in quotes?",
        "expected ',' or": "is a bracket or a comma missing?",
        "could not find expected ':'": "is a colon missing after the key?",
        "expected <block end>": "is the indentation the same as in the lines above?",
    }
    hint = next((hint for part, hint in hints.items() if part in message), "")
    return f"this is not YAML: {message}" + (f"; {hint}" if hint else "")

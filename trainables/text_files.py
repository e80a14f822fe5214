"""Text files of users: tables, JSON, lists of names. Messages about a damaged file name file and line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LFS_POINTER = "is a Git LFS pointer, not the file itself; `git lfs pull` fetches the file"
_LFS_START = b"version https://git-lfs.github.com/spec/"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_ARCHIVES = {b"PK\x03\x04": "a zip archive (or a spreadsheet)", b"\x1f\x8b": "a gzip archive", b"%PDF-": "a PDF"}
"""Beginning of a file -> what it is."""
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_CSV_PROBLEMS = {
    "unexpected end of data": "a quotation mark is opened in this row and not closed",
    "field larger than field limit": "a value of more than 131072 characters; is a quotation mark not closed?",
    "expected after": "text behind a closing quotation mark; is a mark not closed, or not doubled within quoted text?",
}
"""Message of Python's csv module -> words for users."""


class TextFileError(ValueError):
    """A file that is not text, a table or JSON. The message begins with the file, and the line if known."""


def is_lfs_pointer(start: bytes) -> bool:
    """Return whether a file with this beginning is a Git LFS pointer: the file itself was not fetched."""
    return start.startswith(_LFS_START)


def names_lfs_pointer(path: Path | str, offset: int = 0) -> bool:
    """Return whether a file is a Git LFS pointer, or holds one from byte ``offset`` on; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return is_lfs_pointer(file.read(len(_LFS_START)))
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return False


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file, with or without byte order mark.

    Raises:
        OSError: the file cannot be read.
        TextFileError: it is not UTF-8.
    """
    return decoded_text(path, path.read_bytes())


def decoded_text(path: Path, content: bytes) -> str:
    """Return the text of ``content``, the bytes of ``path``.

    Raises:
        TextFileError: it is not UTF-8.
    """
    if is_lfs_pointer(content):
        raise TextFileError(f"{path} {LFS_POINTER}")
    if archive := next((what for start, what in _ARCHIVES.items() if content.startswith(start)), None):
        raise TextFileError(f"{path} is {archive}, not text; unpack it, or save it as UTF-8 text")
    if content.startswith(_UTF_16) or b"\0" in content[:1000]:
        raise TextFileError(f"{path} is UTF-16 or not text; save it as UTF-8")
    if (position := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, position) + 1
        raise TextFileError(f"{path}:{line}: a NUL character, which is not text; the file may be damaged")
    try:
        return content.decode("utf-8-sig").lstrip("\ufeff")  # files that were joined have a mark each
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise TextFileError(f"{path}:{line}: the byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from error


def text_lines(text: str) -> list[str]:
    r"""Return the lines between \n, \r\n or \r. ``str.splitlines`` also cuts at U+2028 and others within a line."""
    lines = _LINE_ENDS.split(text)
    return lines if lines[-1] else lines[:-1]


def parsed_json(path: Path, text: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        TextFileError: it is not JSON; the message has the line.
    """
    try:
        return _loaded(text)
    except _RepeatedKeyError as error:
        raise TextFileError(f"{path}: {error}") from error
    except json.JSONDecodeError as error:
        raise TextFileError(f"{path}:{error.lineno}: this is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise TextFileError(f"{path}: this is not readable JSON: {error}") from error


def json_records(path: Path, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of a JSON list, or of JSON lines, each with its place in the file.

    Raises:
        TextFileError: the file has another content.
    """
    if text.lstrip().startswith("["):
        return [_record(f"{path}, entry {i}", entry) for i, entry in enumerate(parsed_json(path, text), 1)]
    return list(json_lines(path, text))


def json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Yield the object of each line that is not empty, with its place. Lines end at \n only.

    Raises:
        TextFileError: a line is not a JSON object.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            entry = _loaded(line)
        except _RepeatedKeyError as error:
            raise TextFileError(f"{place}: {error}") from error
        except (ValueError, RecursionError) as error:
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise TextFileError(f"{place}: this line is not JSON: {message}{_hint(path, text)}") from error
        if isinstance(entry, dict) and (hint := _of_one_object(entry)):
            raise TextFileError(f"{place}: {hint}")
        yield _record(place, entry)


def table(path: Path, text: str, delimiter: str = ",") -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    r"""Return the columns of a table and its rows, each with the line where it begins. Lines end at \n, \r\n or \r.

    Cells that a row lacks are empty.

    Raises:
        TextFileError: quotation marks or cells do not match; the message has the line.
    """
    records = _csv_records(path, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    line, heading = next(records, (1, []))
    columns = [name.strip() for name in heading]
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise TextFileError(f"{path}:{line}: two columns are called {twice[0]!r}")
    return columns, _rows(path, columns, records)


class _RepeatedKeyError(ValueError):
    """A JSON object has a key twice."""


def _loaded(text: str) -> Any:
    """Return the content of JSON text; a line feed or tab within a string does no harm.

    Raises:
        _RepeatedKeyError: an object has a key twice, of which JSON would use the last.
        ValueError: the text is not JSON.
    """

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise _RepeatedKeyError(f"the key {twice!r} is in one object twice; keep one")
        return entries

    return json.loads(text, strict=False, object_pairs_hook=object_of)


def _csv_records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            said = next((words for part, words in _CSV_PROBLEMS.items() if part in str(error)), str(error))
            raise TextFileError(f"{path}:{line}: {said}") from error
        if cells:
            yield line, cells


def _rows(
    path: Path, columns: list[str], records: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, cells in records:
        if any(cell.strip() for cell in cells[len(columns) :]):
            message = f"{len(cells)} cells for {len(columns)} columns; a value that holds the separator needs quotes"
            raise TextFileError(f"{path}:{line}: {message}")
        yield line, dict(zip(columns, cells + [""] * (len(columns) - len(cells)), strict=False))


def _record(place: str, entry: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict):
        raise TextFileError(f"{place}: expected a list of objects, or one object per line")
    return place, entry


def _hint(path: Path, text: str) -> str:
    """Return advice for a file whose lines are not objects, by its probable form."""
    try:
        whole = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return "; an object takes one line, without line breaks in it"
    hint = _of_one_object(whole) if isinstance(whole, dict) else None
    return "; " + (hint or "the file is one object over several lines: write one object per line, or a list of objects")


def _of_one_object(entry: dict[str, Any]) -> str | None:
    """Return advice for an object that contains the records instead of being one; None for others."""
    lists = [key for key, value in entry.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if lists:
        return f"the objects are inside {lists[0]!r}; write the list alone, or one object per line"
    if entry and all(isinstance(value, dict | list) for value in entry.values()):
        return 'the file holds columns, not rows; with pandas write to_json(orient="records")'
    return None

"""Small files of a sweep: replaced in one step, and read with one message where they are damaged or out of reach."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.errors import UnavailableError, UserError
from trainables.files import replace_file, storage_problem


def replace_text(path: Path, text: str) -> None:
    """Replace ``path`` in one step, in a folder that is there. Raise StorageError where the disk does not take it."""
    replace_file(path, lambda file: file.write(text.encode()))


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` in one step, as ``write_bytes``."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step; its folder is made where it is missing, those above it are not.

    Raise StorageError where the disk does not take it.
    """
    with contextlib.suppress(FileNotFoundError):  # then replace_file says so, as StorageError
        path.parent.mkdir(exist_ok=True)
    replace_file(path, lambda file: file.write(content))


def read_record(path: Path, advice: str) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raise UserError, which ends in ``advice``, where the file is missing or damaged; UnavailableError where the storage
    fails.
    """
    try:
        return _read_object(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {advice}") from error
    except _DamagedError as error:
        raise UserError(f"{path} {error}; {advice}") from error


def read_if_whole(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file that can be made anew; None where it is missing or damaged.

    Raise UnavailableError where the storage fails.
    """
    try:
        return _read_object(path)
    except (FileNotFoundError, _DamagedError):
        return None


@contextlib.contextmanager
def storage_in_reach() -> Iterator[None]:
    """Raise UnavailableError, with file and reason, for every OSError of the block."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(storage_problem(error) or f"{error.filename}: {error.strerror or error}") from error


class _DamagedError(Exception):
    """What is wrong with a file, to be read after its path."""


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except (IsADirectoryError, NotADirectoryError) as error:
        raise _DamagedError("is no file") from error
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror or error}") from error
    if not content.strip(b"\0 \r\n\t"):  # a file system may leave zeros after a power loss
        raise _DamagedError("is empty")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _DamagedError("holds no JSON object")
    return value

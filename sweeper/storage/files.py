"""Small files of a sweep: replaced in one step, and read with one message if they are damaged or cannot be reached."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.errors import UnavailableError, UserError
from trainables.files import replace_file, storage_problem


def replace_text(path: Path, text: str) -> None:
    """Replace ``path`` in one step; its folder must exist.

    Raises:
        StorageError: the disk fails.
    """
    replace_file(path, lambda file: file.write(text.encode()))


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with text in one step, see ``write_bytes``.

    Raises:
        StorageError: the disk fails.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step. Its folder is made if it is missing, but not the folders above it.

    Raises:
        StorageError: the disk fails.
    """
    with contextlib.suppress(FileNotFoundError):  # replace_file then raises StorageError
        path.parent.mkdir(exist_ok=True)
    replace_file(path, lambda file: file.write(content))


def read_record(path: Path, advice: str) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Args:
        advice: end of the message of a UserError.

    Raises:
        UserError: the file is missing or damaged.
        UnavailableError: the storage fails.
    """
    try:
        return _read_object(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {advice}") from error
    except _DamagedError as error:
        raise UserError(f"{path} {error}; {advice}") from error


def read_if_whole(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file that can be made again; None if it is missing or damaged.

    Raises:
        UnavailableError: the storage fails.
    """
    try:
        return _read_object(path)
    except (FileNotFoundError, _DamagedError):
        return None


@contextlib.contextmanager
def storage_in_reach() -> Iterator[None]:
    """Convert every OSError of the block to one message with file and reason.

    Raises:
        UnavailableError: an OSError was raised in the block.
    """
    try:
        yield
    except OSError as error:
        raise UnavailableError(storage_problem(error) or f"{error.filename}: {error.strerror or error}") from error


class _DamagedError(Exception):
    """Description of a damaged file, to be read after its path."""


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except (IsADirectoryError, NotADirectoryError) as error:
        raise _DamagedError("is not a file") from error
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

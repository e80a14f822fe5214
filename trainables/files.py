"""Files that are always read whole, and messages about the disk when it fails.

A write is on disk, under its name, when it returns, or it has changed nothing: the new content is written beside the
file, fsynced, and put in its place in one step. Files that a kill leaves have names that end in ``.part``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

_STORAGE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENXIO,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.ETIMEDOUT,
}


class StorageError(OSError):
    """A file cannot be written or read because of the disk or file system below it. The message is one line."""


def storage_problem(error: BaseException) -> str | None:
    """Return the problem of the storage in one line; None if ``error`` is of another kind."""
    if isinstance(error, StorageError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        return _described(Path(os.fsdecode(error.filename)) if error.filename is not None else None, error)
    return None


@contextlib.contextmanager
def storage_errors(path: Path, *, doing: str = "cannot be written") -> Iterator[None]:
    """Convert every error of the block, in which ``path`` is written or read, to StorageError.

    Libraries have exceptions of their own for a full disk: torch.save raises RuntimeError, safetensors SafetensorError.

    Raises:
        StorageError: an error was raised in the block.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"{path} {doing}: {_reason(error)}") from error


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replace ``path`` in one step by a file whose content ``write`` writes.

    Raises:
        StorageError: the disk fails; the old file then stays, and no partial file is left.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with storage_errors(path):
        try:
            with part.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the names of the files in ``folder`` to disk, if its file system supports that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse to fsync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Delete the partial files that killed writes have left in ``folder``. No process may write there meanwhile."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def _described(path: Path | None, error: OSError) -> str:
    return _reason(error) if path is None else f"{path}: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """Return the operating system's message if there is one, else the first line of the error's own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

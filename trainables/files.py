"""Files that a reader sees whole, and what the disk below them says when it fails.

A write is on disk, under its name, when it returns, or it has changed nothing: the new content is written beside the
file, fsynced, and put in its place in one step. What a kill leaves behind has a name that ends in ``.part``.
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
    """Return what is wrong with the storage, in one line; None where ``error`` is of another kind."""
    if isinstance(error, StorageError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        return _described(Path(os.fsdecode(error.filename)) if error.filename is not None else None, error)
    return None


@contextlib.contextmanager
def storage_errors(path: Path, *, doing: str = "cannot be written") -> Iterator[None]:
    """Raise StorageError for whatever is raised while ``path`` is written or read.

    Libraries have exceptions of their own for a full disk: torch.save raises RuntimeError, safetensors SafetensorError.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"{path} {doing}: {_reason(error)}") from error


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replace ``path`` in one step by what ``write`` puts into a file.

    Raise StorageError where the disk does not take it; the old file then stays and nothing is left beside it.
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
    """Have the names of the files in ``folder`` on disk, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse to fsync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Remove what writes that a kill cut off have left in ``folder``. Only while nobody else writes there."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def _described(path: Path | None, error: OSError) -> str:
    return _reason(error) if path is None else f"{path}: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """One line: what the operating system said where it said something, else the error's own first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""The storage and the sweeps that a user names, opened: for the command line and the Python API."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sweeper.errors import UserError
from sweeper.storage.remote_storage import open_storage
from sweeper.storage.sweep_folder import SweepFolder

_URI = re.compile(r"(?P<scheme>[a-z][a-z0-9+]*):/+(?P<rest>.*)")
_ODD = re.compile(r"\?|%[0-9A-Fa-f]{2}|[\x00-\x1f\ud800-\udfff]")
"""Characters that URLs of SQLite files change or end at, and characters that are not text."""


def named_storage(given: Path | str | None) -> str:
    """Return the storage that a user names, else the default one: an absolute path, or the URI of a bucket."""
    text = _text(given)
    if (uri := _URI.match(text)) is not None:
        return f"{uri['scheme']}://{uri['rest']}"  # pathlib makes one slash of two
    return str(Path(text).absolute())


def storage_folder(given: Path | str | None, *, to_run: bool = False) -> Path:
    """Return the folder of all sweeps; for a storage in a bucket, the folder of this machine that stands for it.

    Args:
        to_run: whether a sweep is to be run, not only read.

    Raises:
        UserError: it cannot be a storage.
    """
    named = named_storage(given)
    if _URI.match(named) is not None:
        return open_storage(named, to_write=to_run)
    path = Path(named)
    if path.exists() and not path.is_dir():
        raise UserError(f"storage {_text(given)} is a file; name a folder")
    if odd := _ODD.search(str(path)):
        raise UserError(
            f"storage {str(path)!r}: SQLite files cannot be opened below a folder whose name holds {odd[0]!r}; name "
            "another with --storage"
        )
    return path


def sweep_folder(storage: Path, name: str, *, to_run: bool = False) -> SweepFolder:
    """Return the folder of a sweep, which may not exist; from a bucket its files are fetched.

    Args:
        to_run: whether the sweep is to be run, not only read.

    Raises:
        UnavailableError: this user may not read it, or not write into it.
    """
    folder = SweepFolder(storage, name)
    if folder.remote is not None:
        folder.remote.fetch(ours=to_run)
    folder.check_access(writing=to_run)
    return folder


def _text(given: Path | str | None) -> str:
    return os.environ.get("SWEEPER_STORAGE", "sweeps") if given is None else str(given)

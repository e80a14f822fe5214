"""The storage and the sweeps that a user names, opened: for the command line and the Python API."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from sweeper.errors import UnavailableError, UserError
from sweeper.storage.remote_storage import open_storage
from sweeper.storage.sweep_folder import SweepFolder
from trainables.settings.task import unset_variables

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+]+):(/+(?P<rest>.*))?")
_ODD = re.compile(r"\?|%[0-9A-Fa-f]{2}|[\x00-\x1f\ud800-\udfff]")
"""Characters that URLs of SQLite files change or end at, and characters that are not text."""


def named_storage(given: Path | str | None) -> str:
    """Return the storage that a user names, else the default one: an absolute path, or the URI of a bucket.

    Raises:
        UserError: an environment variable in it is not set, or there is no such user.
    """
    text = _text(given)
    if (uri := _URI.fullmatch(text)) is not None:
        return f"{uri['scheme'].lower()}://{uri['rest'] or ''}"  # pathlib makes one slash of two
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
    _refuse_place(path)
    if odd := _ODD.search(str(path)):
        raise UserError(
            f"storage {str(path)!r}: SQLite files cannot be opened below a folder whose name holds {odd[0]!r}; name "
            "another with --storage"
        )
    return path


def _refuse_place(path: Path) -> None:
    """Refuse a storage that is no folder and cannot become one.

    Raises:
        UserError: it is one.
        UnavailableError: this user may not look into a folder above it.
    """
    for place in (path, *path.parents):
        try:
            if place.is_symlink() and not place.exists():
                raise UserError(f"storage {path}: the link {place} leads nowhere; name another with --storage")
            if not stat.S_ISDIR(os.stat(place).st_mode):
                told = f"storage {path} is a file" if place == path else f"storage {path}: {place} is a file"
                raise UserError(f"{told}; name a folder")
            return
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            raise UnavailableError(f"storage {path}: {error.strerror}; name another with --storage") from error
        except OSError as error:
            raise UserError(f"storage {_shown(path)}: {error.strerror}; name another with --storage") from error


def _shown(path: Path) -> str:
    """Return a path for a message, shortened if it is too long for a file system."""
    return str(path) if len(str(path)) < 200 else f"{str(path)[:80]}..."


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
    """Return the storage as a user names it, with ``~`` and environment variables replaced.

    Raises:
        UserError: an environment variable is not set, or there is no such user.
    """
    text = os.environ.get("SWEEPER_STORAGE") or "sweeps" if given is None else str(given)
    if "$" not in text and not text.startswith("~"):
        return text
    if os.path.lexists(text):
        return text
    replaced = os.path.expanduser(os.path.expandvars(text))
    if unset := unset_variables(text):
        raise UserError(
            f"storage {text!r}: the environment variable {unset[0]} is not set; set it, or write the path out"
        )
    if replaced.startswith("~"):
        user = replaced.partition("/")[0]
        raise UserError(
            f"storage {text!r}: there is no user {user[1:]!r}; write the path out, or ./{text} for that name"
        )
    return replaced

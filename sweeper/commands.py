"""Commands of sweeper as messages print them: a copied command finds the intended sweep in any shell."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

URI_FILE = ".storage.json"
"""In a folder that stands for a storage in a bucket: its URI."""


def command(*words: str, storage: Path | None = None) -> str:
    """Return ``sweeper`` and ``words``, quoted for a shell.

    Args:
        storage: storage of the command; named if a command without ``--storage`` would use another one.
    """
    parts = [program(), *(shlex.quote(word) for word in words)]
    if storage is not None and storage != _storage_by_default():
        parts += ["--storage", shlex.quote(shown_storage(storage))]
    return " ".join(parts)


def shown_storage(storage: Path) -> str:
    """Return a storage as the user names it: its folder, or the URI of the bucket that the folder stands for."""
    return bucket_uri(storage) or str(storage)


def bucket_uri(folder: Path) -> str | None:
    """Return the URI of the bucket that a folder stands for; None for a storage that is a folder itself."""
    try:
        return str(json.loads((folder / URI_FILE).read_text())["uri"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def program() -> str:
    """Return the way this command was called if it is not on the path (an environment that is not activated)."""
    called = Path(sys.argv[0])
    if shutil.which("sweeper") is not None or called.name != "sweeper":
        return "sweeper"
    return shlex.quote(os.path.relpath(called))


def _storage_by_default() -> Path | None:
    """Return the default storage of commands in this folder, in any shell; None if it depends on the shell, or if the
    working folder was removed.
    """
    try:
        here = Path("sweeps").absolute()
    except FileNotFoundError:
        return None
    return here if Path(os.environ.get("SWEEPER_STORAGE", "sweeps")).absolute() == here else None

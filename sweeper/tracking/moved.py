"""A storage that was moved or copied: its own MLflow database names artifacts by their old paths."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sweeper.tracking.runs import Store

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Columns in which MLflow stores paths of artifacts; it has no call that changes them (3.17)."""
_WAIT_S = 20.0


def bring_home(store: Store) -> str | None:
    """Replace the old path of a storage by its present path in its own database's artifact paths.

    Returns:
        A line about the change; None if nothing had to be changed, or could be changed (a database of an earlier
        MLflow, or without write permission).
    """
    database = store.own_database
    if database is None or store.artifacts is None or not database.is_file():
        return None
    changed, before = 0, ""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection,
    ):
        for table, column in _COLUMNS:
            with contextlib.suppress(sqlite3.OperationalError):  # no such table
                for (uri,) in connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():
                    home = _home_of(uri, store.artifacts)
                    if home is not None:
                        before = before or str(_path(uri)).partition(f"/{store.artifacts.name}")[0]
                        update = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
                        changed += connection.execute(update, (home, uri)).rowcount
        connection.commit()
    if not changed:
        return None
    return (
        f"MLflow: this storage lay in {before} before; its {changed} places of artifacts now begin in {database.parent}"
    )


def _home_of(uri: str | None, artifacts: Path) -> str | None:
    """Return the present path of artifacts; None if ``uri`` is right, or is the path of other artifacts."""
    path = None if uri is None else _path(uri)
    if path is None or path.is_relative_to(artifacts):
        return None
    within = [parent for parent in (path, *path.parents) if parent.name == artifacts.name]
    if not within:
        return None
    home = artifacts / path.relative_to(within[-1])
    # A copy has both paths. If only the old one exists, another storage tracks to this database.
    return home.as_uri() if home.exists() or not path.exists() else None


def _path(uri: str) -> Path | None:
    """Return the folder that a URI of artifacts names; None if it names none on this machine."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if uri.startswith("/") else None

"""A new SQLite database of MLflow: made beside its place, so that a kill leaves the whole database or none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from trainables.files import sync_folder


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Keep other processes from making or opening the database meanwhile."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_database(database: Path) -> None:
    """Make MLflow's tables in a new SQLite file. The caller holds its lock.

    MLflow makes them by some seventy migrations that are not transactions (3.17): after a kill among them it never
    opens the database again ("duplicate column name").
    """
    from mlflow import MlflowClient

    part, copy = (database.with_name(f".{database.name}.{what}") for what in ("part", "copy"))
    for left in (part, copy):
        left.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments(max_results=1)
    # A copy, because MLflow keeps the file that it has opened.
    with closing(sqlite3.connect(part)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    copy.replace(database)
    sync_folder(database.parent)
    part.unlink()

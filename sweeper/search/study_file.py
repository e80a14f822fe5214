"""The SQLite file of a study: opening, writing, and the distinction between errors of the disk and of the content."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
import sqlalchemy.exc
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from sweeper.commands import command
from sweeper.errors import UnavailableError, UserError
from sweeper.search.sampler import silence_optuna

LOCK_WAIT_S = 20.0
"""Seconds that a statement waits for another process that has locked the study."""

_DISK_ERRORS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOMEM,
}
"""SQLite's error codes for the disk of a study; any other error concerns the file's content."""
ADVICE = "restore it from a backup, or start another sweep"


class StudyFile:
    """An open Optuna study and its path."""

    def __init__(self, path: Path, storage: RDBStorage, study: optuna.Study) -> None:
        self.path, self.storage, self.study = path, storage, study

    def enter(self, frozen: FrozenTrial, number: int) -> int:
        """Enter a trial under ``number``, the next free one, and return its id. If this raises, nothing was entered.

        Raises:
            UnavailableError: the disk fails, or another process writes into the file.
            UserError: the file is damaged.
        """
        storage = self.study._storage
        with disk_errors(self.path):
            # Optuna tries five times to enter a trial (5.0); here a locked file must be found out once.
            with self.storage.engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                entered = connection.exec_driver_sql("SELECT count(*) FROM trials").scalar()
                connection.rollback()
            if entered != number:
                sweep = self.path.absolute().parent
                again = command("resume", sweep.name, storage=sweep.parent)
                raise UnavailableError(
                    f"{self.path} holds {entered} trials where this session knows {number}: another process writes "
                    f"into it, or the disk has lost a confirmed write or kept a refused one; go on with `{again}`"
                )
            return storage.create_new_trial(self.study._study_id, template_trial=frozen)


def _url(path: Path) -> str:
    if "?" in str(path):
        raise UserError(f"{path}: a study's path must not hold a question mark")
    return "sqlite:///" + str(path.absolute()).replace("{", "{{").replace("}", "}}")  # Optuna formats it (5.0)


def new_storage(path: Path, *, skip_table_creation: bool = False) -> RDBStorage:
    return RDBStorage(
        _url(path),
        engine_kwargs={"connect_args": {"timeout": LOCK_WAIT_S}},
        skip_table_creation=skip_table_creation,
    )


@contextlib.contextmanager
def opened_storage(path: Path) -> Iterator[RDBStorage]:
    with silence_optuna():
        storage = new_storage(path)
        try:
            yield storage
        finally:
            release(storage)


def release(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def remove_database(path: Path) -> None:
    for file in (path, path.with_name(path.name + "-journal")):
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Convert errors of the block about the study's file.

    Raises:
        UnavailableError: the disk fails.
        UserError: the file is damaged.
    """
    try:
        yield
    except (
        optuna.exceptions.StorageInternalError,
        sqlalchemy.exc.SQLAlchemyError,
        sqlite3.Error,
        OSError,
    ) as error:
        said = _said_by_sqlite(error)
        # the low byte is the code, the others are details
        if said is None or said.sqlite_errorcode & 0xFF in _DISK_ERRORS:
            raise UnavailableError(f"{path}: {reason_of(error)}") from error
        raise UserError(f"{path} holds no study of a sweep: {said}; {ADVICE}") from error


def _said_by_sqlite(error: BaseException) -> sqlite3.Error | None:
    cause: BaseException | None = error
    while cause is not None:
        # SQLite's errors that Python itself raises have no code
        if isinstance(cause, sqlite3.Error) and hasattr(cause, "sqlite_errorcode"):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def reason_of(error: BaseException) -> str:
    """Return SQLite's message if there is one, else the error's own, in one line."""
    said = _said_by_sqlite(error) or error
    if isinstance(said, OSError) and said.strerror:
        return said.strerror
    lines = str(said).strip().splitlines()
    return lines[0] if lines else type(said).__name__

"""A folder on this machine and its copy in a bucket.

One process writes the folder at a time; others, on other machines, read the copy or go on from it. What is known of the
copy is kept beside the files (``.copy.json``), so that only what has changed is sent.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sweeper.remote.bucket import Bucket, Stamp

KNOWN_FILE = ".copy.json"
_LOCK_FILE = ".copy.lock"
_SQLITE, _SQLITE_LOG = ".db", "-wal"


@dataclass(frozen=True)
class _Known:
    """A file and its object when they were last equal."""

    local: tuple[int, int]
    """Time of the last change, in ns, and size."""
    remote: Stamp


class FolderCopy:
    """A local folder and the objects below a key."""

    def __init__(
        self, bucket: Bucket, key: str, folder: Path, *, marker: str, wanted: Callable[[str], bool] = lambda name: True
    ) -> None:
        """Name the two.

        Args:
            marker: a file that each writer changes when it begins: while its object is as this folder knows it, nobody
                else has written.
            wanted: tells of a path, relative and with slashes, whether it belongs to the copy.
        """
        self._bucket, self._key, self._folder = bucket, key.strip("/"), folder
        self._marker, self._wanted = marker, wanted

    def push(self) -> int:
        """Bring the copy up to date; return how many objects were written or removed.

        A kill in between leaves a copy from which the sweep goes on: databases first, then lines that were appended,
        which may be ahead of a checkpoint but never behind it, then the other files in the order of their writing.
        """
        with self._locked():
            known, files = self._known(), dict(self._files())
            changed = [name for name, local in files.items() if name not in known or known[name].local != local]
            gone = [name for name in known if name not in files]
            try:
                for name in sorted(changed, key=lambda name: (name != self._marker, _rank(name), files[name])):
                    with suppress(FileNotFoundError):  # removed meanwhile
                        self._upload(name)
                        stamp = self._bucket.stamp(f"{self._key}/{name}")
                        if stamp is not None:
                            known[name] = _Known(files[name], stamp)
                self._bucket.remove(f"{self._key}/{name}" for name in gone)
                known = {name: one for name, one in known.items() if name not in gone}
            finally:
                if changed or gone:
                    self._save(known)
            return len(changed) + len(gone)

    def pull(self) -> None:
        """Make the folder equal to the copy: for readers, and for what another process has written."""
        with self._locked():
            self._pull(self._known())

    def pull_unless_ours(self) -> None:
        """Make the folder equal to the copy if another process has written it since; otherwise this folder is ahead."""
        with self._locked():
            known = self._known()
            marker, stamp = known.get(self._marker), self._bucket.stamp(f"{self._key}/{self._marker}")
            if stamp is not None and (marker is None or marker.remote != stamp):
                self._pull(known)

    def fetch_new(self) -> None:
        """Fetch the files that are missing here; nothing here is changed or removed."""
        with self._locked():
            known, start = self._known(), len(self._key) + 1
            for key, stamp in self._bucket.stamps(self._key).items():
                name, file = key[start:], self._folder / key[start:]
                if self._belongs(name) and not file.exists() and self._bucket.download(key, file):
                    known[name] = _Known(self._stamp_of(file), stamp)
            self._save(known)

    def _pull(self, known: dict[str, _Known]) -> None:
        start = len(self._key) + 1
        stamps = {key[start:]: stamp for key, stamp in self._bucket.stamps(self._key).items()}
        stamps = {name: stamp for name, stamp in stamps.items() if self._belongs(name)}
        for name, stamp in stamps.items():
            file, one = self._folder / name, known.get(name)
            if one is not None and one.remote == stamp and _local(file) == one.local:
                continue
            if self._bucket.download(f"{self._key}/{name}", file):
                for log in (file.with_name(file.name + _SQLITE_LOG), file.with_name(file.name + "-shm")):
                    log.unlink(missing_ok=True)
                known[name] = _Known(self._stamp_of(file), stamp)
        for name in dict(self._files()).keys() - stamps.keys():
            (self._folder / name).unlink(missing_ok=True)
        self._save({name: one for name, one in known.items() if name in stamps})

    def _upload(self, name: str) -> None:
        file = self._folder / name
        if not name.endswith(_SQLITE):
            self._bucket.upload(f"{self._key}/{name}", file)
            return
        # A copy of a database that is in use, as of one moment: its write-ahead log is part of it.
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            with (
                closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(part)) as target,
            ):
                source.backup(target)
            self._bucket.upload(f"{self._key}/{name}", part)
        except sqlite3.OperationalError as error:
            raise FileNotFoundError(str(file)) from error
        finally:
            part.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for folder, folders, names in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for base in names:
                file = Path(folder) / base
                name = file.relative_to(self._folder).as_posix()
                if self._belongs(name):
                    with suppress(FileNotFoundError):  # removed meanwhile
                        yield name, self._stamp_of(file)

    def _belongs(self, name: str) -> bool:
        base = name.rpartition("/")[2]
        return not base.startswith(".") and not base.endswith((_SQLITE_LOG, "-shm", "-journal")) and self._wanted(name)

    def _stamp_of(self, file: Path) -> tuple[int, int]:
        local = _local(file)
        if local is None:
            raise FileNotFoundError(str(file))
        log = _local(file.with_name(file.name + _SQLITE_LOG)) if file.name.endswith(_SQLITE) else None
        return local if log is None else (max(local[0], log[0]), local[1] + log[1])

    def _locked(self) -> FileLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._folder / _LOCK_FILE)

    def _known(self) -> dict[str, _Known]:
        try:
            record = json.loads((self._folder / KNOWN_FILE).read_text())
            return {
                name: _Known((int(one[0]), int(one[1])), Stamp(int(one[2]), str(one[3])))
                for name, one in record.items()
                if self._belongs(name)
            }
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return {}

    def _save(self, known: dict[str, _Known]) -> None:
        """Keep what is known; a kill before it costs an upload."""
        record = {name: [*one.local, one.remote.size, one.remote.tag] for name, one in known.items()}
        part = self._folder / f"{KNOWN_FILE}.{os.getpid()}.part"
        part.write_text(json.dumps(record))
        part.replace(self._folder / KNOWN_FILE)


def _rank(name: str) -> int:
    return 0 if name.endswith(_SQLITE) else 1 if name.endswith(".jsonl") else 2


def _local(file: Path) -> tuple[int, int] | None:
    try:
        about = file.stat()
    except FileNotFoundError:
        return None
    return about.st_mtime_ns, about.st_size

"""A storage in a bucket, ``--storage s3://bucket/path``: a folder on this machine stands for it.

Everything else reads and writes that folder. A driver has one of its own; commands that only read have another, so that
they never write into files of a sweep that runs on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.commands import URI_FILE, bucket_uri
from sweeper.errors import UnavailableError
from sweeper.storage.files import replace_text

if TYPE_CHECKING:
    from sweeper.remote.bucket import Bucket
    from sweeper.remote.sweep_copy import SweepCopy

MIRROR_VARIABLE = "SWEEPER_MIRROR"
"""Environment variable: folder, the same on every node, for the files of storages in buckets."""
SEND_S = 1.0


@dataclass(frozen=True)
class RemoteStorage:
    """A storage in a bucket and the folder that stands for it."""

    uri: str
    folder: Path

    @cached_property
    def bucket(self) -> Bucket:
        from sweeper.remote.bucket import Bucket

        return Bucket(self.uri)

    def names(self) -> list[str]:
        """Return the names of the sweeps in the bucket."""
        return [name for name in self.bucket.folders() if self.bucket.stamp(f"{name}/spec.resolved.json") is not None]

    def sweep(self, name: str) -> SweepCopy:
        from sweeper.remote.sweep_copy import SweepCopy

        return SweepCopy(self.bucket, name, self.folder / name)


def open_storage(uri: str, *, to_write: bool) -> Path:
    """Return the folder of this machine that stands for a storage in a bucket.

    Args:
        to_write: whether the caller runs a sweep, rather than reading.

    Raises:
        UserError: there is no such kind of store, or its package is not installed.
    """
    uri = uri.rstrip("/")
    home = os.environ.get(MIRROR_VARIABLE)
    base = Path.home() / ".cache" / "sweeper" / "buckets" if home is None else Path(home)
    folder = base / hashlib.sha256(uri.encode()).hexdigest()[:16] / ("run" if to_write else "read")
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / URI_FILE, json.dumps({"uri": uri}))
    storage = RemoteStorage(uri, folder)
    _ = storage.bucket  # checks the URI
    return folder


def remote_storage(folder: Path) -> RemoteStorage | None:
    """Return the storage in a bucket that a folder stands for; None for a storage that is a folder itself."""
    uri = bucket_uri(folder)
    return None if uri is None else RemoteStorage(uri, folder)


class Sending:
    """Context manager of a driver: sends what it writes, within a second, until its end."""

    def __init__(self, sweep: SweepCopy, tell: Callable[[str], None]) -> None:
        """Prepare to send.

        Args:
            tell: takes a line when the store cannot be reached, and when it can again.
        """
        self._sweep, self._tell = sweep, tell
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, daemon=True, name="sending to the bucket")

    def __enter__(self) -> Sending:
        replace_text(self._sweep.folder / "session", uuid.uuid4().hex)
        self.now()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self.now()
        except UnavailableError:
            if kind is None:
                raise

    def now(self) -> None:
        """Send everything before this returns.

        Raises:
            UnavailableError: the store cannot be reached.
        """
        self._sweep.records.push()
        self._sweep.answers.push()

    def _keep_sending(self) -> None:
        away = False
        while not self._ended.wait(SEND_S):
            try:
                self.now()
            except UnavailableError as error:
                if not away:
                    self._tell(f"{error}; the sweep goes on, and its records are sent when the store answers")
                away = True
            else:
                if away:
                    self._tell(f"storage {self._sweep.bucket.uri} answers again")
                away = False

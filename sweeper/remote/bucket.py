"""A folder of an object store (S3 and others that fsspec knows): whole objects, and a write that never replaces one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import UnavailableError, UserError

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""Scheme -> package that reads it."""
_MADE_FOR = ("s3", "gs", "gcs")
"""Schemes whose packages have a write that fails where the object exists."""


@dataclass(frozen=True)
class Stamp:
    """An object as the store knows it: it is unchanged while its stamp is."""

    size: int
    tag: str


class Bucket:
    """All objects below a URI such as ``s3://bucket/path``. Keys are relative to it, with slashes.

    Methods raise UnavailableError if the store cannot be reached or refuses the access.
    """

    def __init__(self, uri: str) -> None:
        """Open a folder of a store, which need not exist.

        Raises:
            UserError: there is no such kind of store, or its package is not installed.
        """
        self.uri = uri.rstrip("/")
        scheme = uri.partition("://")[0]
        if scheme not in _MADE_FOR:
            raise UserError(
                f"storage {uri}: a storage is a folder, or s3:// or gs:// (two sweeps of one name are kept apart by a "
                "write that only these have)"
            )
        import fsspec  # type: ignore[import-untyped]

        try:
            # Listings are not kept: other machines change the store.
            self._files: Any = fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            package = PACKAGES[scheme]
            raise UserError(f"storage {uri} needs the package {package}: pip install {package}") from error
        self._root = self.uri.partition("://")[2]

    def read(self, key: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        with self._reached():
            try:
                content: bytes = self._files.cat_file(self._path(key))
            except FileNotFoundError:
                return None
        return content

    def write(self, key: str, content: bytes) -> None:
        """Write an object, whole or not at all, in place of an earlier one."""
        with self._reached(writing=True):
            self._files.pipe_file(self._path(key), content)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object if there is none of this key; return whether it was written (HTTP ``If-None-Match: *``)."""
        with self._reached(writing=True):
            try:
                self._files.pipe_file(self._path(key), content, mode="create")
            except FileExistsError:
                return False
        return True

    def upload(self, key: str, file: Path) -> None:
        """Write the content of a file, however large.

        Raises:
            FileNotFoundError: the file is gone.
        """
        with file.open("rb"), self._reached(writing=True):
            self._files.put_file(str(file), self._path(key))

    def download(self, key: str, file: Path) -> bool:
        """Replace a file by the content of an object; return whether there is one."""
        part = file.with_name(f".{file.name}.download.part")
        with self._reached():
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.get_file(self._path(key), str(part))
            except FileNotFoundError:
                return False
            part.replace(file)
        return True

    def stamp(self, key: str) -> Stamp | None:
        """Return the stamp of an object; None if there is none."""
        with self._reached():
            try:
                return _stamp(self._files.info(self._path(key), refresh=True))
            except FileNotFoundError:
                return None

    def stamps(self, folder: str) -> dict[str, Stamp]:
        """Return the stamps of all objects below a folder, by key."""
        with self._reached():
            found = self._files.find(self._path(folder), detail=True, refresh=True)
        start, below = len(self._root) + 1, f"{self._path(folder)}/"
        return {
            path[start:]: _stamp(about)
            for path, about in found.items()
            if about["type"] == "file" and path.startswith(below)
        }

    def folders(self) -> list[str]:
        """Return the names of the folders at the top."""
        with self._reached():
            try:
                found = self._files.ls(self._root, detail=True, refresh=True)
            except FileNotFoundError:
                return []
        return sorted(about["name"].rpartition("/")[2] for about in found if about["type"] == "directory")

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; a missing one is no error."""
        paths = [self._path(key) for key in keys]
        with self._reached(), suppress(FileNotFoundError):
            if paths:
                self._files.rm(paths)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}".rstrip("/")

    @contextmanager
    def _reached(self, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if not writing:
                raise
            raise UnavailableError(f"storage {self.uri}: {error}; make the bucket first") from error
        except (UnavailableError, FileExistsError):
            raise
        except Exception as error:  # each store's package raises errors of its own
            told = " ".join(str(error).split())[:300] or type(error).__name__
            raise UnavailableError(f"storage {self.uri}: {told}") from error


def reaches(uri: str) -> bool:
    """Return True if this machine reaches a bucket. Errors are those of ``Bucket``."""
    Bucket(uri).stamp("nothing")
    return True


def _stamp(about: dict[str, Any]) -> Stamp:
    tag = about.get("ETag") or about.get("etag") or about.get("mtime") or ""
    return Stamp(size=int(about["size"] or 0), tag=str(tag).strip('"'))

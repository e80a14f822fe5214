"""Arrays that are computed once per node and shared by all its processes: prepared images, reference embeddings."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from trainables.files import StorageError, storage_errors, sync_folder


def digest_of(value: Any) -> str:
    """Return the sha256 of JSON data: equal values have equal digests on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


Allocate = Callable[[str, tuple[int, ...], Any], np.ndarray]
"""Function (name, shape, dtype) -> an array that lies in a file and may be larger than memory."""


class Store:
    """A folder of array groups, each under the digest of all data that determine it; built under a file lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: Mapping[str, Any], build: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
        """Return the arrays under ``key``, built if they are missing; memory-mapped, so that processes share the pages.

        Raises:
            StorageError: the disk fails.
        """
        return self.filled(key, lambda allocate: build())

    def filled(
        self, key: Mapping[str, Any], build: Callable[[Allocate], Mapping[str, np.ndarray]]
    ) -> dict[str, Tensor]:
        """Return the arrays under ``key`` as ``get`` does, for arrays that are too large for memory.

        Args:
            build: allocates the large arrays in their files and fills them; returns only the small arrays.

        Raises:
            StorageError: the disk fails.
        """
        folder = self._folder / digest_of(key)[:32]
        arrays = _arrays(folder)
        if arrays is None:
            with storage_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                arrays = _arrays(folder)
                if arrays is None:
                    shutil.rmtree(folder, ignore_errors=True)  # a process that has mapped its files keeps their content
                    self._write(folder, key, build)
                    arrays = _arrays(folder)
        if arrays is None:
            raise StorageError(f"{folder} cannot be read: it is damaged though it was just written")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _write(
        self, folder: Path, key: Mapping[str, Any], build: Callable[[Allocate], Mapping[str, np.ndarray]]
    ) -> None:
        """Build the group. The caller holds the lock of ``folder``, so files of a killed builder can be deleted."""
        part = folder.with_name(f".part-{folder.name}")
        shutil.rmtree(part, ignore_errors=True)

        def allocate(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            path = part / f"{name}.npy"
            with storage_errors(path):
                array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
                _reserve(path)
                return array

        try:
            with storage_errors(part):
                part.mkdir()
            small = build(allocate)
            with storage_errors(folder):
                for name, array in small.items():
                    with (part / f"{name}.npy").open("wb") as file:
                        # Not the file itself: NumPy's own writing does not report why the disk refuses it.
                        np.save(SimpleNamespace(write=file.write), array)
                (part / "key.json").write_text(json.dumps(key, indent=1, default=str))
                for path in part.iterdir():
                    with path.open("rb") as written:
                        os.fsync(written.fileno())
                sync_folder(part)
                os.replace(part, folder)
                sync_folder(self._folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _arrays(folder: Path) -> dict[str, np.ndarray] | None:
    """Return the memory-mapped arrays by name; None if the folder is missing or one of its files is incomplete."""
    with storage_errors(folder, doing="cannot be read"):
        if not folder.exists():
            return None
        try:
            return {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}
        except (ValueError, EOFError):
            return None


def _reserve(path: Path) -> None:
    """Reserve disk space for ``path``: on a full disk a write to mapped memory kills the process."""
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # the file system cannot reserve space
                raise

"""Arrays that are computed once per node and shared by every process on it: prepared images, reference embeddings."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor


def digest_of(value: Any) -> str:
    """Return the sha256 of a JSON-able value: equal values, equal digest, on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


Allocate = Callable[[str, tuple[int, ...], Any], np.ndarray]
"""(name, shape, dtype) -> an array that lies in a file: larger than memory if need be."""


class Store:
    """A folder of array groups, each under the digest of all that determines it; built under a file lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: Mapping[str, Any], build: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
        """Return the arrays under ``key``, built if they are missing; memory-mapped, so processes share the pages."""
        return self.filled(key, lambda allocate: build())

    def filled(
        self, key: Mapping[str, Any], build: Callable[[Allocate], Mapping[str, np.ndarray]]
    ) -> dict[str, Tensor]:
        """Return as ``get``, for arrays too large for memory: ``build`` allocates these in their files and fills them;
        it returns the small arrays only."""
        folder = self._folder / digest_of(key)[:32]
        if not folder.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.exists():
                    self._write(folder, key, build)
        arrays = {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _write(
        self, folder: Path, key: Mapping[str, Any], build: Callable[[Allocate], Mapping[str, np.ndarray]]
    ) -> None:
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._folder))

        def allocate(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            return np.lib.format.open_memmap(part / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)

        try:
            for name, array in build(allocate).items():
                np.save(part / f"{name}.npy", array)
            (part / "key.json").write_text(json.dumps(key, indent=1, default=str))
            os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

"""Data of the picture of an attribute: the images that fit queries best, and W's singular values.

Imports no torch: the driver of a sweep reads these files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.files import replace_file

QUERIES, BEST, SIDE_PX = 4, 12, 48
SUFFIX = ".retrieved.npz"


@dataclass(frozen=True)
class Retrieved:
    """Retrievals and singular values of one policy on the first test set."""

    queries: tuple[str, ...]
    value_names: tuple[str, ...]
    images: np.ndarray
    """(Q, K, side, side, 3) uint8: the best images of each query, best first."""
    values: np.ndarray
    """(Q, K) value of each image."""
    singular_values: np.ndarray
    """Singular values of W, falling; empty for a policy without W."""
    concept_shares: np.ndarray
    """For each singular direction the share of the concept's two directions that lies in it."""

    def write(self, path: Path) -> None:
        """Write an .npz file.

        Raises:
            StorageError: the disk fails.
        """
        about = json.dumps({"queries": self.queries, "value_names": self.value_names}).encode()
        arrays = {name: getattr(self, name) for name in ("images", "values", "singular_values", "concept_shares")}
        replace_file(path, lambda file: np.savez_compressed(file, about=np.frombuffer(about, np.uint8), **arrays))

    @classmethod
    def read(cls, path: Path) -> Retrieved:
        """Return the content of a file that ``write`` made.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file has another format.
            KeyError: an array is missing.
        """
        with np.load(path) as arrays:
            about = json.loads(arrays["about"].tobytes())
            rest = {name: arrays[name] for name in ("images", "values", "singular_values", "concept_shares")}
        return cls(queries=tuple(about["queries"]), value_names=tuple(about["value_names"]), **rest)

"""Bytes that a sweep's folder holds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.training.trial_folder import CHECKPOINT_FILE, UNREADABLE_FILE, WEIGHTS_FILE


@dataclass(frozen=True, kw_only=True)
class DiskUse:
    """Sizes of the files of a sweep. A sparse file counts with its length."""

    weights_bytes: int
    """Weights of finished trials."""
    checkpoint_bytes: int
    """Checkpoints of trials that go on, and those set aside because they are damaged."""
    other_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.checkpoint_bytes + self.other_bytes


def disk_use(folder: Path) -> DiskUse:
    """Return what the sweep in ``folder`` has on disk; files that go meanwhile, or cannot be read, do not count."""
    weights_bytes = checkpoint_bytes = other_bytes = 0
    for entry in _files(folder):
        with contextlib.suppress(OSError):
            size_bytes = entry.stat(follow_symlinks=False).st_size
            if entry.name == WEIGHTS_FILE:
                weights_bytes += size_bytes
            elif entry.name in (CHECKPOINT_FILE, UNREADABLE_FILE):
                checkpoint_bytes += size_bytes
            else:
                other_bytes += size_bytes
    return DiskUse(weights_bytes=weights_bytes, checkpoint_bytes=checkpoint_bytes, other_bytes=other_bytes)


def disk_line(use: DiskUse) -> str:
    """Return a line such as ``disk: 25.1 MB, 20.2 MB weights of trials and 1.4 MB checkpoints among them``."""
    parts = [
        f"{_megabytes(size_bytes)} {what}"
        for size_bytes, what in ((use.weights_bytes, "weights of trials"), (use.checkpoint_bytes, "checkpoints"))
        if size_bytes > 0
    ]
    of_it = "" if not parts else f", {' and '.join(parts)} among them"
    return f"disk: {_megabytes(use.total_bytes)}{of_it}"


def _megabytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield entry

"""The parts of a sweep's folder that are kept in a bucket, each with its writer.

The driver writes the records of the sweep, a worker those of the trial that it trains and the answers on test images. A
part that another machine has written is fetched before it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sweeper.remote.bucket import Bucket
from sweeper.remote.bucket_lease import BucketLease
from sweeper.remote.folder_copy import FolderCopy

SESSION_FILE = "session"
"""Written by each driver, with another content, before it changes anything."""
STOP_KEY = "stop.request"
_OF_WORKERS = ("trials/", "answers/")
_NEVER = ("ray/", "lease/", "lease.", STOP_KEY)
_HEAVY = ("checkpoint.pt", "weights.safetensors")
"""Files of a trial that only its workers and ``export`` read."""


class SweepCopy:
    """A sweep's folder on this machine and its copy in a bucket."""

    def __init__(self, bucket: Bucket, name: str, folder: Path) -> None:
        self.bucket, self.name, self.folder = bucket, name, folder

    @property
    def records(self) -> FolderCopy:
        """Return what the driver writes."""
        return FolderCopy(self.bucket, self.name, self.folder, marker=SESSION_FILE, wanted=_is_record)

    def trial(self, path: Path, *, heavy: bool = True) -> FolderCopy:
        """Return the folder of a trial.

        Args:
            heavy: with checkpoint and weights.
        """
        wanted: Callable[[str], bool] = (lambda name: name != "trial.json") if heavy else _is_light
        return FolderCopy(self.bucket, f"{self.name}/trials/{path.name}", path, marker="attempt", wanted=wanted)

    @property
    def answers(self) -> FolderCopy:
        return FolderCopy(self.bucket, f"{self.name}/answers", self.folder / "answers", marker="", wanted=_any)

    @property
    def lease(self) -> BucketLease:
        return BucketLease(self.bucket, self.name, self.name)

    def trials(self) -> list[Path]:
        """Return the local folders of the trials in the bucket."""
        found = {key.split("/")[2] for key in self.bucket.stamps(f"{self.name}/trials")}
        return [self.folder / "trials" / number for number in sorted(found)]

    def fetch(self, *, ours: bool) -> None:
        """Bring this machine up to date: records, trials without their weights, answers.

        Args:
            ours: whether this process goes on with the sweep, and may have been the last one that did, on this machine:
                what it had not sent is kept then. Otherwise it only reads.
        """
        for part in (self.records, *(self.trial(path, heavy=ours) for path in self.trials())):
            if ours:
                part.pull_unless_ours()
            else:
                part.pull()
        self.answers.fetch_new()

    def fetch_trial(self, path: Path) -> None:
        """Fetch a trial that a worker has ended, on this machine or another one."""
        self.trial(path).pull_unless_ours()

    def drop(self, path: Path, name: str) -> None:
        """Remove a file of a trial that no attempt writes any more."""
        self.bucket.remove([f"{self.name}/trials/{path.name}/{name}"])

    def remove(self) -> None:
        """Remove the sweep from the bucket; the leases stay, so that a late driver finds that it has none."""
        self.bucket.remove(f"{key}" for key in self.bucket.stamps(self.name) if "/lease/" not in key)


def _any(name: str) -> bool:
    return True


def _is_light(name: str) -> bool:
    return name not in _HEAVY and name != "trial.json"


def _is_record(name: str) -> bool:
    if name.startswith(_NEVER):
        return False
    return not name.startswith(_OF_WORKERS) or name.endswith("/trial.json")

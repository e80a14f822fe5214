"""The ``sweeper run`` of a sweep that runs elsewhere: on a Slurm allocation or as a job of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of ``sweeper run`` that go with a sweep wherever it runs."""

    spec: str
    """A shipped spec by its name, or an absolute path."""
    name: str
    storage: Path
    changes: Sequence[str] = ()
    """Values of ``--set``."""
    trials: int | None = None
    budget: str | None = None
    price: str | None = None
    tracking_uri: str | None = None
    """Without a password, which others could read in a script or a job."""
    warm_start: Sequence[str] = ()

    def words(self) -> list[str]:
        """Return the arguments of ``sweeper`` that start the sweep, or resume it if it exists."""
        words = ["run", self.spec, "--name", self.name, "--resume", "--storage", str(self.storage)]
        for change in self.changes:
            words += ["--set", change]
        for name in self.warm_start:
            words += ["--warm-start", name]
        given = {"--trials": self.trials, "--budget": self.budget, "--price": self.price}
        for option, value in given.items():
            words += [] if value is None else [option, str(value)]
        if self.tracking_uri is not None:
            words += ["--tracking-uri", self.tracking_uri]
        return words

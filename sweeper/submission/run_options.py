"""The ``sweeper run`` of a sweep that runs elsewhere: on a Slurm allocation or as a job of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import UserError
from sweeper.secrets import shown_uri


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
    warm_start: Sequence[str] = ()

    def words(self) -> list[str]:
        """Return the arguments of ``sweeper`` that start the sweep, or resume it if it exists.

        Raises:
            UserError: the tracking URI holds a password, which everybody could read in the script or in the job.
        """
        words = ["run", self.spec, "--name", self.name, "--resume", "--storage", str(self.storage)]
        for change in self.changes:
            words += ["--set", change]
        for name in self.warm_start:
            words += ["--warm-start", name]
        given = {"--trials": self.trials, "--budget": self.budget, "--price": self.price}
        for option, value in given.items():
            words += [] if value is None else [option, str(value)]
        if self.tracking_uri is not None:
            if shown_uri(self.tracking_uri) != self.tracking_uri:
                raise UserError(
                    f"--tracking-uri {shown_uri(self.tracking_uri)} holds a password, which others could read in the "
                    "job; leave it out there, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the "
                    "whole MLFLOW_TRACKING_URI, in the environment of the job"
                )
            words += ["--tracking-uri", self.tracking_uri]
        return words

"""The files of the trials of a sweep, as the scheduler uses them."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.records import Report, Task, TrialRecord
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder


class FolderTrialFiles:
    """In a sweep's folder."""

    def __init__(self, folder: SweepFolder, spec: Spec) -> None:
        self._folder, self._spec = folder, spec

    def task(self, trial: TrialRecord, rungs: Sequence[float]) -> Task:
        path = self._folder.trial_path(trial.number)
        path.mkdir(parents=True, exist_ok=True)
        self._write_trial(trial)
        payload = {"folder": str(path), "parameters": trial.parameters, "seed": trial.seed, "rungs": list(rungs)}
        return Task(kind="train", key=trial.number, attempt=self._folder.attempts(trial.number) + 1, payload=payload)

    def reports(self, number: int) -> list[Report]:
        return self._folder.reports(number)

    def stopped(self, number: int) -> None:
        """Its optimiser state goes."""
        (self._folder.trial_path(number) / "checkpoint.pt").unlink(missing_ok=True)

    def _write_trial(self, trial: TrialRecord) -> None:
        """``trial.json``: with it ``python -m trainables`` runs this trial alone."""
        name = f"trials/{trial.number:05d}/trial.json"
        if (self._folder.path / name).exists():
            return
        self._folder.write_json(
            name,
            {
                "task": self._spec.task_settings().model_dump(mode="json", by_alias=True),
                "parameters": trial.parameters,
                "seed": trial.seed,
                "data_seed": self._spec.search.seed,
            },
        )

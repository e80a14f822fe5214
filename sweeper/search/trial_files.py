"""The files of a sweep's trials, as the scheduler uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeper.jobs import Job, TrainJob
from sweeper.records import TrialRecord
from sweeper.spec.spec import Spec
from sweeper.storage.files import read_if_whole
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Report
from trainables.training.trial_folder import CHECKPOINT_FILE, WEIGHTS_FILE


class FolderTrialFiles:
    """Implements ``scheduler.TrialFiles`` in a sweep's folder."""

    def __init__(self, folder: SweepFolder, spec: Spec, sent: Callable[[], None] = lambda: None) -> None:
        """Name the folder.

        Args:
            sent: returns when a bucket has the study, for a storage in a bucket: a worker may begin a trial only then.
        """
        self._folder, self._spec, self._sent = folder, spec, sent

    def job(self, trial: TrialRecord, rungs: Sequence[float]) -> Job:
        files = self._folder.trial(trial.number)
        files.path.mkdir(parents=True, exist_ok=True)
        self._write_trial(trial)
        self._sent()
        return TrainJob(
            key=trial.number,
            attempt=files.last_attempt() + 1,
            folder=files.path,
            parameters=trial.parameters,
            seed=trial.seed,
            rungs=tuple(rungs),
        )

    def reports(self, number: int) -> list[Report]:
        return list(self._folder.trial(number).reports().values())

    def ended(self, number: int) -> None:
        if (remote := self._folder.remote) is not None:
            remote.fetch_trial(self._folder.trial(number).path)

    def stopped(self, number: int) -> None:
        self._drop(number, CHECKPOINT_FILE)

    def remove_weights(self, number: int) -> None:
        """Remove the weights of a complete trial, if they are there."""
        self._drop(number, WEIGHTS_FILE)

    def _drop(self, number: int, file: str) -> None:
        trial = self._folder.trial(number)
        trial.drop(file)
        if (remote := self._folder.remote) is not None:
            remote.drop(trial.path, file)

    def _write_trial(self, trial: TrialRecord) -> None:
        """Write ``trial.json``, from which ``python -m trainables`` runs this trial alone."""
        path = self._folder.trial(trial.number).path / "trial.json"
        if read_if_whole(path) is not None:
            return
        self._folder.write_json(
            str(path.relative_to(self._folder.path)),
            {
                "task": self._spec.task_settings().model_dump(mode="json", by_alias=True),
                "parameters": trial.parameters,
                "seed": trial.seed,
                "data_seed": self._spec.search.seed,
            },
        )

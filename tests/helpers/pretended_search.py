"""A search whose trials nobody trains: their answers are drawn, with probabilities that the test gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sweeper.jobs import Job, Outcome, TrainJob
from sweeper.records import Retraining, TrialRecord
from sweeper.run.floor_watch import FloorWatch
from sweeper.search.floor_files import FloorReader, SearchEnd, read_search_end, write_search_end
from sweeper.search.scheduler import NoLimits, TrialScheduler
from sweeper.search.study import Study
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.goals import DIRECTIONS, GOALS
from tests.helpers.reports import make_untouched
from tests.helpers.specs import make_spec as demo_spec
from trainables.evaluation.hits import Hits, to_text
from trainables.records import Point, Report, TrialResult

IMAGES = 500
Truth = Callable[[int], tuple[float, float]]
"""Trial -> probabilities of a right answer, clean and attacked."""


def make_spec(**search: Any) -> Spec:
    return demo_spec(search={"trials": 40, "seed": 1, "sampler": "random", **search}, paint=None)


def drawn(seed: int, truth: tuple[float, float]) -> Hits:
    generator = np.random.default_rng(seed)
    return {goal: [generator.random(IMAGES) < share] for goal, share in zip(GOALS, truth, strict=True)}


def values_of(hits: Hits) -> dict[str, float]:
    return {goal: float(of_sets[0].mean()) for goal, of_sets in hits.items()}


class PretendedSearch(NoLimits):
    """One session of the search; implements ``TrialListener`` and ``SweepControl``."""

    def __init__(self, storage: Path, spec: Spec, truth: Truth) -> None:
        self.folder, self._truth = SweepFolder(storage, spec.name), truth
        if not self.folder.exists():
            self.folder.create(spec, "")
            hits = drawn(999, (0.9, 0.3))
            untouched = make_untouched(goals=values_of(hits), validation_images=[IMAGES], hits=to_text(hits))
            self.folder.write_untouched(untouched)
            Study.create(self.folder.study_path, spec.parameters, goals=DIRECTIONS, seed=1, startup_trials=4).close()
        self.folder.save_spec(spec)
        before = self.folder.untouched()
        assert before is not None
        self.study = Study.open(self.folder.study_path, spec.parameters)
        self.confirm_phases = 0
        reader = FloorReader(self.folder, spec, before)
        self.ends: list[SearchEnd] = []
        self.watch = FloorWatch(
            spec, reader.floor, self.study.trials, end=read_search_end(self.folder), ended=self._search_ended
        )
        self.scheduler = TrialScheduler(
            spec, self.study, FolderTrialFiles(self.folder, spec), before.goals, self, self, self.watch.search_is_over
        )

    def next_job(self) -> Job | None:
        """Return the next trial, once it is known whether there is one."""
        deadline_s = time.monotonic() + 30.0
        while True:
            known = self.watch.search_is_over() is not None
            job = self.scheduler.next_job()
            if job is not None or known or time.monotonic() > deadline_s:
                return job

    def end(self, job: Job) -> None:
        assert isinstance(job, TrainJob)
        folder, hits = self.folder.trial(job.key, attempt=job.attempt), drawn(job.key, self._truth(job.key))
        folder.claim()
        points = (Point(weights="last", strength=1.0, values=values_of(hits)),)
        result = TrialResult(values=values_of(hits), points=points, epochs=1, train_s=9.0, evaluation_s=1.0)
        folder.finish(result, {"last.w": torch.ones(1)}, [hits])
        outcome = Outcome(kind="complete", result=result, slot=0, attempt=job.attempt, busy_s=10.0)
        self.scheduler.on_end(job.key, outcome)

    def run(self, slots: int = 1, limit: int = 1000) -> int:
        """End up to ``limit`` trials, ``slots`` at a time; return how many ended. Those begun then stay running."""
        ended, running = 0, list[Job]()
        while ended < limit:
            while len(running) < slots and (job := self.next_job()) is not None:
                running.append(job)
            if not running:
                break
            self.end(running.pop(0))
            ended += 1
        return ended

    def close(self) -> None:
        self.watch.close()
        self.study.close()

    def _search_ended(self, end: SearchEnd) -> None:
        self.ends.append(end)
        write_search_end(self.folder, end)

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None:
        self.watch.trial_ended(trial)

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining]:
        self.confirm_phases += 1
        return super().plan_retrainings(trials)

"""Several workers of one trial: they train as one worker does, and nothing that differs between them blocks them.

All groups live in one set of processes. A collective that not all workers call fails after ``PATIENCE``.
"""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.helpers.tiny import memory_for, parameters, world_task, write_clip
from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.files import StorageError
from trainables.memory import MicroBatchReduced
from trainables.records import TrialResult
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.tasks.known import open_context
from trainables.training.hooks import Hooks, TrialInterrupted
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

PATIENCE = timedelta(seconds=30)
WORLD_SIZES = (3, 2)
OBJECTIVES = ("kto", "dpo")
BATCHES, MICRO_BATCHES = range(7, 13), range(1, 7)
"""Every remainder of a global batch by a micro-batch, and of the rows of a worker."""
SHORT_OF_MEMORY = {3: (9, 10, 11), 2: (8, 9)}
"""World size -> global batches."""


def trial_of(batch: int, **changes: Any) -> Parameters:
    """Two steps of ``batch`` pairs."""
    return parameters(images=batch, copies=2, **changes)


def make_context(task: TaskSettings, folder: Path) -> TrialContext:
    return open_context(task, data_seed=0, cache=folder / "cache", device=torch.device("cpu"))


def train(
    context: TrialContext, trial: Parameters, folder: TrialFolder, *, micro: int | None = None, **options: Any
) -> TrialResult:
    sizes = {"global_batch_size": trial.images, "micro_batch_size": micro}
    context.task = context.task.model_copy(update={"training": context.task.training.model_copy(update=sizes)})
    return run_trial(context, trial, seed=7, folder=folder, **options)


class Workers:
    """One worker's part in the groups, one group after the other."""

    def __init__(self, rank: int, folder: Path, task: TaskSettings) -> None:
        self.rank, self.folder = rank, folder
        self.context = make_context(task, folder)
        self._joined = 0

    def join(self, world_size: int) -> WorkerGroup:
        self._joined += 1
        dist.init_process_group(
            "gloo",
            init_method=f"file://{self.folder}/group-{world_size}-{self._joined}",
            rank=self.rank,
            world_size=world_size,
            timeout=PATIENCE,
        )
        return WorkerGroup(rank=self.rank, world_size=world_size)

    def train_every_remainder(self, world_size: int) -> None:
        group = self.join(world_size)
        for objective, batch, micro in product(OBJECTIVES, BATCHES, MICRO_BATCHES):
            folder = TrialFolder(self.folder / f"{objective}-{batch}" / f"{world_size}-{micro}")
            train(self.context, trial_of(batch, objective=objective), folder, micro=micro, group=group)
        dist.destroy_process_group()

    def run_out_of_memory(self, world_size: int, batch: int) -> None:
        """The last worker has room for two pairs at first, then for one; the others have enough."""
        trial, path = trial_of(batch, **VISUAL), self.folder / f"short-{batch}" / str(world_size)
        sizes = []
        short = self.rank == world_size - 1
        error = MicroBatchReduced if short else RuntimeError  # the others lose a peer
        for attempt, images in ((1, 5), (2, 3)):
            group = self.join(world_size)
            with self._room_for(images, short), pytest.raises(error):
                train(self.context, trial, TrialFolder(path, attempt=attempt), group=group)
            dist.destroy_process_group()
            sizes.append(TrialFolder(path).micro_batch_size())
        assert not short or sizes == [2, 1]
        group = self.join(world_size)
        with self._room_for(3, short):
            train(self.context, trial, TrialFolder(path, attempt=3), group=group)
        dist.destroy_process_group()

    def _room_for(self, images: int, short: bool) -> AbstractContextManager[Any]:
        return memory_for(self.context, images) if short else nullcontext()

    def see_different_things(self) -> None:
        """Two workers, each with a folder of its own: what a storage that is not shared, or stale, looks like."""
        group, own = self.join(2), self.folder / "seen" / str(self.rank)
        trial = trial_of(8, objective="kto")
        if self.rank == 1:
            self.context.batch_sizes.remember_micro(trial, 1)
        train(self.context, trial, TrialFolder(own / "memory"), group=group)
        with pytest.raises(StorageError, match="the workers read different checkpoints of .*: is the storage the same"):
            train(self.context, trial, TrialFolder(own / "steps", attempt=2), group=group)
        with pytest.raises(StorageError, match="the workers read different checkpoints"):
            train(self.context, trial, TrialFolder(own / "absent", attempt=2), group=group)
        lines: list[str] = []
        folder = TrialFolder(own / "damaged", attempt=2)
        again = train(self.context, trial, folder, group=group, hooks=Hooks(log=lines.append))
        assert len(lines) == (1 if self.rank == 0 else 0)
        assert (own / "damaged" / "checkpoint.pt.unreadable").exists() == (self.rank == 0)
        finished = train(self.context, trial, TrialFolder(own / "damaged"), group=group)
        assert finished.values == again.values and not (self.rank == 1 and TrialFolder(own / "damaged").result())
        dist.destroy_process_group()


VISUAL: dict[str, Any] = {"tune": "visual", "objective": "kto", "learning_rate": 1e-3}


def work(rank: int, folder: Path, task: TaskSettings) -> None:
    torch.set_num_threads(1)
    workers = Workers(rank, folder, task)
    for world_size in WORLD_SIZES:
        if rank < world_size:
            workers.train_every_remainder(world_size)
            for batch in SHORT_OF_MEMORY[world_size]:
                workers.run_out_of_memory(world_size, batch)
    if rank < 2:
        workers.see_different_things()


def interrupted_after(context: TrialContext, step: int, folder: Path) -> Path:
    asked = iter(range(1, 100))
    hooks = Hooks(interrupted=lambda: next(asked) == step)
    with pytest.raises(TrialInterrupted):
        train(context, trial_of(8, objective="kto"), TrialFolder(folder), hooks=hooks)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all trials, trained by one worker and by several."""
    folder = tmp_path_factory.mktemp("workers")
    task = world_task(write_clip(folder / "model", "vit"), epochs=1)
    front = task.evaluate.front.model_copy(update={"strengths": [1.0], "averaged": False})
    search = task.evaluate.search.model_copy(update={"images": 12})
    evaluate = task.evaluate.model_copy(update={"front": front, "search": search})
    task = task.model_copy(update={"evaluate": evaluate, "train": task.train.model_copy(update={"copies": 2})})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        context = make_context(task, folder)
        for objective, batch in product(OBJECTIVES, BATCHES):
            train(context, trial_of(batch, objective=objective), TrialFolder(folder / f"{objective}-{batch}" / "alone"))
        for batch in {batch for batches in SHORT_OF_MEMORY.values() for batch in batches}:
            train(context, trial_of(batch, **VISUAL), TrialFolder(folder / f"short-{batch}" / "alone"))
        seen = folder / "seen"
        interrupted_after(context, 1, seen / "0" / "steps")
        interrupted_after(context, 2, seen / "1" / "steps")
        shutil.copytree(seen / "0" / "steps", seen / "0" / "absent")
        for rank in "01":
            shutil.copytree(seen / "0" / "steps", seen / rank / "damaged")
        os.truncate(seen / "1" / "damaged" / "checkpoint.pt", 1000)
    finally:
        torch.set_num_threads(threads)
    mp.spawn(work, args=(folder, task), nprocs=max(WORLD_SIZES))
    return folder


def assert_trained_as(alone: TrialFolder, together: TrialFolder) -> None:
    expected, reports = alone.reports(), together.reports()
    assert list(reports) == list(expected) == [2]
    for name in ("loss", "preference_loss", "reference_kl"):
        assert getattr(reports[2], name) == pytest.approx(getattr(expected[2], name), rel=1e-3, abs=1e-6), name
    first, second = alone.weights("last"), together.weights("last")
    for name in first:
        torch.testing.assert_close(second[name], first[name], atol=2e-4, rtol=0)
    result, hits = together.result(), together.hits()
    assert result is not None and hits is not None
    for goal, of_sets in hits.items():
        means = np.mean([of_set.mean(1) for of_set in of_sets], axis=0)
        assert means == pytest.approx([point.values[goal] for point in result.points])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_remainder_of_a_batch_trains_as_one_worker(folder: Path, objective: str, batch: int) -> None:
    trials = folder / f"{objective}-{batch}"
    for world_size, micro in product(WORLD_SIZES, MICRO_BATCHES):
        assert_trained_as(TrialFolder(trials / "alone"), TrialFolder(trials / f"{world_size}-{micro}"))


@pytest.mark.parametrize(
    ("world_size", "batch"), [(size, batch) for size, batches in SHORT_OF_MEMORY.items() for batch in batches]
)
def test_one_worker_out_of_memory_twice_leaves_smaller_micro_batches_each_time(
    folder: Path, world_size: int, batch: int
) -> None:
    """The sizes after each attempt are checked by the workers."""
    trials = folder / f"short-{batch}"
    expected, reports = (TrialFolder(trials / name).reports() for name in ("alone", str(world_size)))
    assert reports[2].loss == pytest.approx(expected[2].loss, rel=1e-3, abs=1e-6)


def test_workers_that_see_different_files_and_memory_agree(folder: Path) -> None:
    """What they see is checked by the workers; the same trial is trained whole in the end."""
    alone = TrialFolder(folder / "kto-8" / "alone")
    for name in ("memory", "damaged"):
        assert_trained_as(alone, TrialFolder(folder / "seen" / "0" / name))
    assert not (folder / "seen" / "1" / "memory").exists(), "the first worker writes"

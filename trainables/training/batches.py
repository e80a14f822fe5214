"""The order of a trial's training images: which rows each step trains on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.distributed import WorkerGroup


@dataclass(frozen=True)
class Rows:
    """Rows of training images. An index in the host's memory would make the host wait for the GPU at each use."""

    host: Tensor
    """(B,) int64, in the host's memory: for images that stay there."""
    device: Tensor
    """The same rows on the trial's device."""

    def __len__(self) -> int:
        return len(self.host)

    def of_worker(self, group: WorkerGroup) -> Rows:
        """Return the rows of this worker: every ``world_size``-th one."""
        own = slice(group.rank, None, group.world_size)
        return Rows(self.host[own], self.device[own])

    def split(self, size: int) -> list[Rows]:
        """Return parts of ``size`` rows; the last one may have fewer."""
        return [Rows(host, device) for host, device in zip(self.host.split(size), self.device.split(size), strict=True)]


class Batches:
    """Global batches of a trial: each epoch has all rows once, in an order that depends on seed and epoch only."""

    def __init__(self, rows: Tensor, *, steps_per_epoch: int, seed: int, device: torch.device) -> None:
        """Take the rows (M,) that the trial trains on."""
        self._rows, self._steps_per_epoch, self._seed, self._device = rows, steps_per_epoch, seed, device
        self._epoch = -1
        self._batches: list[Rows] = []
        """Batches of the present epoch."""

    def of_step(self, step: int) -> Rows:
        """Return the rows of the global batch of a step, counted from 0."""
        epoch, position = divmod(step, self._steps_per_epoch)
        if self._epoch != epoch:
            generator = torch.Generator().manual_seed(self._seed * 100_003 + epoch)
            order = self._rows[torch.randperm(len(self._rows), generator=generator)]
            parts = zip(
                order.tensor_split(self._steps_per_epoch),
                order.to(self._device).tensor_split(self._steps_per_epoch),
                strict=True,
            )
            self._epoch, self._batches = epoch, [Rows(host, device) for host, device in parts]
        return self._batches[position]


def steps_per_epoch(rows: int, global_batch_size: int, world_size: int) -> int:
    """Return the number of steps in which each of ``rows`` training images is shown once.

    Raises:
        ValueError: a worker would have no images in a step.
    """
    steps = math.ceil(rows / global_batch_size)
    if rows // steps < world_size:
        raise ValueError(
            f"global_batch_size {global_batch_size} with {rows} pairs leaves workers without images; "
            f"{world_size} workers need at least that many pairs in each step"
        )
    return steps

"""The worker processes of one trial. With a single worker, all sums are local.

All workers call the collectives in the same order, so every value that decides on the next collective must be the same
on all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")


@dataclass(frozen=True)
class WorkerGroup:
    """This process's place in the trial's group; with several workers torch.distributed is already initialised."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return ``values`` summed over workers, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def minimum(self, values: Sequence[int]) -> list[int]:
        """Return for each position of ``values`` the smallest value of all workers."""
        if self.world_size == 1:
            return list(values)
        smallest = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return [int(value) for value in smallest.tolist()]

    def wait_for_all(self) -> None:
        """Return when every worker has called this."""
        self.minimum([0])

    def from_first(self, value: Value) -> Value:
        """Return the first worker's ``value``, which is pickled; the values of the others are ignored."""
        if self.world_size == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared, src=0, device=self.device)
        return shared[0]

    def wrap(self, policy: nn.Module) -> nn.Module:
        """Return the policy in DistributedDataParallel if there are several workers: gradients are means over them."""
        if self.world_size == 1:
            return policy
        devices = [self.device] if self.device.type == "cuda" else None
        parallel = nn.parallel.DistributedDataParallel
        # Batch-norm statistics are frozen; only gradients are synchronised. torch 2.13 has renamed the argument.
        renamed = "forward_sync_buffers" in inspect.signature(parallel).parameters
        synchronised: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        return parallel(policy, device_ids=devices, gradient_as_bucket_view=True, **synchronised)

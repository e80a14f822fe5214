"""The worker processes of one trial. With a single worker, all sums are local."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class WorkerGroup:
    """This process's place in the trial's group; torch.distributed is already initialised where there are several."""

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

    def wrap(self, policy: nn.Module) -> nn.Module:
        """Return the policy in DistributedDataParallel if there are several workers: gradients are means over them."""
        if self.world_size == 1:
            return policy
        devices = [self.device] if self.device.type == "cuda" else None
        # Batch-norm statistics are frozen; nothing is to be synchronised but gradients.
        return nn.parallel.DistributedDataParallel(
            policy, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )

"""The workers of a slot as a group of torch.distributed that no other machine can reach.

They are on one node, so they meet in a file and talk over the loopback interface. Ray's own TorchConfig starts a
TCPStore (torch 2.14), which listens on all interfaces and asks nobody for a password.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import timedelta
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from sweeper.execution.private_files import make_ray_folder

TIMEOUT = timedelta(minutes=30)
"""Time for a collective; PyTorch's default for Gloo."""
LEAVE_S = 5.0
_INTERFACES = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


class TorchGroup(BackendConfig):
    """Backend of Ray Train for workers on one node."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _TorchGroupBackend


class _TorchGroupBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Join the workers in a group."""
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        self._folder = folder = worker_group.execute_single(0, _meeting_folder)
        backend, size = "nccl" if on_gpus else "gloo", len(worker_group)
        ray.get([worker_group.execute_single_async(rank, _join, backend, folder, rank, size) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let the workers leave the group; those that hang are ended by Train afterwards."""
        ray.wait(
            worker_group.execute_async(_leave, folder=self._folder), num_returns=len(worker_group), timeout=LEAVE_S
        )


def _meeting_folder() -> str:
    """Make the folder of the file in which the workers of a group meet; return its path."""
    return tempfile.mkdtemp(prefix="group-", dir=make_ray_folder())


def _join(backend: str, folder: str, rank: int, world_size: int) -> None:
    import torch.distributed as dist

    for name, interface in _INTERFACES.items():
        os.environ.setdefault(name, interface)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/store", rank=rank, world_size=world_size, timeout=TIMEOUT
    )


def _leave(folder: str) -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        is_first = dist.get_rank() == 0
        dist.destroy_process_group()
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)

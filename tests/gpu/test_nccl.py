"""The collectives of a trial under NCCL, with one rank: two ranks would need two GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.gpu.device import device, make_context, memory_is_returned, only_gpu
from tests.helpers.tiny import parameters
from trainables.distributed import WorkerGroup

assert device and memory_is_returned  # fixtures
pytestmark = [pytest.mark.gpu, only_gpu]


@pytest.fixture
def nccl(device: torch.device, tmp_path: Path) -> Iterator[torch.device]:
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield device
    dist.destroy_process_group()


def test_collectives_and_gradients(nccl: torch.device, tmp_path: Path) -> None:
    # A world size of two only says that collectives are called; the process group has one rank.
    group = WorkerGroup(rank=0, world_size=2, device=nccl)
    sums = group.sum(torch.arange(4, dtype=torch.float64, device=nccl))
    assert sums.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert group.minimum([3, -4]) == [3, -4]
    assert group.from_first({"answer": 0.5}) == {"answer": 0.5}
    context = make_context(tmp_path, nccl)
    policy = context.policy(parameters(tune="visual"))
    wrapped = group.wrap(policy)
    view = context.data.preferences.kept
    images = context.inputs.whole_view(policy, view)[:8]
    prompts = context.reference.text_embeddings(*_prompts(context))
    wrapped(images, prompts).square().mean().backward()
    assert all(parameter.grad is not None for parameter in policy.tuned().values())
    context.release(policy)


def _prompts(context: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from trainables.context.trial_context import TrialContext

    assert isinstance(context, TrialContext)
    kept = context.data.preferences.kept_prompts
    return tuple(str(name) for name in kept.names), kept.templates

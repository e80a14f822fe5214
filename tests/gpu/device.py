"""The device of the GPU tests, and small trials on it.

``SWEEPER_GPU_TESTS=cpu`` runs on the CPU those tests that it can, to try the tests themselves.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.tiny import world_task, write_clip
from trainables.context.trial_context import TrialContext
from trainables.memory import return_device_memory
from trainables.tasks.known import open_context
from trainables.training.hooks import Hooks

CPU = torch.device("cpu")
TRIED_ON_CPU = os.environ.get("SWEEPER_GPU_TESTS") == "cpu"
only_gpu = pytest.mark.skipif(TRIED_ON_CPU, reason="about the memory or the streams of a GPU")
WAITS_PER_STEP = 1
"""How often a step may make the host wait for the GPU: for its loss, which ends a trial that diverges."""


@pytest.fixture(scope="session")
def device() -> torch.device:
    if TRIED_ON_CPU:
        return CPU
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device("cuda:0")


@pytest.fixture(autouse=True)
def memory_is_returned() -> Iterator[None]:
    yield
    return_device_memory()
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)


def make_context(folder: Path, device: torch.device, tower: str = "vit", **training: Any) -> TrialContext:
    """Return a context on a tiny CLIP; contexts of one folder share model and images."""
    model = folder / tower
    if not model.exists():
        write_clip(model, tower)
    task = world_task(model, **{"precision": "fp32", **training})
    return open_context(task, data_seed=0, cache=folder / "cache", device=device)


def stopped_at(step: int) -> Hooks:
    """Return hooks that interrupt a trial in a step, counted from 1 in its attempt."""
    asked = iter(range(1, 10_000))
    return Hooks(interrupted=lambda: next(asked) == step)


@contextmanager
def counted_waits() -> Iterator[Callable[[], list[str]]]:
    """Count what makes the host wait for the GPU; yields a function that returns the places so far."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: [f"{w.filename}:{w.lineno}" for w in seen if "synchronizing" in str(w.message)]
        finally:
            torch.cuda.set_sync_debug_mode("default")

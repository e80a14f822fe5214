"""A trial as on a GPU, on a device that is pretended: tensors are where they belong, and a step waits as seldom after a
resume as before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.tiny import parameters, world_task, write_clip
from tests.trainables.training.test_trial import one_thread
from trainables.context.trial_context import TrialContext
from trainables.tasks.known import open_context
from trainables.training.hooks import Hooks, TrialInterrupted
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

assert one_thread  # a fixture

pretend_cuda = pytest.importorskip("tests.helpers.pretend_cuda", exc_type=ImportError)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    write_clip(folder / "model", "vit")
    return folder


def make_context(cached: Path, device: torch.device, **training: Any) -> TrialContext:
    task = world_task(cached / "model", precision="fp32", **training)
    return open_context(task, data_seed=0, cache=cached / "cache", device=device)


@pytest.mark.parametrize("optimizer", ["adamax", "adamw"])
@pytest.mark.parametrize("scope", [{"tune": "transform"}, {"tune": "visual"}], ids=lambda scope: scope["tune"])
def test_a_step_waits_as_seldom_after_a_resume(
    scope: dict[str, Any], optimizer: str, cached: Path, tmp_path: Path
) -> None:
    trial, waits = parameters(**scope), list[Counter[tuple[str, str]]]()
    with pretend_cuda.PretendCuda() as cuda:
        context = make_context(cached, pretend_cuda.CUDA, optimizer=optimizer)

        def step_begins() -> bool:
            waits.append(cuda.waits.copy())
            return len(waits) == 3

        hooks = Hooks(interrupted=step_begins)
        with pytest.raises(TrialInterrupted):
            run_trial(context, trial, seed=0, folder=TrialFolder(tmp_path / "trial"), hooks=hooks)
        # Steps 1, 2 and 3, then 4 to 8 of the second attempt.
        result = run_trial(context, trial, seed=0, folder=TrialFolder(tmp_path / "trial", attempt=2), hooks=hooks)
    assert len(waits) == 8
    before, after = waits[2] - waits[1], waits[6] - waits[5]
    assert after == before
    alone = make_context(cached, torch.device("cpu"), optimizer=optimizer)
    expected = run_trial(alone, trial, seed=0, folder=TrialFolder(tmp_path / "cpu"))
    assert result.values == pytest.approx(expected.values, abs=0.05)

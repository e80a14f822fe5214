"""Memory of a GPU: given back after a trial, bounded where slots share a GPU, and running out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.device import device, make_context, memory_is_returned, only_gpu
from tests.helpers.tiny import parameters
from trainables.memory import available_bytes, limit_device_memory, return_device_memory
from trainables.training.hooks import Hooks
from trainables.training.timing import probe_trial
from trainables.training.trial import measure_memory, run_trial
from trainables.training.trial_folder import TrialFolder

assert device and memory_is_returned  # fixtures
pytestmark = [pytest.mark.gpu, only_gpu]

SCOPES: list[dict[str, Any]] = [{"tune": "visual"}, {"tune": "last_blocks", "blocks": 1}, {"tune": "all"}]
MIB = 2**20


def test_memory_is_back_at_its_baseline_after_each_scope(device: torch.device, tmp_path: Path) -> None:
    context = make_context(tmp_path, device)
    for attempt in (1, 2):  # the first trials keep inputs for all later ones
        for i, scope in enumerate([{"tune": "transform"}, *SCOPES]):
            before = torch.cuda.memory_allocated(device)
            run_trial(context, parameters(**scope), seed=0, folder=TrialFolder(tmp_path / f"{attempt}-{i}"))
            return_device_memory()
            if attempt == 2:
                assert torch.cuda.memory_allocated(device) <= before + MIB, scope
    assert not any(parameter.grad is not None for parameter in context.clip.model.parameters())


def test_a_slot_on_a_shared_gpu_keeps_to_its_share(device: torch.device, tmp_path: Path) -> None:
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    limit_device_memory(device, 0.1)
    assert 0 < available_bytes(device) < 0.1 * total_bytes
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(int(0.1 * total_bytes), dtype=torch.uint8, device=device)


def test_a_trial_that_runs_out_of_memory_goes_on_with_smaller_micro_batches(
    device: torch.device, tmp_path: Path
) -> None:
    trial = parameters(tune="visual")
    alone = run_trial(
        make_context(tmp_path, device, micro_batch_size=None, global_batch_size=64),
        trial,
        seed=1,
        folder=TrialFolder(tmp_path / "alone"),
    )
    return_device_memory()
    context, lines = make_context(tmp_path, device, micro_batch_size=None, global_batch_size=64), list[str]()
    need = measure_memory(context, trial, folder=tmp_path / "need", hooks=Hooks())
    return_device_memory()
    allocated_bytes = torch.cuda.memory_allocated(device)
    share = (allocated_bytes + 0.6 * (need.peak_bytes - need.own_bytes)) / need.total_bytes
    torch.cuda.set_per_process_memory_fraction(share, device)
    folder = TrialFolder(tmp_path / "narrow")
    result = run_trial(context, trial, seed=1, folder=folder, hooks=Hooks(log=lines.append))
    assert any(line.startswith("out of memory in step 1") for line in lines), lines
    assert result.values == pytest.approx(alone.values, abs=0.05)


def test_the_probed_peak_does_not_depend_on_the_scope_before(device: torch.device, tmp_path: Path) -> None:
    context = make_context(tmp_path, device)
    peaks = []
    for name, scopes in (("alone", ["transform"]), ("after", ["visual", "transform"])):
        for tune in scopes:
            folder = tmp_path / f"{name}-{tune}"
            timing = probe_trial(context, parameters(tune=tune), seconds=0.1, folder=folder)
        peaks.append(timing.peak_bytes)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.2, abs=8 * MIB)

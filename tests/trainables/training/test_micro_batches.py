"""The size of micro-batches: chosen by speed, once for all trials of a scope, without an effect on the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.tiny import parameters
from tests.trainables.training.test_trial import make_context, one_thread, tensors, without_times
from trainables.training.hooks import Hooks
from trainables.training.micro_batches import TOLERANCE, fastest_size, measure_speeds, sizes_to_try
from trainables.training.trial import measure_memory, run_trial
from trainables.training.trial_folder import TrialFolder

assert one_thread  # a fixture


@given(st.integers(1, 5000))
def test_sizes_rise_to_the_whole_batch(most: int) -> None:
    sizes = sizes_to_try(most)
    assert sizes == sorted(set(sizes)) and sizes[-1] == most
    assert all(size >= 16 for size in sizes[:-1])


def test_measuring_ends_where_larger_sizes_are_slower_or_do_not_fit() -> None:
    speeds = {16: 60.0, 32: 65.0, 64: 50.0, 128: 40.0, 256: 99.0}
    assert measure_speeds(256, speeds.get) == {16: 60.0, 32: 65.0, 64: 50.0, 128: 40.0}
    fitting = {16: 60.0, 32: 90.0}
    assert measure_speeds(512, fitting.get) == fitting
    assert measure_speeds(8, {8: 1.0}.get) == {8: 1.0}
    assert measure_speeds(512, lambda size: None) == {}


@given(st.dictionaries(st.integers(1, 512), st.floats(1.0, 1000.0), min_size=1))
def test_the_chosen_size_is_nearly_the_fastest_and_none_smaller_is(speeds: dict[int, float]) -> None:
    chosen, least = fastest_size(speeds, most=512), (1 - TOLERANCE) * max(speeds.values())
    assert speeds[chosen] >= least
    assert all(speed < least for size, speed in speeds.items() if size < chosen)


def test_a_pass_more_is_worth_a_batch_in_one_piece() -> None:
    assert fastest_size({16: 110.0, 64: 100.0}, most=64) == 16
    assert fastest_size({16: 110.0, 64: 100.0}, most=64, passes=2) == 64
    assert fastest_size({16: 130.0, 64: 100.0}, most=64, passes=2) == 16


def test_a_size_is_measured_once_and_every_trial_of_the_scope_uses_it(tmp_path: Path) -> None:
    trial, sizes, lines = parameters(tune="visual"), [], list[str]()
    for name in ("first", "second"):
        context = make_context(tmp_path, "vit", global_batch_size=64, epochs=3)  # another process, the same cache
        hooks = Hooks(log=lines.append)
        result = run_trial(context, trial, seed=1, folder=TrialFolder(tmp_path / name), hooks=hooks)
        sizes.append(TrialFolder(tmp_path / name).micro_batch_size())
    assert sizes[0] == sizes[1] and sizes[0] in (16, 32, 64)
    assert lines[0] == lines[1] and lines[0].startswith(f"micro-batches of {sizes[0]} pairs (pairs/s by size: 16: ")
    fixed = make_context(tmp_path / "fixed", "vit", global_batch_size=64, epochs=3, micro_batch_size=sizes[0])
    assert without_times(run_trial(fixed, trial, seed=1, folder=TrialFolder(tmp_path / "third"))) == without_times(
        result
    )
    first, third = tensors(tmp_path / "second"), tensors(tmp_path / "third")
    assert all(torch.equal(first[name], third[name]) for name in first)


def test_embeddings_are_taken_at_once(tmp_path: Path) -> None:
    context, folder = make_context(tmp_path, "vit", global_batch_size=64), TrialFolder(tmp_path / "trial")
    run_trial(context, parameters(), seed=1, folder=folder)
    assert folder.micro_batch_size() is None


@pytest.mark.parametrize("size", [4, 16])
def test_memory_is_measured_on_one_micro_batch(size: int, tmp_path: Path) -> None:
    context = make_context(tmp_path, "vit", micro_batch_size=size)
    need = measure_memory(context, parameters(tune="visual"), folder=tmp_path / "trial", hooks=Hooks())
    tower_bytes = sum(parameter.nbytes for parameter in context.clip.model.visual.parameters())
    assert (need.tune, need.micro_batch_size) == ("visual", size)
    assert need.peak_bytes >= need.own_bytes + 2 * tower_bytes, "the optimiser's two moments"
    assert 0 < need.own_bytes < need.total_bytes and 0 < need.free_bytes < need.total_bytes
    assert not any(
        parameter.requires_grad and parameter.grad is not None for parameter in context.clip.model.parameters()
    )

"""Trials on a GPU: goals of the CPU, resume, evaluation, export, one wait in a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.device import (
    CPU,
    WAITS_PER_STEP,
    counted_waits,
    device,
    make_context,
    memory_is_returned,
    only_gpu,
    stopped_at,
)
from tests.helpers.tiny import parameters
from trainables.context import inputs
from trainables.distributed import WorkerGroup
from trainables.models.clip import load_clip
from trainables.models.export import export_model
from trainables.settings.task import ModelSettings
from trainables.training.hooks import Hooks, TrialInterrupted
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

assert device and memory_is_returned  # fixtures
pytestmark = pytest.mark.gpu

SCOPES: list[dict[str, Any]] = [
    {"tune": "transform"},
    {"tune": "transform", "form": "residual", "rank": 4, "penalty": 0.1},
    {"tune": "last_blocks", "blocks": 1},
    {"tune": "visual"},
    {"tune": "all"},
    {"tune": "visual", "objective": "kto"},
    {"tune": "visual", "objective": "cross_entropy"},
    {"tune": "visual", "objective": "ipo", "beta": 0.1},
]
BY_NAME = {"ids": lambda scope: "-".join(map(str, scope.values()))}
NEAR = 0.05
"""Goals are shares of 60 images: three of them may be answered otherwise."""


@pytest.mark.parametrize("tower", ["vit", "resnet"])
@pytest.mark.parametrize("scope", SCOPES, **BY_NAME)
def test_a_trial_is_that_of_the_cpu(tower: str, scope: dict[str, Any], device: torch.device, tmp_path: Path) -> None:
    values = []
    for name, place in (("cpu", CPU), ("gpu", device)):
        folder = tmp_path / name
        context = make_context(tmp_path, place, tower)
        with pytest.raises(TrialInterrupted):
            run_trial(context, parameters(**scope), seed=5, folder=TrialFolder(folder), hooks=stopped_at(3))
        resumed = TrialFolder(folder, attempt=2)
        values.append(run_trial(context, parameters(**scope), seed=5, folder=resumed, rungs=(0.5,)))
        assert list(resumed.reports()) == [4, 8]
    assert values[1].values == pytest.approx(values[0].values, abs=NEAR)
    for on_gpu, on_cpu in zip(values[1].points, values[0].points, strict=True):
        assert on_gpu.values == pytest.approx(on_cpu.values, abs=NEAR)


@pytest.mark.parametrize("scope", [SCOPES[0], SCOPES[3], SCOPES[4]], **BY_NAME)
def test_bf16_trains_to_finite_losses(scope: dict[str, Any], device: torch.device, tmp_path: Path) -> None:
    context, folder = make_context(tmp_path, device, precision="bf16"), TrialFolder(tmp_path / "trial")
    result = run_trial(context, parameters(**scope), seed=5, folder=folder)
    losses = [report.loss for report in folder.reports().values()]
    assert all(loss is not None and loss == loss for loss in losses)
    assert set(result.values) >= {"clean_accuracy", "robust_accuracy"}
    assert context.clip.model.visual.proj.dtype == torch.float32


@only_gpu
@pytest.mark.parametrize("fits", [True, False], ids=["on the GPU", "in the host's memory"])
@pytest.mark.parametrize("scope", [SCOPES[0], SCOPES[2], SCOPES[3], SCOPES[4]], **BY_NAME)
def test_a_step_waits_once(
    scope: dict[str, Any], fits: bool, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a resume and after it."""
    if not fits:
        monkeypatch.setattr(inputs, "available_bytes", lambda device: 0)
    context, folder = make_context(tmp_path, device, epochs=4), tmp_path / "trial"
    with counted_waits() as places:
        seen: list[list[str]] = []

        def step_begins() -> bool:
            seen.append(places())
            return len(seen) == 4

        with pytest.raises(TrialInterrupted):
            run_trial(
                context, parameters(**scope), seed=1, folder=TrialFolder(folder), hooks=Hooks(interrupted=step_begins)
            )
        run_trial(
            context,
            parameters(**scope),
            seed=1,
            folder=TrialFolder(folder, attempt=2),
            hooks=Hooks(interrupted=step_begins),
        )
    for i in (2, 6):  # steps in the middle of an epoch
        step = seen[i][len(seen[i - 1]) :]
        assert len(step) <= WAITS_PER_STEP, step


@only_gpu
def test_images_of_the_host_train_the_same(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, losses = parameters(tune="visual"), []
    for fits in (True, False):
        if not fits:
            monkeypatch.setattr(inputs, "available_bytes", lambda device: 0)
        folder = TrialFolder(tmp_path / str(fits))
        run_trial(make_context(tmp_path, device, micro_batch_size=6), trial, seed=1, folder=folder)
        losses.append([report.loss for report in folder.reports().values()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_point_is_measured_on_test_and_exported(device: torch.device, tmp_path: Path) -> None:
    measured, logits = [], []
    trial = parameters(tune="visual")
    run_trial(make_context(tmp_path, device), trial, seed=1, folder=TrialFolder(tmp_path / "trial"))
    weights = TrialFolder(tmp_path / "trial").weights("last")
    for name, place in (("cpu", CPU), ("gpu", device)):
        context = make_context(tmp_path, place)
        policy = context.policy(trial)
        policy.set_weights(weights, 0.5)
        measured.append(
            context.measures.test(context, policy, WorkerGroup(device=place), variants=True, answers=None).values
        )
        export_model(context.clip, policy, weights, 0.5, tmp_path / name)
        clip = load_clip(ModelSettings(architecture=f"local-dir:{tmp_path / name}"))
        with torch.no_grad():
            image = clip.model.encode_image(torch.zeros(1, 3, 32, 32))
            logits.append(image @ clip.model.encode_text(clip.tokens(["a dog", "a cat"])).T)
        context.release(policy)
    assert measured[1] == pytest.approx(measured[0], abs=NEAR)
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-4)

"""What W starts from, its residual form, its distance from the identity, and the trial loop of the benchmark."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.transform.trials import embed, started, train
from tests.helpers.tiny import parameters, world_task, write_clip
from trainables.context.trial_context import TrialContext
from trainables.models.transform import apply_transform, identity_distance, initial_transform, power, residual_transform
from trainables.settings.parameters import Parameters
from trainables.tasks.known import open_context
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

WIDTH = 24


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    folder = tmp_path_factory.mktemp("transform")
    task = world_task(write_clip(folder / "model", "resnet", embed_dim=WIDTH))
    return open_context(task, data_seed=0, cache=folder / "cache", device=torch.device("cpu"))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [1, 5, 8])
def test_identity_distance_of_orthonormal_rows_is_the_share_that_is_dropped(rank: int) -> None:
    rows = torch.linalg.qr(random(8, 8)).Q[:rank]
    assert identity_distance(rows).item() == pytest.approx(math.sqrt(1 - rank / 8), abs=1e-6)


def test_identity_distance_is_the_root_mean_square_over_directions() -> None:
    s = torch.tensor([0.5, 1.0, 2.0])
    turned = torch.linalg.qr(random(3, 3)).Q @ torch.diag(s) @ torch.linalg.qr(random(3, 3, seed=1)).Q
    expected = math.sqrt((0.75**2 + 0 + 3**2) / 3)
    assert identity_distance(turned).item() == pytest.approx(expected, rel=1e-5)
    assert identity_distance(3 * torch.eye(7)).item() == pytest.approx(8.0)


def test_powers_of_a_diagonal_add_up_and_only_negative_ones_are_clamped() -> None:
    w = torch.diag(torch.tensor([0.01, 0.5, 1.0, 3.0, 40.0]))
    torch.testing.assert_close(power(w, 0.75) @ power(w, 1.25), power(w, 2.0))
    torch.testing.assert_close(power(power(w, 0.5), 2.0), w)
    torch.testing.assert_close(power(w, -0.5).diagonal(), torch.tensor([0.1, 0.5, 1.0, 3.0, 10.0]) ** -0.5)


def test_strength_zero_below_full_rank_is_a_projection_and_not_the_reference() -> None:
    w = random(3, 8)
    assert identity_distance(power(w, 0.0)).item() == pytest.approx(math.sqrt(1 - 3 / 8), abs=1e-6)
    residual = residual_transform(random(3, 8), random(8, 3, seed=1))
    assert identity_distance(power(residual, 0.0)).item() == pytest.approx(0.0, abs=1e-6)


def test_start_on_prompts_keeps_the_answers_over_them() -> None:
    images, prompts = F.normalize(random(50, 12), dim=-1), F.normalize(random(5, 12, seed=1), dim=-1)
    w = initial_transform(images, 6, prompts)
    torch.testing.assert_close(w @ w.T, torch.eye(6), atol=1e-6, rtol=0)
    kept = apply_transform(w, images) @ apply_transform(w, prompts).T
    torch.testing.assert_close(kept * (images @ w.T).norm(dim=1, keepdim=True), images @ prompts.T, atol=1e-5, rtol=0)
    without = initial_transform(images, 6)
    assert (
        apply_transform(without, prompts) @ apply_transform(without, prompts).T - prompts @ prompts.T
    ).abs().max() > 0.1


def test_start_is_the_reference_at_full_rank_even_with_fewer_images_than_directions() -> None:
    images, prompts = F.normalize(random(4, 12), dim=-1), F.normalize(random(3, 12, seed=1), dim=-1)
    assert identity_distance(initial_transform(images, 12, prompts)).item() < 1e-5


@pytest.mark.parametrize("changes", [{}, {"form": "residual", "rank": 3}, {"form": "residual"}])
def test_step_0_is_the_reference(context: TrialContext, changes: dict[str, Any]) -> None:
    policy, pairs = context.policy(parameters(**changes)), context.data.pairs
    view = pairs.attacked
    prompts = context.reference.text_embeddings(pairs.images.class_names, pairs.images.templates)
    reference = context.reference.logits(context.reference.embeddings(view), prompts)
    torch.testing.assert_close(policy(context.reference.embeddings(view), prompts), reference, atol=1e-5, rtol=1e-5)


def test_residual_trial_from_training_to_strength(context: TrialContext, tmp_path: Path) -> None:
    trial, folder = parameters(form="residual", rank=3, penalty=0.01), TrialFolder(tmp_path)
    result = run_trial(context, trial, seed=0, folder=folder)
    weights = folder.weights("last")
    assert {name: tuple(value.shape) for name, value in weights.items()} == {"a": (3, WIDTH), "b": (WIDTH, 3)}
    w = torch.eye(WIDTH) + weights["b"] @ weights["a"]
    assert torch.linalg.matrix_rank(weights["b"] @ weights["a"]) == 3
    assert result.identity_distance == pytest.approx(identity_distance(w).item(), rel=1e-5)
    first, second = folder.reports().values()
    assert second.identity_distance == result.identity_distance > first.identity_distance > 0
    policy = context.policy(trial)
    for t in (1.0, 0.5, -1.0):
        policy.set_weights(weights, t)
        torch.testing.assert_close(policy.matrix, power(w, t))
    policy.restore()
    torch.testing.assert_close(policy.matrix, torch.eye(WIDTH))


def test_image_tower_has_no_identity_distance(context: TrialContext, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    result = run_trial(context, parameters(tune="visual", learning_rate=1e-4), seed=0, folder=folder)
    assert result.identity_distance is None
    assert all(report.identity_distance is None for report in folder.reports().values())


def test_form_is_for_transforms() -> None:
    with pytest.raises(ValueError, match="`form` applies to tune transform only, not to visual"):
        Parameters(objective="cross_entropy", tune="visual", learning_rate=1e-4, form="residual")


@pytest.mark.parametrize("changes", [{"rank": 6}, {"form": "residual", "rank": 6}])
def test_loop_of_the_benchmark_trains_as_the_library_does(
    context: TrialContext, tmp_path: Path, changes: dict[str, Any]
) -> None:
    trial, folder = parameters(penalty=0.01, **changes), TrialFolder(tmp_path)
    run_trial(context, trial, seed=3, folder=folder)
    policy = context.policy(trial)
    policy.set_weights(folder.weights("last"))
    data = embed(context)
    tensors, matrix = started(data, "I + BA" if "form" in changes else "all class texts", 6, seed=3)
    w, distances = train(data, tensors, matrix, trial, epochs=2, batch=16, warmup_share=0.0, seed=3)
    torch.testing.assert_close(w.T @ w, (policy.matrix.T @ policy.matrix).detach(), atol=1e-4, rtol=1e-3)
    assert distances[-1] == pytest.approx(list(folder.reports().values())[-1].identity_distance, rel=1e-3)

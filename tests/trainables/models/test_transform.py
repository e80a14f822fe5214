"""W: starts as the reference, its powers, folding into each kind of projection, folders for plain open_clip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.tiny import parameters, world_task, write_clip
from trainables.models.export import export_model, largest_logit_difference
from trainables.models.transform import apply_transform, initial_transform, penalty, power
from trainables.tasks.known import open_context
from trainables.training.averaging import BetaAverage
from trainables.training.optimizer import schedule
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder


def embeddings(count: int = 200, width: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(count, width, generator=generator) * torch.arange(1, width + 1), dim=-1)


def test_full_rank_start_keeps_every_cosine() -> None:
    x = embeddings()
    z = apply_transform(initial_transform(x, 12), x)
    torch.testing.assert_close(z @ z.T, x @ x.T, atol=1e-5, rtol=0)


def test_low_rank_start_has_orthonormal_rows_along_the_main_directions() -> None:
    x = embeddings()
    w = initial_transform(x, 4)
    torch.testing.assert_close(w @ w.T, torch.eye(4), atol=1e-5, rtol=0)
    best = torch.linalg.svdvals(x.double())[:4].square().sum()
    assert (x @ w.T).square().sum().item() == pytest.approx(best.item(), rel=1e-5)


def test_penalty_is_zero_on_orthonormal_rows_and_squared_elsewhere() -> None:
    assert penalty(torch.eye(5)[:3]).item() == 0
    assert penalty(2 * torch.eye(3)).item() == pytest.approx(27.0)  # 3 * (1 - 4)^2


def test_powers() -> None:
    w = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    assert power(w, 1.0) is w
    orthonormal = power(w, 0.0)
    torch.testing.assert_close(orthonormal @ orthonormal.T, torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.svdvals(power(w, 0.5)), torch.linalg.svdvals(w).sqrt(), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.svdvals(power(w, 2.0)), torch.linalg.svdvals(w) ** 2, atol=1e-4, rtol=0)


def test_reversal_stays_bounded_where_singular_values_are_tiny() -> None:
    w = torch.diag(torch.tensor([100.0, 1.0, 1e-4]))
    assert sorted(torch.linalg.svdvals(power(w, -1.0)).tolist()) == pytest.approx([0.1, 1.0, 10.0])


def test_average_counts_the_untouched_weights_first() -> None:
    steps, values = 4, [0.0, 1.0, 5.0, 2.0, 7.0]
    average = BetaAverage({"w": torch.tensor(values[0])}, steps=steps, beta=0.7)
    for value in values[1:]:
        average.update({"w": torch.tensor(value)})
    positions = [(i + 0.5) / (steps + 1) for i in range(steps + 1)]
    weights = [torch.distributions.Beta(0.7, 0.7).log_prob(torch.tensor(p)).exp().item() for p in positions]
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert average.weights["w"].item() == pytest.approx(expected, rel=1e-5)


def test_schedule_warms_up_and_ends_near_zero() -> None:
    factors = [schedule(step, steps=100, warmup=10) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0 and factors[55] == pytest.approx(0.5) and 0 < factors[99] < 1e-3


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_exported_folder_answers_as_the_trial_did(tower: str, tmp_path: Path) -> None:
    task = world_task(write_clip(tmp_path / "model", tower))
    context = open_context(task, data_seed=0, cache=tmp_path / "cache", device=torch.device("cpu"))
    images = context.data.search_sets[0].attacked.images[:20]
    text = context.clip.tokens([f"a photo of a {name}" for name in context.data.search_sets[0].images.class_names])
    for i, changes in enumerate(
        [
            {"rank": 8},
            {"rank": 3, "form": "residual"},
            {"tune": "visual"},
            {"tune": "last_blocks", "blocks": 1},
            {"tune": "all"},
        ]
    ):
        trial = parameters(learning_rate=0.003, **changes)
        folder = TrialFolder(tmp_path / f"trial{i}")
        run_trial(context, trial, seed=0, folder=folder)
        policy = context.policy(trial)
        for strength in (1.0, 0.5):
            out = tmp_path / f"out{i}-{strength}"
            export_model(context.clip, policy, folder.weights("last"), strength, out)
            gap = largest_logit_difference(context.clip, policy, folder.weights("last"), strength, out, images, text)
            assert gap < 1e-4, (changes, strength)
        policy.restore()
    with pytest.raises(ValueError, match="not empty"):
        export_model(context.clip, policy, folder.weights("last"), 1.0, out)

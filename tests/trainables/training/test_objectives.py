"""The losses against values and gradients of the authors' released code, closed forms, and how batches may be split."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from tests.paths import ROOT
from trainables.training.objectives import cross_entropy, dpo, ipo, kto, reference_kl

CASES = json.loads(((ROOT / "tests") / "golden" / "losses.json").read_text())["cases"]


def tensor(values: Any, **options: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, **options)


def total(case: dict[str, Any], clean: torch.Tensor, attacked: torch.Tensor) -> torch.Tensor:
    reference_clean = tensor(case["reference_logits_clean"])
    pair = (
        tensor(case["reference_logits_typographic"]),
        torch.tensor(case["true_label"]),
        torch.tensor(case["written_label"]),
    )
    kl = reference_kl(clean, reference_clean)
    if case["objective"] == "dpo":
        loss = dpo(attacked, *pair, beta=case["beta"], label_smoothing=case["label_smoothing"])
    elif case["objective"] == "ipo":
        loss = ipo(attacked, *pair, beta=case["beta"])
    else:
        weights = {name: case[name] for name in ("desirable_weight", "undesirable_weight")}
        loss = kto(attacked, *pair, beta=case["beta"], kl=kl, **weights)
    return loss + case["lambda_reg"] * kl


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['objective']}-{case['beta']}-{case['lambda_reg']}")
def test_values_and_gradients_are_those_of_the_released_code(case: dict[str, Any]) -> None:
    clean = tensor(case["policy_logits_clean"], requires_grad=True)
    attacked = tensor(case["policy_logits_typographic"], requires_grad=True)
    loss = total(case, clean, attacked)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-9)
    torch.testing.assert_close(clean.grad, tensor(case["grad_policy_clean"]), atol=1e-9, rtol=0)
    torch.testing.assert_close(attacked.grad, tensor(case["grad_policy_typographic"]), atol=1e-9, rtol=0)


def test_all_objectives_are_in_the_golden_file() -> None:
    assert {case["objective"] for case in CASES} >= {"dpo", "ipo", "kto"}


def test_values_where_policy_equals_reference() -> None:
    logits, y, w = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 2, 3, 0, 2])
    assert dpo(logits, logits, y, w, beta=0.3).item() == pytest.approx(math.log(2))
    assert ipo(logits, logits, y, w, beta=0.25).item() == pytest.approx(4.0)
    assert kto(logits, logits, y, w, beta=2.0, kl=torch.tensor(0.0)).item() == pytest.approx(0.5)
    assert reference_kl(logits, logits).item() == pytest.approx(0.0, abs=1e-12)


def test_cross_entropy_is_the_chosen_class_alone() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(expected)


def test_reference_receives_no_gradient() -> None:
    policy, reference = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, w, kl = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), reference_kl(policy, reference)
    losses = dpo(policy, reference, y, w, beta=1) + ipo(policy, reference, y, w, beta=1)
    (losses + kto(policy, reference, y, w, beta=1, kl=kl) + kl).backward()
    assert reference.grad is None


def test_kto_does_not_differentiate_its_kl() -> None:
    policy, reference = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    clean = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y, w = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])
    loss = kto(policy.requires_grad_(), reference, y, w, beta=1, kl=reference_kl(clean, reference))
    loss.backward()
    assert clean.grad is None


@pytest.mark.parametrize("objective", [dpo, ipo])
def test_an_image_embedding_moves_along_the_difference_of_two_texts(objective: Any) -> None:
    """Corollary 3.2 of the paper: the direction is T(chosen) - T(rejected), and only its weight tells DPO from IPO."""
    draw, beta, scale = torch.Generator().manual_seed(0), 0.4, 10.0
    images = torch.randn(3, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    texts, reference = (torch.randn(5, n, generator=draw, dtype=torch.float64) for n in (8, 3))
    chosen, rejected = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 0])
    logits = scale * images @ texts.T
    objective(logits, reference.T, chosen, rejected, beta=beta).backward()
    rows = torch.arange(3)
    h = (
        logits[rows, chosen] - logits[rows, rejected] - reference.T[rows, chosen] + reference.T[rows, rejected]
    ).detach()
    weight = -beta * torch.sigmoid(-beta * h) if objective is dpo else 2 * (h - 1 / (2 * beta))
    expected = (weight * scale / 3)[:, None] * (texts[chosen] - texts[rejected])
    torch.testing.assert_close(images.grad, expected)

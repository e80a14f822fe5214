"""The objectives of examples/ against closed forms; their spec."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.metrics import doubt
from examples.objectives import conservative_dpo, simpo, slic_hinge
from sweeper.spec.spec import load_spec
from tests.paths import ROOT
from trainables.training.objectives import dpo


def pair(margin: float, reference: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One pair whose log pi(chosen) - log pi(rejected) is ``margin``, and ``reference`` in the untouched model."""
    logits = [torch.tensor([[0.3, 0.7 + m, 0.7]], dtype=torch.float64, requires_grad=True) for m in (margin, reference)]
    return logits[0], logits[1].detach(), torch.tensor([1]), torch.tensor([2])


def gradient(loss: Any, margin: float, reference: float, **values: float) -> tuple[float, float]:
    """The loss of a pair and its derivative with respect to the margin."""
    rows = pair(margin, reference)
    losses = loss(*rows, **values)
    assert losses.shape == (1,)
    losses.sum().backward()
    _, chosen, rejected = rows[0].grad[0].tolist()  # type: ignore[index]
    assert chosen == pytest.approx(-rejected), "the normaliser cancels"
    return losses.item(), chosen


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_conservative_dpo_is_least_at_the_log_odds_of_the_flips() -> None:
    beta, e, reference = 0.5, 0.1, -3.0
    best = math.log((1 - e) / e) / beta + reference
    value, slope = gradient(conservative_dpo, best, reference, beta=beta, label_smoothing=e)
    assert slope == pytest.approx(0.0, abs=1e-9)
    assert value == pytest.approx(-(1 - e) * math.log(1 - e) - e * math.log(e)), "the entropy of the flips"
    value, slope = gradient(conservative_dpo, reference, reference, beta=beta, label_smoothing=e)
    assert value == pytest.approx(math.log(2)) and slope == pytest.approx(-beta * (0.5 - e))


def test_conservative_dpo_is_the_built_in_dpo_with_label_smoothing() -> None:
    draw = torch.Generator().manual_seed(0)
    policy, reference = (torch.randn(7, 5, generator=draw) for _ in range(2))
    chosen, rejected = torch.arange(7) % 5, (torch.arange(7) + 2) % 5
    built_in = dpo(policy, reference, chosen, rejected, beta=0.7, label_smoothing=0.2)
    ours = conservative_dpo(policy, reference, chosen, rejected, beta=0.7, label_smoothing=0.2)
    assert ours.mean().item() == pytest.approx(built_in.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("margin", "loss", "slope"), [(-2.0, 5.0, -1.0), (2.5, 0.5, -1.0), (3.0, 0.0, 0.0), (9.0, 0, 0)]
)
def test_slic_hinge_is_flat_beyond_its_margin(margin: float, loss: float, slope: float) -> None:
    for reference in (-4.0, 1.0):
        value, derivative = gradient(slic_hinge, margin, reference, delta=3.0)
        assert value == pytest.approx(loss)
        if margin != 3.0:  # the kink
            assert derivative == pytest.approx(slope)


def test_simpo_is_half_way_at_its_target_margin_and_knows_no_reference() -> None:
    beta, gamma = 2.0, 1.5
    for reference in (-4.0, 1.0):
        value, slope = gradient(simpo, gamma / beta, reference, beta=beta, gamma=gamma)
        assert value == pytest.approx(math.log(2)) and slope == pytest.approx(-beta / 2)
    value, slope = gradient(simpo, -1.0, 0.0, beta=beta, gamma=gamma)
    assert value == pytest.approx(math.log(1 + math.exp(beta + gamma)))
    assert slope == pytest.approx(-beta * sigmoid(beta + gamma))


def test_doubt_is_what_the_other_classes_get() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(9.0), 0.0]])
    values = doubt(logits, logits, torch.tensor([1, 1]), torch.tensor([-1, -1]))
    assert values.tolist() == pytest.approx([0.25, 0.9])


def test_the_spec_of_the_examples_is_read() -> None:
    spec = load_spec(ROOT / "examples" / "own_objective.yaml")
    assert set(spec.code) == {"examples.objectives", "examples.metrics"}
    assert {"delta", "gamma"} <= spec.parameters.branches.keys()
    (_, bound) = spec.bounds({"clean_accuracy": 0.9, "doubt": 0.2})
    assert (bound.metric, bound.direction, bound.value) == ("doubt", "minimize", pytest.approx(0.3))

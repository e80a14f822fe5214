"""W from a concept's directions: what theory says it does (docs/transform.md)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.models.concept import Concept, closed_form, concept_of, needed_ratio, projection
from trainables.models.transform import power


def concept(cosine: float, *, width: int = 16, classes: int = 3, seed: int = 0) -> Concept:
    """Directions at a given angle, beside means that are the same for both values."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    image, text = basis[0], cosine * basis[0] + math.sqrt(1 - cosine**2) * basis[1]
    common = torch.randn(classes, 1, width, generator=generator) @ (basis[2:].T @ basis[2:])
    signs = torch.tensor([1.0, -1.0])[:, None]
    return Concept(common + 0.3 * signs * image, common + 0.2 * signs * text)


def bilinear(w: Tensor, made: Concept) -> float:
    """g_I W^T W g_T: positive where the concept is seen, negative where it is reversed."""
    return float((w @ made.image_direction) @ (w @ made.text_direction))


@pytest.mark.parametrize("cosine", [0.2, 0.5, 0.9, 0.98])
def test_the_closed_form_neutralises_at_one_half_and_reverses_at_one(cosine: float) -> None:
    made = concept(cosine)
    assert made.cosine() == pytest.approx(cosine, abs=1e-5)
    w, scale = closed_form(made), abs(bilinear(torch.eye(16), made))
    assert abs(bilinear(power(w, 0.5), made)) < 1e-4 * scale
    assert bilinear(power(w, 0.45), made) > 0 > bilinear(power(w, 0.55), made)
    image, text = (F.normalize(w @ direction, dim=0) for direction in (made.image_direction, made.text_direction))
    assert float(image @ text) == pytest.approx(-cosine, abs=1e-4)
    values = torch.linalg.svdvals(w)
    assert float(values.max() / values.min()) == pytest.approx(needed_ratio(cosine) ** 2, rel=1e-3)


def test_ratios_that_a_reversal_needs() -> None:
    assert [round(needed_ratio(cosine), 2) for cosine in (0.5, 0.9, 0.98)] == [1.73, 4.36, 9.95]
    assert needed_ratio(1.0) == math.inf


@pytest.mark.parametrize("cosine", [0.5, 0.9])
def test_no_w_of_a_smaller_condition_number_reverses(cosine: float) -> None:
    """Wielandt's inequality: tan(psi / 2) <= kappa tan(theta / 2)."""
    made, generator = concept(cosine, width=4), torch.Generator().manual_seed(1)
    for _ in range(3000):
        u, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
        v, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
        kappa = 1 + torch.rand(1, generator=generator) * (needed_ratio(cosine) - 1)
        values = torch.cat([torch.ones(1), kappa, 1 + torch.rand(2, generator=generator) * (kappa - 1)])
        assert bilinear(u @ torch.diag(values) @ v, made) > 0


def test_parallel_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="parallel: no W for both towers reverses it"):
        closed_form(concept(1.0))


def test_the_projection_removes_what_the_prompts_of_the_values_differ_in() -> None:
    generator = torch.Generator().manual_seed(2)
    prompts = torch.randn(4, 3, 12, generator=generator)
    prompts = prompts.mean(1, keepdim=True) + torch.randn(3, 12, generator=generator)  # the same differences everywhere
    w = projection(Concept(torch.zeros(4, 3, 12), prompts))
    moved = prompts @ w.T
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(w @ w, w, atol=1e-5, rtol=1e-5)
    assert int(torch.linalg.matrix_rank(w, rtol=1e-4)) == 12 - 2


def test_means_are_those_of_a_plain_loop_and_missing_groups_are_left_out() -> None:
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(40, 6, generator=generator)
    classes, values = torch.arange(40) % 3, torch.arange(40) // 3 % 2
    keep = ~((classes == 2) & (values == 1))
    made = concept_of(embeddings[keep], classes[keep], values[keep], torch.randn(3, 2, 6, generator=generator))
    differences = []
    for label in (0, 1):
        first, second = (embeddings[keep & (classes == label) & (values == value)].mean(0) for value in (0, 1))
        differences.append((first - second) / 2)
    torch.testing.assert_close(made.image_direction, torch.stack(differences).mean(0))
    assert math.isnan(made.class_cosines()[2])

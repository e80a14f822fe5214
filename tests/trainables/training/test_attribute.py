"""The attribute task on the embedded world: targets, the solved strength, what cannot be had, folding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import untouched_policy
from trainables.models.export import export_model
from trainables.numerics import flushed_denormals
from trainables.records import TrialResult
from trainables.settings.attribute import AttributeSettings
from trainables.settings.parameters import Parameters
from trainables.tasks.known import open_context
from trainables.training.objectives import balanced_cross_entropy, beta_of, equal_means_weights
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

CPU = torch.device("cpu")


def settings(**model: Any) -> AttributeSettings:
    return AttributeSettings.model_validate(
        {
            "task": "attribute",
            "model": {"architecture": "world", **model},
            "sets": {"world": {"kind": "world", "seed": 3, "train": 1600, "validation": 1200, "test": 400}},
            "train": {"set": "world"},
            "attribute": {"name": "colour", "top": 30},
            "evaluate": {
                "search": {"sets": ["world"]},
                "front": {"strengths": [0.5, 1.0], "averaged": False},
                "test": {"sets": ["world"]},
            },
            "training": {"epochs": 8, "global_batch_size": 256, "warmup_share": 0.1},
        }
    )


@pytest.fixture(scope="module")
def sheared(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    return open_context(settings(shear=1.0), data_seed=0, cache=tmp_path_factory.mktemp("sheared"), device=CPU)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    return open_context(settings(), data_seed=0, cache=tmp_path_factory.mktemp("shipped"), device=CPU)


def train(context: TrialContext, folder: Path, **parameters: Any) -> TrialResult:
    given = {"tune": "transform", "learning_rate": 0.02, "penalty": 0.01, **parameters}
    with flushed_denormals():
        return run_trial(context, Parameters.model_validate(given), seed=0, folder=TrialFolder(folder))


def at(result: TrialResult, strength: float | None = None) -> dict[str, float]:
    """The point at a strength; without one the point at the strength that was solved."""
    named = {point.strength: point for point in result.points if point.weights == "last"}
    if strength is None:
        (solved,) = set(named) - {0.5, 1.0}
        return named[solved].values
    return named[strength].values


def test_the_construction_has_the_angle_that_it_says(sheared: TrialContext, shipped: TrialContext) -> None:
    assert sheared.concept().cosine() == pytest.approx(0.49, abs=0.02)
    assert shipped.concept().cosine() > 0.95
    values = sheared.measures.validation(sheared, untouched_policy(sheared), WorkerGroup()).values
    assert values["content_accuracy"] > 0.9 and values["attribute_accuracy"] > 0.97
    assert values["max_skew_at_30"] > 0.28


def test_flipped_labels_reverse_and_the_solved_strength_neutralises(sheared: TrialContext, tmp_path: Path) -> None:
    untouched = sheared.measures.validation(sheared, untouched_policy(sheared), WorkerGroup()).values
    result = train(sheared, tmp_path, objective="cross_entropy")
    reversal, neutral = at(result, 1.0), at(result)
    assert reversal["attribute_accuracy"] <= 0.05
    assert neutral["attribute_accuracy"] == pytest.approx(0.5, abs=0.03)
    for values in (reversal, neutral):
        assert values["content_accuracy"] >= untouched["content_accuracy"] - 0.005


def test_the_equal_target_takes_the_skew_and_leaves_the_attribute(sheared: TrialContext, tmp_path: Path) -> None:
    values = at(train(sheared, tmp_path, target="equal"), 1.0)
    assert values["max_skew_at_30"] <= 0.2 and values["attribute_accuracy"] > 0.85
    assert values["content_accuracy"] > 0.93


@pytest.mark.parametrize("objective", ["ipo", "cross_entropy"])
def test_the_neutral_target_trains_the_neutral_point(sheared: TrialContext, tmp_path: Path, objective: str) -> None:
    values = at(train(sheared, tmp_path, objective=objective, target="neutral"), 1.0)
    assert values["attribute_accuracy"] == pytest.approx(0.5, abs=0.12)


def test_baselines_need_no_training(sheared: TrialContext, tmp_path: Path) -> None:
    closed = train(sheared, tmp_path / "closed", objective="none", start="closed_form", learning_rate=None, penalty=0)
    assert at(closed, 1.0)["attribute_accuracy"] < 0.05 and at(closed, 0.5)["attribute_accuracy"] < 0.65
    assert at(closed)["attribute_accuracy"] == pytest.approx(0.5, abs=0.03)
    removed = train(sheared, tmp_path / "removed", objective="none", start="projection", learning_rate=None, penalty=0)
    assert at(removed, 1.0)["attribute_gap"] < 0.1 and at(removed, 1.0)["content_accuracy"] > 0.93
    assert (closed.epochs, [line.step for line in TrialFolder(tmp_path / "closed").reports().values()]) == (8, [0])


def test_parallel_directions_cannot_be_reversed_with_one_w(shipped: TrialContext, tmp_path: Path) -> None:
    kept = [
        point.values
        for objective in ("cross_entropy", "kto")
        for point in train(
            shipped, tmp_path / objective, objective=objective, **({"beta_m0": 1.0} if objective == "kto" else {})
        ).points
        if point.values["content_accuracy"] >= 0.9
    ]
    assert kept and min(values["attribute_accuracy"] for values in kept) >= 0.4


def test_a_w_for_each_tower_reverses_even_then_and_folds(shipped: TrialContext, tmp_path: Path) -> None:
    parameters = {"objective": "cross_entropy", "towers": "separate", "tune": "transform", "learning_rate": 0.02}
    result = train(shipped, tmp_path / "trial", **parameters)
    assert at(result, 1.0)["attribute_accuracy"] <= 0.05 and at(result, 1.0)["content_accuracy"] >= 0.9
    policy = shipped.policy(Parameters.model_validate({**parameters, "penalty": 0.01}))
    weights = TrialFolder(tmp_path / "trial").weights("last")
    solved = next(point.strength for point in result.points if point.strength not in (0.5, 1.0))
    export_model(shipped.clip, policy, weights, solved, tmp_path / "folded")
    accuracy = attribute_accuracy(shipped, tmp_path / "folded")
    assert accuracy == pytest.approx(at(result)["attribute_accuracy"], abs=0.01)


@torch.no_grad()
def attribute_accuracy(context: TrialContext, folder: Path) -> float:
    """Measured by plain open_clip."""
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    images = context.data.search_sets[0].images  # type: ignore[attr-defined]
    encoded: list[Tensor] = []
    for i in range(0, len(images.labels), 200):
        encoded.append(model.encode_image(context.clip.pixels(images.images[i : i + 200]), normalize=True))
    names = [f"a photo of a {value} {content}" for value in images.value_names for content in images.class_names]
    text = model.encode_text(context.clip.tokens(names), normalize=True).reshape(2, len(images.class_names), -1)
    own = text[:, images.labels]  # (2, N, d)
    answers = (own * torch.cat(encoded)).sum(-1).argmax(0)
    return float((answers == images.values).float().mean())


def test_the_equal_loss_is_that_of_the_whole_batch_whatever_the_micro_batches(
    sheared: TrialContext, tmp_path: Path
) -> None:
    task = sheared.task
    whole = train(sheared, tmp_path / "whole", target="equal")
    small = task.model_copy(update={"training": task.training.model_copy(update={"micro_batch_size": 48})})
    context = open_context(small, data_seed=0, cache=tmp_path / "cache", device=CPU)
    parts = train(context, tmp_path / "parts", target="equal")
    weights = [TrialFolder(tmp_path / name).weights("last")["w"] for name in ("whole", "parts")]
    torch.testing.assert_close(*weights, atol=2e-3, rtol=1e-2)
    assert parts.points[0].values["max_skew_at_30"] == pytest.approx(whole.values["max_skew_at_30"], abs=0.03)


def test_gradients_of_the_equal_loss_are_those_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, generator=generator, dtype=torch.float64, requires_grad=True)
    classes, values = torch.arange(60) % 4, torch.randint(0, 3, (60,), generator=generator)
    values[(classes == 3) & (values == 2)] = 0  # a class that lacks a value does not count
    expected = logits.new_zeros(())
    for label in range(3):
        means = [logits[(classes == label) & (values == value)].mean() for value in range(3)]
        expected = expected + sum((means[v] - means[w]) ** 2 for v in range(3) for w in range(v)) / 3 / 3
    expected.backward()
    counts = torch.zeros(4, 3, dtype=torch.float64).index_put_((classes, values), torch.ones(60).double(), True)
    sums = torch.zeros(4, 3, dtype=torch.float64).index_put_((classes, values), logits.detach(), True)
    loss, weights = equal_means_weights(sums / counts.clamp(min=1), counts)
    assert float(loss) == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(weights[classes, values], logits.grad)


def test_the_neutral_losses() -> None:
    logits = torch.tensor([[1.0, 1.0, 9.0], [0.0, 2.0, 0.0]])
    candidates = torch.tensor([[0, 1], [0, 1]])
    even, uneven = torch.log(torch.tensor(2.0)), (torch.nn.functional.softplus(torch.tensor([2.0, -2.0]))).mean()
    assert float(balanced_cross_entropy(logits, candidates)) == pytest.approx(float((even + uneven) / 2))
    neutral = Parameters.model_validate({"objective": "ipo", "target": "neutral", "tune": "visual", "learning_rate": 1})
    assert beta_of(neutral, 4.0) == pytest.approx(1 / 8)
    in_margins = Parameters.model_validate({"objective": "dpo", "beta_m0": 0.4, "tune": "visual", "learning_rate": 1})
    assert beta_of(in_margins, 4.0) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="m0, the reference's mean margin"):
        beta_of(in_margins, -1.0)

"""Metrics of a user's own: measured after each evaluation and on test, beside the others and against plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.helpers import tiny
from trainables.context.trial_context import TrialContext
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import untouched_policy
from trainables.evaluation.own_metric import check_own_metric
from trainables.evaluation.typographic import data_of
from trainables.models.policy import Policy
from trainables.own_code import find_module, install
from trainables.settings.typographic import OwnMetric, TypographicSettings
from trainables.tasks.known import open_context
from trainables.tasks.typographic import TypographicKind

SOURCE = """\
def margin(p, r, true, written):
    assert (written >= 0).all()
    return (p.gather(1, true[:, None]) - p.gather(1, written[:, None]))[:, 0]

def moved(p, r, true, written):
    assert (written == -1).all()
    return (p.softmax(-1) - r.softmax(-1)).abs().sum(-1)

def needs(p, r, true, written, scale): return scale * p[:, 0]
def worse(p, r, true, written): return p[:, 0] / (p[:, 0] > 1e9)
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "metrics_of_tests.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        install(find_module("metrics_of_tests"))
    return "metrics_of_tests"


def task(folder: Path, **metrics: dict[str, Any]) -> TypographicSettings:
    settings = tiny.world_task(tiny.write_clip(folder / "model", "vit")).model_dump(by_alias=True)
    settings["evaluate"]["search"]["images"] = 40
    return TypographicSettings.model_validate({**settings, "metrics": metrics})


@pytest.fixture(scope="module")
def context(module: str, tmp_path_factory: pytest.TempPathFactory) -> TrialContext:
    folder = tmp_path_factory.mktemp("context")
    settings = task(
        folder,
        margin={"function": f"{module}:margin", "direction": "maximize"},
        moved={"function": f"{module}:moved", "direction": "minimize", "view": "clean"},
    )
    return open_context(settings, data_seed=0, cache=folder / "cache", device=torch.device("cpu"))


def moved_policy(context: TrialContext) -> Policy:
    policy = untouched_policy(context)
    w = torch.eye(context.clip.embed_dim) + 0.2 * torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    policy.set_weights({"w": w})
    return policy


@torch.no_grad()
def logits(context: TrialContext, policy: Policy, view: Any, images: Any) -> torch.Tensor:
    prompts = policy.text_embeddings(context.inputs.prompts(policy, images.class_names, images.templates))
    return policy.logits(policy.image_embeddings(context.inputs.whole_view(policy, view)), prompts)


def test_on_validation_and_test_they_are_the_mean_of_the_function(context: TrialContext) -> None:
    policy, group, data = moved_policy(context), WorkerGroup(), data_of(context)
    measured = {
        "search": (data.search_sets, context.measures.validation(context, policy, group).values),
        "unseen": (data.unseen_sets, context.measures.second_look(context, policy, group)),
        "test": (data.test_sets, context.measures.test(context, policy, group, variants=False).values),
    }
    reference = untouched_policy(context)
    for sets, values in measured.values():
        (shown,) = sets
        attacked = logits(context, policy, shown.attacked, shown.images)
        rows = torch.arange(len(attacked))
        margin = attacked[rows, shown.attacked.labels] - attacked[rows, shown.attacked.written]
        assert values["margin"] == pytest.approx(margin.mean().item(), rel=1e-4)
        probabilities = [logits(context, one, shown.clean, shown.images).softmax(-1) for one in (policy, reference)]
        moved = (probabilities[0] - probabilities[1]).abs().sum(-1)
        assert values["moved"] == pytest.approx(moved.mean().item(), rel=1e-3) and values["moved"] > 0


def test_on_test_they_have_an_interval_and_the_untouched_model_has_not_moved(context: TrialContext) -> None:
    test = context.measures.test(context, moved_policy(context), WorkerGroup(), variants=False)
    for name in ("margin", "moved"):
        low, high = test.intervals[name]
        assert low < test.values[name] < high
    untouched = context.measures.test(context, untouched_policy(context), WorkerGroup(), variants=False)
    assert untouched.values["moved"] == pytest.approx(0.0, abs=1e-6)


def test_workers_share_the_images(context: TrialContext) -> None:
    """Two workers, one after the other: what each has measured adds up to what one measures alone."""
    policy, data = moved_policy(context), data_of(context)
    from trainables.evaluation.predictions import predict

    (shown,) = data.search_sets
    own = {"margin": context.task.metrics["margin"]} if isinstance(context.task, TypographicSettings) else {}
    parts = [
        predict(context, policy, shown.images, shown.attacked, Alone(rank, 2), own=own).own["margin"] for rank in (0, 1)
    ]
    whole = predict(context, policy, shown.images, shown.attacked, WorkerGroup(), own=own).own["margin"]
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-5, atol=1e-6)


class Alone(WorkerGroup):
    """A worker of several whose sums are its own part."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(rank=rank, world_size=world_size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def test_a_metric_may_be_the_goal_that_is_improved(module: str, tmp_path: Path) -> None:
    own = {"function": f"{module}:moved", "direction": "minimize", "view": "clean"}
    kept, improved = TypographicKind().goals(task(tmp_path / "goal", moved={**own, "goal": True}))
    assert (kept.metric, improved.metric, improved.direction, improved.view) == (
        "clean_accuracy", "moved", "minimize", None,
    )  # fmt: skip
    settings = task(tmp_path / "metric", moved=own)
    assert TypographicKind().goals(settings)[1].metric == "robust_accuracy"
    assert TypographicKind().metrics(settings)["moved"].direction == "minimize"


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("clean_accuracy", {}, "`clean_accuracy` is the name of something else"),
        ("loss", {}, "`loss` is the name of something else"),
        ("My metric", {}, "is no name for a metric"),
        ("moved", {"direction": "up"}, "maximize"),
        ("moved", {"view": "signs"}, "attacked"),
        ("moved", {"function": "moved"}, "should have the form package.module:function"),
    ],
)
def test_settings_that_cannot_be(name: str, metric: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        task(tmp_path, **{name: {"function": "a.b:c", "direction": "maximize", **metric}})


def test_one_goal_is_replaced(tmp_path: Path) -> None:
    own = {"function": "a.b:c", "direction": "maximize", "goal": True}
    with pytest.raises(ValidationError, match="one and two are goals; one of them takes the place of robust_accuracy"):
        task(tmp_path, one=own, two=own)


@pytest.mark.parametrize(
    ("function", "message"),
    [("needs", "needs `scale`; a metric has no parameters"), ("worse", "not finite"), ("no", "has no function no")],
)
def test_what_is_no_metric_is_refused(module: str, function: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_own_metric(OwnMetric(function=f"{module}:{function}", direction="maximize"))


def test_no_metric_has_the_name_of_what_a_metric_line_holds(tmp_path: Path) -> None:
    """The names that are refused are all that a task measures and a report holds."""
    from dataclasses import fields

    from trainables.records import Report

    known = {name for name in TypographicKind().metrics(task(tmp_path)) if "/" not in name}
    for name in known | {field.name for field in fields(Report)} - {"values"}:
        with pytest.raises(ValidationError, match="is the name of something else"):
            task(tmp_path, **{name: {"function": "a.b:c", "direction": "maximize"}})

"""What a process keeps between trials: pairs of a trial, the reference at any time, inputs that fit into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.helpers import tiny
from trainables.context import inputs
from trainables.context.trial_context import TrialContext
from trainables.data.image_set import View
from trainables.evaluation.predictions import class_embeddings
from trainables.models.policy import TowerPolicy, TransformPolicy
from trainables.tasks.known import open_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_clip(tmp_path_factory.mktemp("context") / "model", "vit").parent


def make_context(folder: Path) -> TrialContext:
    """16 images, three attacked copies of each."""
    task = tiny.world_task(folder / "model")
    train = task.train.model_copy(update={"copies": 3, "images": 16})
    task = task.model_copy(update={"train": train})
    return open_context(task, data_seed=0, cache=folder / "cache", device=torch.device("cpu"))


@pytest.fixture
def context(folder: Path) -> TrialContext:
    return make_context(folder)


def test_smaller_trials_see_a_part_of_what_larger_ones_see(context: TrialContext) -> None:
    images = len(context.data.pairs.clean.labels)
    assert images == 16
    everything = context.data.preference_rows(tiny.parameters())
    assert torch.equal(everything, torch.arange(3 * images))
    few, more = (context.data.preference_rows(tiny.parameters(images=count, copies=2)) for count in (5, 11))
    assert len(few) == 10 and len(more) == 22 and set(few.tolist()) < set(more.tolist())
    assert set((few % images).tolist()) == set(few[:5].tolist()), "each image comes with both of its copies"
    with pytest.raises(ValueError, match="copies 4: the preference data have 3"):
        context.data.preference_rows(tiny.parameters(copies=4))
    with pytest.raises(ValueError, match="images 17: the preference data have 16 images"):
        context.data.preference_rows(tiny.parameters(images=17))


@pytest.mark.parametrize("tune", ["visual", "all"])
def test_the_reference_is_measured_with_its_own_weights_at_any_time(context: TrialContext, tune: str) -> None:
    names, templates = ("an unseen class", "another"), (f"a drawing of a {{}} for {tune}",)
    with torch.no_grad():
        tokens = context.clip.tokens([templates[0].format(name) for name in names])
        text = context.clip.model.encode_text(tokens, normalize=True)
    policy = context.policy(tiny.parameters(tune=tune))
    tuned = {name: value.detach() + 1 for name, value in policy.tuned().items()}
    policy.set_weights(tuned)
    torch.testing.assert_close(context.reference.text_embeddings(names, templates), text, atol=1e-6, rtol=0)
    noise = torch.randint(0, 256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    embeddings = context.reference.embeddings(View(noise, torch.zeros(3).long(), None, f"noise for {tune}"))
    assert all(torch.equal(value, tuned[name]) for name, value in policy.tuned().items()), "the policy goes on"
    context.policy(tiny.parameters(tune="visual"))  # nobody restored the first policy
    with torch.no_grad():
        expected = context.clip.model.encode_image(context.clip.pixels(noise), normalize=True)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("scope", "kind", "input_kind"),
    [
        ({"tune": "transform"}, TransformPolicy, "embeddings"),
        ({"tune": "last_blocks", "blocks": 1}, TowerPolicy, "activations"),
        ({"tune": "visual"}, TowerPolicy, "pixels"),
    ],
    ids=lambda value: value["tune"] if isinstance(value, dict) else None,
)
def test_inputs_of_rows_are_those_of_the_view(
    context: TrialContext, scope: dict[str, Any], kind: type, input_kind: str
) -> None:
    policy, rows = context.policy(tiny.parameters(**scope)), torch.tensor([3, 1])
    assert type(policy) is kind and policy.input_kind == input_kind
    for view in (context.data.search_sets[0].attacked, context.data.test_sets[0].attacked):
        whole = context.inputs.whole_view(policy, view)
        assert len(whole) == len(view.labels)
        torch.testing.assert_close(context.inputs.rows(policy, view, rows), whole[rows], atol=1e-6, rtol=0)


def test_a_tower_takes_pixels_where_activations_do_not_fit(
    folder: Path, context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, view = tiny.parameters(tune="last_blocks", blocks=1), context.data.search_sets[0].attacked
    policy = context.policy(scope)
    with torch.no_grad():
        embeddings = policy.image_embeddings(context.inputs.whole_view(policy, view))
    monkeypatch.setattr(inputs, "ACTIVATIONS_LIMIT_BYTES", 1)
    full = make_context(folder)
    policy = full.policy(scope)
    assert policy.input_kind == "pixels"
    with torch.no_grad():
        from_pixels = policy.image_embeddings(full.inputs.whole_view(policy, view))
    torch.testing.assert_close(from_pixels, embeddings, atol=1e-6, rtol=0)


def test_a_transform_of_several_templates_is_measured_as_its_export_answers(context: TrialContext) -> None:
    """An exported CLIP has W in its text projection: W on every prompt, then the mean over templates."""
    names, templates = ("red", "green", "blue"), ("a photo of {}", "{}", "an old drawing of a {} thing")
    images = replace(context.images.sample("world/validation", 1)[0], class_names=names, templates=templates)
    policy = context.policy(tiny.parameters(tune="transform"))
    assert isinstance(policy, TransformPolicy)
    noise = torch.randn(policy.matrix.shape, generator=torch.Generator().manual_seed(2))
    policy.set_weights({"w": policy.matrix.detach() + 0.3 * noise})
    w = policy.matrix.detach()
    with torch.no_grad():
        by_template = [
            F.normalize(context.clip.model.encode_text(context.clip.tokens(prompts), normalize=True) @ w.T, dim=-1)
            for prompts in ([template.format(name) for name in names] for template in templates)
        ]
        of_means = policy.text_embeddings(context.reference.text_embeddings(names, templates))
    exported = F.normalize(torch.stack(by_template).mean(0), dim=-1)
    torch.testing.assert_close(class_embeddings(context, policy, images), exported, atol=1e-6, rtol=0)
    assert (exported - of_means).abs().max() > 1e-4, "the order matters here"

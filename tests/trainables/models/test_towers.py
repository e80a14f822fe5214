"""Towers of every kind: in parts, recomputed, in half precision, trained with the text tower, with W folded in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.tiny import parameters, world_task, write_clip
from tests.helpers.tiny_towers import MODELS, PROMPTS, build, images_for
from trainables.models.clip import Clip, load_clip
from trainables.models.export import export_model, largest_logit_difference
from trainables.models.policy import make_policy
from trainables.models.towers import (
    can_split,
    features,
    head,
    last_parameters,
    shortened,
    split_blocks,
    text_features,
    trunk,
)
from trainables.models.transform import foldable
from trainables.settings.task import ModelSettings
from trainables.tasks.known import open_context
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

EVAS = ["eva", "pe", "dinov3", "mixed"]
SPLIT = ["vit", "resnet", "siglip", "timm classifier", *EVAS, "convnext", "attention pool", "fastvit", "swin"]


# Not "mixed": its last block gets trained rotary embeddings too, which count as the trunk's, as position embeddings do.
@pytest.mark.parametrize("name", [*(name for name in SPLIT if name != "mixed"), "timm resnet"])
def test_last_blocks_are_what_follows_the_trunk(name: str) -> None:
    """Cutting the tower in front of the last block: exactly the named parameters lie behind the cut."""
    visual = build(name).model.visual
    blocks = split_blocks(visual)
    assert blocks is not None
    blocks[-1].register_forward_pre_hook(lambda _, inputs: tuple(value.detach() for value in inputs))
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    visual(torch.randn(2, 3, side, side)).square().sum().backward()
    behind = {key for key, parameter in visual.named_parameters() if parameter.grad is not None}
    assert behind == set(last_parameters(visual, 1))
    with pytest.raises(ValueError, match=f"image tower that has {len(blocks)}"):
        last_parameters(visual, len(blocks) + 1)


@pytest.mark.parametrize("name", SPLIT)
def test_trunk_activations_stand_for_pixels(name: str) -> None:
    clip = build(name)
    assert can_split(clip.model.visual)
    images = images_for(clip)
    for blocks in (1, 2):
        choice = parameters(tune="last_blocks", blocks=blocks)
        whole = make_policy(clip, choice).image_embeddings(images)
        activations = trunk(clip.model.visual, clip.pixels(images), blocks)
        split = make_policy(clip, choice, from_activations=True).image_embeddings(activations)
        torch.testing.assert_close(split, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SPLIT)
def test_features_are_open_clips_own(name: str) -> None:
    """Values and gradients: of the tower in parts too, and though of a ViT's last block only the class token runs."""
    clip = build(name)
    visual, pixels = clip.model.visual, clip.pixels(images_for(clip))
    parts = split_blocks(visual)
    assert parts is not None

    def cut(blocks: int) -> Callable[[Tensor], Any]:
        return lambda pixels: head(visual, trunk(visual, pixels, blocks), blocks)

    results = []
    for run in (visual, partial(features, visual), *(cut(blocks) for blocks in range(1, len(parts) + 1))):
        values = run(pixels)
        values.square().sum().backward()
        gradients = {key: parameter.grad.clone() for key, parameter in visual.named_parameters()}
        results.append({"values": values.detach(), **gradients})
        visual.zero_grad(set_to_none=True)
    for again in results[1:]:
        for key, value in results[0].items():
            torch.testing.assert_close(again[key], value, atol=1e-5, rtol=1e-4)


def test_rotary_embeddings_follow_the_size_of_the_images() -> None:
    visual = build("dinov3").model.visual
    for side in (32, 80):
        pixels = torch.randn(2, 3, side, side)
        torch.testing.assert_close(head(visual, trunk(visual, pixels, 2), 2), visual(pixels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["siglip", "eva", "convnext", "fastvit", "swin"])
@pytest.mark.parametrize("changed", ["forward_features", "forward"])
def test_a_trunk_with_a_forward_pass_of_its_own_is_not_split(name: str, changed: str) -> None:
    visual = build(name).model.visual
    visual.trunk.__class__ = type("Changed", (type(visual.trunk),), {changed: lambda self, x: x})
    assert not can_split(visual)


@pytest.mark.parametrize(("name", "length"), [("vit", 7), ("resnet", 7), ("siglip", 8)])
def test_prompts_are_read_without_their_padding_where_it_is_not_seen(name: str, length: int) -> None:
    model = build(name).model
    tokens = torch.zeros(1, 3, model.context_length, dtype=torch.long)
    for row, end in enumerate((3, 6, 4)):
        tokens[0, row, :end] = torch.arange(10, 10 + end)
        tokens[0, row, end] = model.vocab_size - 1
    short = shortened(model, tokens)
    assert short.shape == (1, 3, length)
    with torch.no_grad():
        torch.testing.assert_close(text_features(model, short[0]), model.encode_text(tokens[0]), atol=1e-5, rtol=1e-4)


def gradients(clip: Clip, images: Tensor, **options: Any) -> tuple[dict[str, Tensor], int]:
    """Of the policy's parameters, and how many bytes were kept for the backward pass."""
    policy = make_policy(clip, options.pop("parameters"), **options)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    prompts = PROMPTS if policy.trains_text else torch.eye(clip.embed_dim)[:5]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = policy(images, prompts).log_softmax(-1)[:, 0].sum()
    loss.backward()
    # Every tuned parameter has a gradient: several workers would wait for it.
    of_tuned = {name: value.grad.clone() for name, value in policy.tuned().items() if value.grad is not None}
    assert of_tuned.keys() == policy.tuned().keys()
    clip.model.zero_grad(set_to_none=True)
    return of_tuned, sum(kept.values())


@pytest.mark.parametrize(
    "name", ["vit", "resnet", "siglip", "pe", "mixed", "convnext", "fastvit", "swin", "timm resnet"]
)
@pytest.mark.parametrize("scope", ["visual", "all", "activations"])
def test_recomputed_activations_give_the_same_gradients_in_less_memory(name: str, scope: str) -> None:
    clip = build(name)
    images: Tensor = images_for(clip)
    options: dict[str, Any] = {
        "parameters": parameters(tune="last_blocks", blocks=2) if scope == "activations" else parameters(tune=scope)
    }
    if scope == "activations":
        if not can_split(clip.model.visual):
            pytest.skip("no cached activations of this tower")
        images = trunk(clip.model.visual, clip.pixels(images), 2).detach()
        options["from_activations"] = True
    plain, whole_bytes = gradients(clip, images, **options)
    again, kept_bytes = gradients(clip, images, **options, gradient_checkpointing=True)
    assert plain.keys() == again.keys() and len(plain) > 5
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, atol=1e-5, rtol=1e-4)
    assert kept_bytes < (0.8 if name == "timm resnet" else 0.6) * whole_bytes  # of it timm keeps the whole stem


def test_trained_text_tower_is_all() -> None:
    clip = build("siglip")
    assert not make_policy(clip, parameters(tune="visual")).trains_text
    authors = Clip(**{**vars(clip), "trains_text": True})
    names = {}
    for key, choice in {
        "all": parameters(tune="all"),
        "visual": parameters(tune="visual"),
        "last": parameters(tune="last_blocks", blocks=1),
        "transform": parameters(),
    }.items():
        embeddings = torch.eye(24) if key == "transform" else None
        names[key] = set(make_policy(authors, choice, embeddings=embeddings).tuned())
    assert names["visual"] == names["all"] and {"logit_scale", "logit_bias"} < names["all"]
    assert names["transform"] == {"w"}
    image = {key for key in names["all"] if key.startswith("model.visual.")}
    assert names["all"] - names["last"] == {
        key for key in image if key.removeprefix("model.visual.") not in last_parameters(clip.model.visual, 1)
    }


def test_trial_with_a_trained_text_tower(tmp_path: Path) -> None:
    task = world_task(write_clip(tmp_path / "model", "vit"), epochs=1, gradient_checkpointing=True)
    task = task.model_copy(update={"model": task.model.model_copy(update={"text": "trained"})})
    context = open_context(task, data_seed=0, cache=tmp_path / "cache", device=torch.device("cpu"))
    choice = parameters(tune="last_blocks", blocks=1, learning_rate=0.003)
    before = {key: value.clone() for key, value in context.clip.model.state_dict().items()}
    run_trial(context, choice, seed=0, folder=TrialFolder(tmp_path / "trial"))
    weights = TrialFolder(tmp_path / "trial").weights("last")
    assert any("token_embedding" in key for key in weights) and "logit_scale" in weights
    assert (weights["logit_scale"] - before["logit_scale"]).abs() > 1e-4
    policy = context.policy(choice)
    export_model(context.clip, policy, weights, 1.0, tmp_path / "out")
    searched = context.data.search_sets[0]
    text = context.clip.tokens(list(searched.images.class_names))
    images = searched.attacked.images[:8]
    assert largest_logit_difference(context.clip, policy, weights, 1.0, tmp_path / "out", images, text) < 1e-4
    policy.restore()
    assert all(torch.equal(value, before[key]) for key, value in context.clip.model.state_dict().items())


@pytest.mark.parametrize("name", ["vit", "resnet", "siglip"])
def test_half_precision_is_near(name: str) -> None:
    clip = build(name)
    choice, images = parameters(tune="all"), images_for(clip)
    with torch.no_grad():
        full = make_policy(clip, choice)(images, PROMPTS)
        half = make_policy(clip, choice, bf16=True)(images, PROMPTS)
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.02 * clip.model.logit_scale.exp()
    plain, _ = gradients(clip, images, parameters=choice, bf16=True)
    again, _ = gradients(clip, images, parameters=choice, bf16=True, gradient_checkpointing=True)
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, atol=1e-2, rtol=0.05)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_folded_models_answer_as_the_trial_did(name: str, tmp_path: Path) -> None:
    clip = build(name)
    assert foldable(clip.model) is None
    for rank in (5, clip.embed_dim):
        policy = make_policy(clip, parameters(rank=rank), embeddings=torch.eye(clip.embed_dim))
        w = torch.randn(rank, clip.embed_dim, generator=torch.Generator().manual_seed(rank)) / 5
        out = tmp_path / str(rank)
        export_model(clip, policy, {"w": w}, 1.0, out)
        gap = largest_logit_difference(clip, policy, {"w": w}, 1.0, out, images_for(clip), PROMPTS[0])
        assert gap < 1e-4
        assert json.loads((out / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"] == rank


@pytest.mark.parametrize("name", ["resnet", "timm resnet", "convnext"])
def test_convolutional_towers_run_in_channels_last(name: str, tmp_path: Path) -> None:
    made, choice = build(name), parameters()
    images, embeddings = images_for(made), torch.eye(made.embed_dim)
    policy = make_policy(made, choice, embeddings=embeddings)
    export_model(made, policy, policy.tuned(), 1.0, tmp_path / "made")
    clip = load_clip(ModelSettings(architecture=f"local-dir:{tmp_path / 'made'}"))
    visual, pixels = clip.model.visual, clip.pixels(images)

    def in_channels_last() -> bool:
        kernels = [value for value in visual.parameters() if value.ndim == 4]
        several = sum(not value.is_contiguous() for value in kernels) > 1
        return several and all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)

    assert in_channels_last()
    assert pixels.is_contiguous(memory_format=torch.channels_last) and not pixels.is_contiguous()
    contiguous = copy.deepcopy(visual).to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(visual(pixels), contiguous(pixels.contiguous()), atol=1e-5, rtol=1e-4)
    policy = make_policy(clip, choice, embeddings=embeddings)
    weights = policy.tuned()
    export_model(clip, policy, weights, 1.0, tmp_path / "again")
    assert largest_logit_difference(clip, policy, weights, 1.0, tmp_path / "again", images, PROMPTS[0]) < 1e-4
    clip.to(torch.device("meta"))  # any device: no memory is needed there
    assert in_channels_last()


@pytest.mark.parametrize("name", ["vit", "siglip", "pe", "swin", "fastvit"])
def test_other_towers_take_contiguous_pixels(name: str) -> None:
    """The backward pass of a FastViT's first layer would damage the process: see ``breaks_in_channels_last``."""
    clip = build(name)
    assert clip.pixels(images_for(clip)).is_contiguous()


@pytest.mark.parametrize("name", ["PE-Core-T-16-384", "MobileCLIP2-S0", "EVA02-B-16"])
def test_known_image_towers_are_split_and_folded(name: str, tmp_path: Path) -> None:
    clip = build(name)
    visual, images = clip.model.visual, images_for(clip, 1)
    policy = make_policy(clip, parameters(rank=64), embeddings=torch.eye(clip.embed_dim))
    w = torch.randn(64, clip.embed_dim, generator=torch.Generator().manual_seed(0)) / 20
    export_model(clip, policy, {"w": w}, 1.0, tmp_path / "out")
    assert largest_logit_difference(clip, policy, {"w": w}, 1.0, tmp_path / "out", images, PROMPTS[0]) < 1e-4
    with torch.no_grad():
        pixels = clip.pixels(images)
        whole, split = visual(pixels), head(visual, trunk(visual, pixels, 2), 2)
    torch.testing.assert_close(split, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("convnext", {"timm_proj": "mlp"}, "MLP whose hidden width"),
        ("convnext", {"timm_pool": "rot_attn"}, "pools by attention at the width"),
        ("vit", {"attentional_pool": True, "attn_pooler_heads": 4}, "attention pooling is as wide"),
    ],
)
def test_towers_that_cannot_be_folded_say_why(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    clip = build(name, changes)
    assert message in (foldable(clip.model) or "")
    policy = make_policy(clip, parameters(), embeddings=torch.eye(24))
    with pytest.raises(ValueError, match=message):
        export_model(clip, policy, policy.tuned(), 1.0, tmp_path / "out")
    assert not (tmp_path / "out").exists()

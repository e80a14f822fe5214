"""Every kind of model: bare checkpoint files, towers in parts, recomputation, half precision, folding W."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import _create_vision_transformer
from torch import Tensor, nn

from sweeper.check import check_model_and_images
from sweeper.model_inputs import model_problems
from sweeper.records import UserError
from sweeper.spec import Spec
from tests.tiny import parameters, world_task, write_clip
from trainables.checkpoint import TrialFolder
from trainables.clip import Clip, load_clip
from trainables.evaluation import untouched_policy
from trainables.export import export_model, largest_logit_difference
from trainables.model_files import preprocessing, started_from
from trainables.policy import Policy
from trainables.settings import ModelSettings
from trainables.towers import can_split, last_parameters, split_blocks, trunk
from trainables.train import run_trial
from trainables.transform import foldable
from trainables.workbench import Workbench

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
PROMPTS = torch.randint(1, 63, (2, 5, 8), generator=torch.Generator().manual_seed(3))
IMAGES = torch.randint(0, 256, (6, 160, 160, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)


@register_model
def sweeper_tiny_siglip(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    arguments = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}
    arguments |= {"class_token": False, "global_pool": "map"}
    return _create_vision_transformer("test_vit", pretrained=pretrained, **{**arguments, **kwargs})


def timm_tower(name: str, pool: str = "", proj: str | None = "linear", side: int = 160) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": side}


VIT = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 3, "head_width": 16}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "quick": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True, "custom_text": True},
    "resnet": {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT},
    "siglip": {
        "embed_dim": 24,
        "vision_cfg": timm_tower("sweeper_tiny_siglip", "map", "none", 32),
        "text_cfg": SIGLIP_TEXT,
        "custom_text": True,
        "init_logit_bias": -10.0,
    },
    "siglip without text projection": {
        "embed_dim": 32,
        "vision_cfg": timm_tower("sweeper_tiny_siglip", "map", "linear", 32),
        "text_cfg": {**TEXT, "proj_type": "none"},
        "custom_text": True,
    },
    "timm classifier": {
        "embed_dim": 24,
        "vision_cfg": timm_tower("test_vit", "token", None),
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "convnext": {"embed_dim": 24, "vision_cfg": timm_tower("test_convnext"), "text_cfg": TEXT},
    "attention pool": {"embed_dim": 24, "vision_cfg": timm_tower("test_convnext", "abs_attn", ""), "text_cfg": TEXT},
    "timm resnet": {"embed_dim": 24, "vision_cfg": timm_tower("test_resnet"), "text_cfg": TEXT},
}


def build(name: str, changes: dict[str, Any] | None = None) -> Clip:
    """An untrained model; its normalisation layers are moved off their neutral start."""
    config = copy.deepcopy(MODELS[name])
    config["vision_cfg"] |= changes or {}
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    size = config["vision_cfg"]["image_size"]
    nothing: Callable[..., Any] = lambda *_: None  # noqa: E731
    looks = {"size": size, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    config = {"model_cfg": config, "preprocess_cfg": looks}
    mean = (0.5, 0.5, 0.5)
    return Clip(model, nothing, nothing, size, mean, mean, config["model_cfg"]["embed_dim"], config, None, "")


def images_for(clip: Clip, count: int = 6) -> Tensor:
    return IMAGES[:count, : clip.image_size, : clip.image_size]


def write_checkpoint(model: nn.Module, file: Path) -> Path:
    """In the format that the name stands for."""
    state = model.state_dict()
    if file.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    elif file.name == "epoch_3.pt":
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {}}, file)
    elif file.name == "script.pt":  # as OpenAI published its models
        model = copy.deepcopy(model)
        model.attn_mask = None
        model.register_buffer("input_resolution", torch.tensor(32))
        torch.jit.save(
            torch.jit.trace_module(model, {"encode_image": torch.zeros(1, 3, 32, 32)}, check_trace=False), file
        )
    else:
        torch.save(state, file)
    return file


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Small architectures under names of their own, as a user of open_clip may add them."""
    folder = tmp_path_factory.mktemp("configs")
    text = {**TEXT, "context_length": 16, "vocab_size": 49408}
    plain = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": text}
    for name, config in {
        "tiny": plain,
        "tiny-wide": {**plain, "vision_cfg": {**VIT, "width": 48}},
        "tiny-quickgelu": {**plain, "quick_gelu": True},
        "tiny-timm": {**plain, "vision_cfg": timm_tower("sweeper_tiny_siglip", "map", "none", 32)},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def bare(file: Path, **changes: Any) -> ModelSettings:
    settings = {"architecture": "tiny", "quick_gelu": False, "preprocess": "inception", **changes}
    return ModelSettings.model_validate({"pretrained": str(file), **settings})


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", ["state.pt", "epoch_3.pt", "script.pt", "model.safetensors", "pytorch_model.bin"])
def test_bare_checkpoint_of_every_format(architectures: None, name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = open_clip.create_model("tiny")
    clip = load_clip(bare(write_checkpoint(model.eval(), tmp_path / name)))
    pixels = clip.pixels(images_for(clip))
    torch.testing.assert_close(clip.model.encode_image(pixels), model.encode_image(pixels))
    assert clip.mean == clip.std == (0.5, 0.5, 0.5)


def test_stated_activation_and_preprocessing_decide_and_are_exported(architectures: None, tmp_path: Path) -> None:
    torch.manual_seed(1)
    quick = open_clip.create_model("tiny-quickgelu").eval()
    file = write_checkpoint(quick, tmp_path / "state.pt")
    looks = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 2], "interpolation": "bilinear", "resize_mode": "squash"}
    clip = load_clip(bare(file, quick_gelu=True, preprocess=looks))
    other = load_clip(bare(file, quick_gelu=False, preprocess=looks))
    pixels = clip.pixels(images_for(clip))
    torch.testing.assert_close(
        pixels[0, :, 0, 0], IMAGES[0, 0, 0] / 255 / torch.tensor(looks["std"]) - torch.tensor([0.1, 0.2, 0.15])
    )
    torch.testing.assert_close(clip.model.encode_image(pixels), quick.encode_image(pixels))
    assert (other.model.encode_image(pixels) - quick.encode_image(pixels)).abs().max() > 1e-3
    assert clip.digest != other.digest and clip.assumed is None
    policy = Policy(clip, parameters(), embeddings=torch.eye(24))
    export_model(clip, policy, policy.tuned(), 1.0, tmp_path / "out")
    exported, _, shown = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/out")
    image, theirs = (one.eval().encode_image(pixels, normalize=True) for one in (clip.model, exported))
    torch.testing.assert_close(theirs @ theirs.T, image @ image.T, atol=1e-5, rtol=0)
    kept = exported.visual.preprocess_cfg
    assert (tuple(kept["mean"]), kept["interpolation"], kept["resize_mode"]) == ((0.1, 0.2, 0.3), "bilinear", "squash")


def test_sigmoid_bias_and_image_size_of_a_bare_checkpoint(architectures: None, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = open_clip.create_model("tiny", init_logit_bias=-7.0, force_custom_text=True)
    file = write_checkpoint(model, tmp_path / "sigmoid.pt")
    looks = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 48}
    clip = load_clip(bare(file, preprocess=looks))
    assert clip.model.logit_bias.item() == -7.0 and clip.image_size == 48
    assert clip.assumed is not None and "32 px images interpolated to 48 px" in clip.assumed
    policy = Policy(clip, parameters(tune="visual"))
    export_model(clip, policy, policy.tuned(), 1.0, tmp_path / "out")
    exported = open_clip.create_model(f"local-dir:{tmp_path}/out").eval()
    pixels = clip.pixels(IMAGES[:, :48, :48])
    torch.testing.assert_close(exported.encode_image(pixels), clip.model.encode_image(pixels))
    assert exported.logit_bias.item() == -7.0


def run_folder(folder: Path, **arguments: Any) -> Path:
    """A training run as open_clip leaves it; its checkpoint."""
    torch.manual_seed(1)
    (folder / "checkpoints").mkdir(parents=True)
    said = {"model": "tiny", "force_quick_gelu": False, "image_mean": None, "pretrained": "", **arguments}
    (folder / "params.txt").write_text("".join(f"{name}: {value}\n" for name, value in said.items()))
    return write_checkpoint(open_clip.create_model("tiny"), folder / "checkpoints" / "epoch_3.pt")


def test_preprocessing_of_a_training_run(architectures: None, tmp_path: Path) -> None:
    said = {"image_mean": [0.5, 0.5, 0.5], "image_std": (0.25, 0.25, 0.25), "image_resize_mode": "squash"}
    file = run_folder(tmp_path / "run", **said)
    clip = load_clip(bare(file, preprocess=None))
    assert (clip.mean, clip.std, clip.geometry) == ((0.5,) * 3, (0.25,) * 3, [(32, 32), "bicubic", "squash"])
    assert clip.assumed is not None and "params.txt" in clip.assumed and "interpolation bicubic" in clip.assumed
    alone = write_checkpoint(clip.model, tmp_path / "epoch_3.pt")
    copied = load_clip(bare(alone, preprocess=None))
    assert copied.mean == open_clip.OPENAI_DATASET_MEAN
    assert copied.assumed is not None and "mean (0.481455, " in copied.assumed


def test_training_run_that_began_with_a_tag_takes_its_preprocessing(architectures: None, tmp_path: Path) -> None:
    file = run_folder(tmp_path / "run", model="ViT-B/32", pretrained="laion2b_e16", image_interpolation="bilinear")
    assert started_from(file) == ("ViT-B-32", "laion2b_e16")
    tag = {"mean": (0.1,) * 3, "std": (0.2,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    chosen, assumed = preprocessing(bare(file, preprocess=None), tag)
    assert chosen == {**tag, "interpolation": "bilinear"}
    assert assumed is not None and "default" not in assumed


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"force_quick_gelu": True}, "quick_gelu is false, but .*params.txt.*force_quick_gelu True"),
        ({"model": "tiny-wide"}, "architecture is tiny, but .* says tiny-wide"),
        ({"image_mean": [0.4, 0.4, 0.4]}, r"says mean \(0.5, 0.5, 0.5\), but .* says \(0.4, 0.4, 0.4\)"),
    ],
)
def test_training_run_contradicts_the_spec(
    architectures: None, said: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_clip(bare(run_folder(tmp_path / "run", **said)))


def test_weights_that_do_not_fit_are_explained(architectures: None, tmp_path: Path) -> None:
    file = write_checkpoint(open_clip.create_model("tiny-wide"), tmp_path / "wide.pt")
    with pytest.raises(
        ValueError, match=r"do not fit it: \d+ have another shape \(visual.* Is it tiny-wide\?"
    ) as error:
        load_clip(bare(file))
    assert len(str(error.value)) < 600
    with pytest.raises(ValueError, match="keys are missing .* unexpected"):
        load_clip(bare(file, architecture="tiny-timm"))
    with pytest.raises(ValueError, match="QuickGELU by its name; with quick_gelu: false, name tiny"):
        load_clip(bare(file, architecture="tiny-quickgelu"))
    file = write_checkpoint(open_clip.create_model("tiny-timm"), tmp_path / "timm.pt")
    with pytest.raises(ValueError, match="takes images of 32 px, not of 48"):
        looks = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 48}
        load_clip(bare(file, architecture="tiny-timm", preprocess=looks))


def test_files_that_are_no_weights(architectures: None, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    for name, message in [
        ("text.pt", "cannot be read as weights"),
        ("pickled.pt", "Unsupported global.*Pickled code is never run"),
        ("empty.pt", "no state dict; what it holds: epoch"),
        ("missing.pt", "does not exist"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_clip(bare(tmp_path / name))


def test_tags_are_known_before_anything_is_downloaded() -> None:
    with pytest.raises(ValueError, match="no tag of it; did you mean laion2b_s34b_b79k.*It has: openai, "):
        load_clip(ModelSettings(architecture="ViT-B-32", pretrained="laion2b_s34b_b79"))
    with pytest.raises(ValueError, match="only CLIPs of two towers"):
        load_clip(ModelSettings(architecture="coca_ViT-B-32", pretrained="laion2b_s13b_b90k"))
    (problem,) = model_problems({"architecture": "coca_ViT-B-32", "pretrained": "laion2b_s13b_b90k"})
    assert problem.path == ("model", "architecture") and "two towers" in problem.message


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
def test_tokenizer_of_a_siglip_needs_a_package() -> None:
    with pytest.raises(ValueError, match="ViT-B-16-SigLIP needs the package transformers.*pip install"):
        load_clip(ModelSettings(architecture="ViT-B-16-SigLIP", pretrained="webli"))


@pytest.mark.parametrize("name", ["vit", "resnet", "siglip", "timm classifier", "convnext", "timm resnet"])
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


@pytest.mark.parametrize("name", ["vit", "resnet", "siglip", "timm classifier"])
def test_trunk_activations_stand_for_pixels(name: str) -> None:
    clip = build(name)
    assert can_split(clip.model.visual)
    images = images_for(clip)
    for blocks in (1, 2):
        choice = parameters(tune="last_blocks", blocks=blocks)
        whole = Policy(clip, choice).image_embeddings(images)
        activations = trunk(clip.model.visual, clip.pixels(images), blocks)
        split = Policy(clip, choice, from_activations=True).image_embeddings(activations)
        torch.testing.assert_close(split, whole, atol=1e-5, rtol=0)


def gradients(clip: Clip, images: Tensor, **options: Any) -> tuple[dict[str, Tensor], int]:
    """Of the policy's parameters, and how many bytes were kept for the backward pass."""
    policy = Policy(clip, options.pop("parameters"), **options)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    prompts = PROMPTS if policy.trains_text else torch.eye(clip.embed_dim)[:5]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = policy(images, prompts).log_softmax(-1)[:, 0].sum()
    loss.backward()
    # Every tuned parameter has one: several workers would wait for it.
    found = {name: value.grad.clone() for name, value in policy.tuned().items() if value.grad is not None}
    assert found.keys() == policy.tuned().keys()
    clip.model.zero_grad(set_to_none=True)
    return found, sum(kept.values())


@pytest.mark.parametrize("name", ["vit", "resnet", "siglip", "convnext"])
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
    assert kept_bytes < 0.6 * whole_bytes


def test_trained_text_tower_is_all() -> None:
    clip = build("siglip")
    assert not Policy(clip, parameters(tune="visual")).trains_text
    authors = Clip(**{**vars(clip), "trains_text": True})
    names = {}
    for key, choice in {
        "all": parameters(tune="all"),
        "visual": parameters(tune="visual"),
        "last": parameters(tune="last_blocks", blocks=1),
        "transform": parameters(),
    }.items():
        embeddings = torch.eye(24) if key == "transform" else None
        names[key] = set(Policy(authors, choice, embeddings=embeddings).tuned())
    assert names["visual"] == names["all"] and {"logit_scale", "logit_bias"} < names["all"]
    assert names["transform"] == {"w"}
    image = {key for key in names["all"] if key.startswith("model.visual.")}
    assert names["all"] - names["last"] == {
        key for key in image if key.removeprefix("model.visual.") not in last_parameters(clip.model.visual, 1)
    }


def test_trial_with_a_trained_text_tower(tmp_path: Path) -> None:
    task = world_task(write_clip(tmp_path / "model", "vit"), epochs=1, gradient_checkpointing=True)
    task = task.model_copy(update={"model": task.model.model_copy(update={"text": "trained"})})
    bench = Workbench(task, data_seed=0, cache=tmp_path / "cache", device=torch.device("cpu"))
    choice = parameters(tune="last_blocks", blocks=1, learning_rate=0.003)
    before = {key: value.clone() for key, value in bench.clip.model.state_dict().items()}
    run_trial(bench, choice, seed=0, folder=TrialFolder(tmp_path / "trial"))
    weights = TrialFolder(tmp_path / "trial").weights("last")
    assert any("token_embedding" in key for key in weights) and "logit_scale" in weights
    assert (weights["logit_scale"] - before["logit_scale"]).abs() > 1e-4
    policy = bench.policy(choice)
    export_model(bench.clip, policy, weights, 1.0, tmp_path / "out")
    one = bench.search_sets[0]
    text = bench.clip.tokens(list(one.class_names))
    assert (
        largest_logit_difference(bench.clip, policy, weights, 1.0, tmp_path / "out", one.attacked.images[:8], text)
        < 1e-4
    )
    policy.restore()
    assert all(torch.equal(value, before[key]) for key, value in bench.clip.model.state_dict().items())


@pytest.mark.parametrize("name", ["vit", "resnet", "siglip"])
def test_half_precision_is_near(name: str) -> None:
    clip = build(name)
    choice, images = parameters(tune="all"), images_for(clip)
    with torch.no_grad():
        full = Policy(clip, choice)(images, PROMPTS)
        half = Policy(clip, choice, bf16=True)(images, PROMPTS)
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
        policy = Policy(clip, parameters(rank=rank), embeddings=torch.eye(clip.embed_dim))
        w = torch.randn(rank, clip.embed_dim, generator=torch.Generator().manual_seed(rank)) / 5
        out = tmp_path / str(rank)
        export_model(clip, policy, {"w": w}, 1.0, out)
        gap = largest_logit_difference(clip, policy, {"w": w}, 1.0, out, images_for(clip), PROMPTS[0])
        assert gap < 1e-4
        assert json.loads((out / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"] == rank


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
    policy = Policy(clip, parameters(), embeddings=torch.eye(24))
    with pytest.raises(ValueError, match=message):
        export_model(clip, policy, policy.tuned(), 1.0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spec_of(**model: Any) -> Spec:
    task = {
        "model": {"architecture": "world", **model},
        "sets": {"world": {"kind": "world", "train": 64, "validation": 40, "test": 60}},
        "train": {"set": "world", "classes": 0.5},
        "evaluate": {"search": {"sets": ["world"]}, "test": {"sets": ["world"]}},
    }
    space = {
        "objective": "dpo",
        "tune": "last_blocks",
        "beta": 1.0,
        "learning_rate": 1e-3,
        "blocks": {"choices": [1, 2]},
    }
    return Spec.model_validate({**task, "name": "x", "parameters": space})


def test_check_measures_what_the_model_is_expected_to_reach(tmp_path: Path) -> None:
    bench = Workbench(spec_of().task_settings(), data_seed=0, cache=tmp_path, device=torch.device("cpu"))
    policy, one = untouched_policy(bench), bench.test_sets[0]
    with torch.no_grad():
        assert one.clean is not None
        logits = policy(bench.inputs(policy, one.clean), bench.prompts(policy, one.class_names, one.templates))
    accuracy = float((logits.argmax(-1) == one.clean.labels).double().mean())
    lines: list[str] = []
    check_model_and_images(spec_of(expect={"set": "world", "accuracy": round(accuracy, 4)}), lines.append)
    assert any(f"model.expect: world {accuracy:.4f} (95 % interval" in line and "all 60" in line for line in lines)
    with pytest.raises(UserError, match="not 1.0 .*wrong activation .quick_gelu."):
        check_model_and_images(spec_of(expect={"set": "world", "accuracy": 1.0}), lines.append)


def test_check_refuses_more_blocks_than_the_tower_has() -> None:
    spec = spec_of()
    with pytest.raises(UserError, match=r"parameters.blocks: 99 is above \d+, blocks of the image tower"):
        raw = {**spec.parameters.raw, "blocks": {"choices": [1, 99]}}
        check_model_and_images(Spec.model_validate({**spec.resolved(), "parameters": raw}), lambda line: None)

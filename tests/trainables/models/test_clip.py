"""Loading models: bare checkpoint files of every format, what goes wrong, what `sweeper check` says of a model."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from sweeper.errors import UserError
from sweeper.preflight.check import check_model_and_images
from sweeper.spec.model_checks import model_problems
from sweeper.spec.spec import Spec, spec_type
from tests.helpers.tiny import parameters, write_clip
from tests.helpers.tiny_towers import IMAGES, TEXT, VIT, images_for, timm_tower
from trainables.evaluation.measure import untouched_policy
from trainables.models.clip import image_preparation, load_clip
from trainables.models.export import export_model
from trainables.models.model_files import preprocessing, started_from
from trainables.models.policy import make_policy
from trainables.settings.task import ModelSettings
from trainables.tasks.known import open_context


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
        "tiny-words": {**plain, "text_cfg": {**text, "width": 48}},
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
    policy = make_policy(clip, parameters(), embeddings=torch.eye(24))
    export_model(clip, policy, policy.tuned(), 1.0, tmp_path / "out")
    exported, _, shown = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/out")
    first, second = (model.eval().encode_image(pixels, normalize=True) for model in (clip.model, exported))
    torch.testing.assert_close(second @ second.T, first @ first.T, atol=1e-5, rtol=0)
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
    policy = make_policy(clip, parameters(tune="visual"))
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
    with pytest.raises(ValueError, match=r"the weights do not fit it: .* Is it tiny-wide\?"):
        load_clip(bare(file, architecture="tiny-words"))  # open_clip stops at the position embeddings
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
        ("empty.pt", "no state dict; it holds: epoch"),
        ("missing.pt", "does not exist"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_clip(bare(tmp_path / name))


def test_tags_are_known_before_anything_is_downloaded() -> None:
    with pytest.raises(ValueError, match="not one of its tags; did you mean laion2b_s34b_b79k.*It has: openai, "):
        load_clip(ModelSettings(architecture="ViT-B-32", pretrained="laion2b_s34b_b79"))
    with pytest.raises(ValueError, match="only CLIPs with two towers"):
        load_clip(ModelSettings(architecture="coca_ViT-B-32", pretrained="laion2b_s13b_b90k"))
    (problem,) = model_problems({"architecture": "coca_ViT-B-32", "pretrained": "laion2b_s13b_b90k"})
    assert problem.path == ("model", "architecture") and "two towers" in problem.message


def test_tokenizer_of_a_siglip_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(ValueError, match="ViT-B-16-SigLIP needs the package transformers.*pip install"):
        load_clip(ModelSettings(architecture="ViT-B-16-SigLIP", pretrained="webli"))


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
    return spec_type("typographic").model_validate({**task, "name": "x", "parameters": space})


def test_check_measures_what_the_model_is_expected_to_reach(tmp_path: Path) -> None:
    context = open_context(spec_of().task_settings(), data_seed=0, cache=tmp_path, device=torch.device("cpu"))
    policy, tested = untouched_policy(context), context.data.test_sets[0]
    with torch.no_grad():
        assert tested.clean is not None
        prompts = context.inputs.prompts(policy, tested.images.class_names, tested.images.templates)
        logits = policy(context.inputs.whole_view(policy, tested.clean), prompts)
    accuracy = float((logits.argmax(-1) == tested.clean.labels).double().mean())
    lines: list[str] = []
    check_model_and_images(spec_of(expect={"set": "world", "accuracy": round(accuracy, 4)}), lines.append)
    assert any(f"model.expect: world {accuracy:.4f} (95 % interval" in line and "all 60" in line for line in lines)
    with pytest.raises(UserError, match="not 1.0 .*wrong activation .quick_gelu."):
        check_model_and_images(spec_of(expect={"set": "world", "accuracy": 1.0}), lines.append)


def test_check_refuses_more_blocks_than_the_tower_has() -> None:
    spec = spec_of()
    with pytest.raises(UserError, match=r"parameters.blocks: 99 is above \d+, blocks of the image tower"):
        raw = {**spec.parameters.raw, "blocks": {"choices": [1, 99]}}
        check_model_and_images(
            spec_type("typographic").model_validate({**spec.resolved(), "parameters": raw}), lambda line: None
        )


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:

    folder = write_clip(tmp_path / "clip", "vit")
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"][0, 0] = float("nan")
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"1 of its weights hold values that are not finite \(visual.proj\)"):
        load_clip(ModelSettings(architecture=f"local-dir:{folder}"))


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
def test_what_wraps_a_model_leaves_no_trace_in_its_names(
    architectures: None, prefix: str, name: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    state = {f"{prefix}{key}": value.contiguous() for key, value in open_clip.create_model("tiny").state_dict().items()}
    file = tmp_path / name
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state}, file)
    torch.manual_seed(1)
    plain = write_checkpoint(open_clip.create_model("tiny"), tmp_path / "plain.pt")
    assert load_clip(bare(file)).digest == load_clip(bare(plain)).digest


def test_a_compiled_tower_within_a_checkpoint(architectures: None, tmp_path: Path) -> None:
    state = open_clip.create_model("tiny").state_dict()
    torch.save({key.replace("visual.", "visual._orig_mod."): value for key, value in state.items()}, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    assert load_clip(bare(tmp_path / "a.pt")).digest == load_clip(bare(tmp_path / "b.pt")).digest


def test_weights_that_git_lfs_has_not_fetched(architectures: None, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"a.pt is a Git LFS pointer.*git lfs pull"):
        load_clip(bare(tmp_path / "a.pt"))


def test_crop_of_a_bare_checkpoint_is_known(tmp_path: Path) -> None:
    settings = ModelSettings(
        architecture="ViT-B-32",
        pretrained=str(tmp_path / "gone.pt"),
        quick_gelu=False,
        preprocess={"mean": [0.5] * 3, "std": [0.5] * 3, "size": 96, "resize_mode": "squash"},
    )
    crop, side_px = image_preparation(settings)
    assert side_px == 96 and crop(Image.new("RGB", (300, 200))).size == (96, 96)


@pytest.mark.parametrize("prefix", ["", "model.", "clip.module.", "module._orig_mod."])
@pytest.mark.parametrize("key", ["model", "model_state_dict", "ema", "state_dict"])
def test_weights_inside_a_checkpoint_are_found(architectures: None, key: str, prefix: str, tmp_path: Path) -> None:
    state = open_clip.create_model("tiny").state_dict()
    torch.save(state, tmp_path / "plain.pt")
    torch.save({key: {prefix + name: value for name, value in state.items()}, "epoch": 3}, tmp_path / "a.ckpt")
    assert load_clip(bare(tmp_path / "a.ckpt")).digest == load_clip(bare(tmp_path / "plain.pt")).digest


def test_weights_of_a_folder_are_read_as_those_of_a_bare_file(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip", "vit")
    model = ModelSettings(architecture=f"local-dir:{folder}")
    digest, file = load_clip(model).digest, folder / "open_clip_model.safetensors"
    state = load_file(file)
    save_file({f"module._orig_mod.{name}": value for name, value in state.items()}, file)
    assert load_clip(model).digest == digest
    file.unlink()
    torch.save({"model": state, "epoch": 3}, folder / "open_clip_pytorch_model.bin")
    assert load_clip(model).digest == digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, not weights"),
        (b"\n<!DOCTYPE html>", "is a web page, not weights"),
        ({"model": {"a.b": torch.zeros(1)}, "ema": {"a.b": torch.zeros(1)}}, r"several state dicts \(model, ema\)"),
        ({"epoch": 3}, "holds no state dict; it holds: epoch"),
        ([1], "holds no state dict, but a list"),
        (
            {"args": argparse.Namespace(), "a.b": torch.zeros(1)},
            r"save the state dict alone.*Pickled code is never run",
        ),
        ({"visual.proj": torch.zeros(2, dtype=torch.int8)}, r"1 weights are whole numbers \(visual.proj\)"),
    ],
)
def test_files_without_usable_weights_say_what_they_are(content: Any, message: str, tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip", "vit")
    (folder / "open_clip_model.safetensors").unlink()
    file = folder / "open_clip_pytorch_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=f"{file} .*{message}|{file}: {message}") as caught:
        load_clip(ModelSettings(architecture=f"local-dir:{folder}"))
    assert len(str(caught.value).splitlines()) == 1

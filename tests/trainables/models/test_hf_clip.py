"""Models in the format of transformers' ``CLIPModel``, read and written, and compared with transformers itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sweeper.spec.model_checks import embedding_width, image_side_px, model_problems
from tests.helpers.tiny import TOWERS, parameters, write_clip
from trainables.models.clip import Clip, image_preparation, load_clip
from trainables.models.export import LOGITS_TOLERANCE, export_model, largest_logit_difference
from trainables.models.policy import Policy, make_policy
from trainables.settings.task import ModelSettings

SIDE_PX = 32
TOWER = {"hidden_size": 64, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"width": 32, "heads": 2, "layers": 1}
PROMPTS = ["a photo of a dog", "A Red house, 2024!", "naïve café", "日本語 🙂", "dog " * 100]
"""The last one is longer than the context."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def moved(model: nn.Module) -> nn.Module:
    """With every weight off its neutral start, so that a swapped or forgotten one is seen."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def write_clip_model(folder: Path, *, shard: str = "1GB", **text: Any) -> Any:
    """Have transformers write an untrained ``CLIPModel`` with its image processor; return the model."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    activation = text.get("hidden_act", "quick_gelu")
    config = CLIPConfig(
        text_config={**TOWER, "max_position_embeddings": 20, **text},
        vision_config={**TOWER, "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "hidden_act": activation},
        projection_dim=24,
    )
    model = moved(CLIPModel(config))
    model.save_pretrained(folder, max_shard_size=shard)
    CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size=SIDE_PX).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder of transformers that is not to be changed, and its model."""
    folder = tmp_path_factory.mktemp("written") / "clip"
    return folder, write_clip_model(folder)


def local(folder: Path) -> ModelSettings:
    return ModelSettings(architecture=f"local-dir:{folder}")


def pixels_of(clip: Clip) -> Tensor:
    noise = torch.Generator().manual_seed(1)
    return clip.pixels(torch.randint(0, 256, (6, SIDE_PX, SIDE_PX, 3), generator=noise, dtype=torch.uint8))


@torch.no_grad()
def assert_equal(clip: Clip, theirs: Any) -> None:
    """Embeddings and logits of both libraries are equal."""
    pixels, tokens = pixels_of(clip), clip.tokens(PROMPTS)
    expected = theirs(input_ids=tokens, pixel_values=pixels)
    image, text = clip.model.encode_image(pixels, normalize=True), clip.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(image, expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, expected.text_embeds, atol=1e-5, rtol=0)
    logits = clip.model.logit_scale.exp() * image @ text.T
    torch.testing.assert_close(logits, expected.logits_per_image, atol=LOGITS_TOLERANCE, rtol=0)
    assert logits.std() > 100 * LOGITS_TOLERANCE, "embeddings that are all the same would show nothing"


class TestRead:
    @pytest.mark.parametrize(
        "text", [{}, {"hidden_act": "gelu", "eos_token_id": 2, "bos_token_id": 0, "max_position_embeddings": 77}]
    )
    def test_embeddings_and_logits_are_those_of_transformers(self, text: dict[str, Any], tmp_path: Path) -> None:
        theirs = write_clip_model(tmp_path, **text)
        assert not model_problems({"architecture": f"local-dir:{tmp_path}"})
        clip = load_clip(local(tmp_path))
        assert (clip.embed_dim, clip.image_size) == (24, SIDE_PX)
        assert clip.assumed is None
        assert_equal(clip, theirs)

    def test_several_files_a_pickle_and_early_configurations(self, written: tuple[Path, Any], tmp_path: Path) -> None:
        folder, theirs = written
        digest = load_clip(local(folder)).digest
        write_clip_model(tmp_path / "shards", shard="100KB")
        assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
        assert load_clip(local(tmp_path / "shards")).digest == digest

        early = tmp_path / "early"
        early.mkdir()
        state = {name: value.half() for name, value in theirs.state_dict().items()}
        positions = {"text_model.embeddings.position_ids": torch.arange(20)[None]}  # before transformers 4.31
        torch.save({**state, **positions}, early / "pytorch_model.bin")
        config = json.loads((folder / "config.json").read_text())
        config["vision_config_dict"], config["vision_config"] = config["vision_config"], {}
        del config["vision_config_dict"]["layer_norm_eps"]
        (early / "config.json").write_text(json.dumps(config))
        (early / "preprocessor_config.json").write_text('{"size": 32, "crop_size": 32, "resample": 3}')
        clip = load_clip(local(early))
        assert_equal(clip, theirs.half().float())

    def test_files_are_not_needed_for_the_spec(self, written: tuple[Path, Any]) -> None:
        model = {"architecture": f"local-dir:{written[0]}"}
        assert (embedding_width(model), image_side_px(model)) == (24, SIDE_PX)

    @pytest.mark.parametrize("shard", ["1GB", "100KB"])
    def test_repository_of_the_hub_without_network(
        self, shard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cached = tmp_path / "models--someone--clip"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(COMMIT)
        snapshot = cached / "snapshots" / COMMIT
        write_clip_model(snapshot, shard=shard)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        settings = ModelSettings(architecture="hf-hub:someone/clip")
        clip = load_clip(settings)
        assert clip.assumed is None and clip.digest == load_clip(local(snapshot)).digest
        assert image_preparation(settings)[1] == SIDE_PX
        for weights in snapshot.glob("*.safetensors"):
            weights.unlink()
        with pytest.raises(ValueError, match="cannot be loaded: .*(holds no weights|not in the cache).*HF_HOME"):
            load_clip(settings)
        config = json.loads((snapshot / "config.json").read_text())
        (snapshot / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
        with pytest.raises(ValueError, match="hf-hub:someone/clip cannot be loaded: .*model_type 'siglip'"):
            load_clip(settings)

    @pytest.mark.parametrize(
        ("section", "key", "value", "message"),
        [
            ("", "model_type", "siglip", "config.json says model_type 'siglip': .* only 'clip' is supported"),
            ("", "architectures", ["CLIPVisionModelWithProjection"], "says architectures .* both towers"),
            ("", "projection_dim", "24", "says projection_dim '24': it must be a whole number"),
            ("vision_config", "hidden_act", "gelu_new", "says vision_config.hidden_act 'gelu_new': supported are"),
            ("text_config", "hidden_act", "gelu", "hidden_act 'quick_gelu': .*one activation for both towers"),
            ("text_config", "layer_norm_eps", 1e-6, "says text_config.layer_norm_eps 1e-06: open_clip's is 1e-05"),
            ("text_config", "vocab_size", 30522, "says text_config.vocab_size 30522: CLIP's tokenizer has 49408"),
            ("text_config", "eos_token_id", 102, "says text_config.eos_token_id 102: .* ends a prompt with 49407"),
            ("vision_config", "num_channels", 1, "says vision_config.num_channels 1: images have 3"),
            ("vision_config", "image_size", [32, 48], r"says vision_config.image_size \[32, 48\]: it must be"),
            ("text_config", "num_attention_heads", 5, "says text_config.num_attention_heads 5: it must divide"),
        ],
    )
    def test_configuration_that_open_clip_cannot_compute(
        self, written: tuple[Path, Any], tmp_path: Path, section: str, key: str, value: Any, message: str
    ) -> None:
        config = json.loads((written[0] / "config.json").read_text())
        (config[section] if section else config)[key] = value
        self._assert_refused(written[0], tmp_path, "config.json", config, message)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"do_normalize": False}, "preprocessor_config.json says do_normalize False: open_clip always does it"),
            ({"resample": 0}, r"says resample 0: supported are 2 \(bilinear\), 3 \(bicubic\)"),
            ({"size": {"shortest_edge": 48}}, "says size .*48.*images of 32 px"),
            ({"do_center_crop": False}, "says size .*do_center_crop False.*images of 32 px"),
            ({"image_mean": 0.5}, "says image_mean 0.5: it must be a list of three numbers"),
            ({"rescale_factor": 1.0}, "says rescale_factor 1.0: only 1/255"),
            ({"image_processor_type": "ViTImageProcessor"}, "says image_processor_type 'ViTImageProcessor'"),
        ],
    )
    def test_preprocessing_that_open_clip_has_not(
        self, written: tuple[Path, Any], tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        config = json.loads((written[0] / "preprocessor_config.json").read_text())
        self._assert_refused(written[0], tmp_path, "preprocessor_config.json", {**config, **changes}, message)

    def _assert_refused(self, folder: Path, tmp_path: Path, name: str, content: Any, message: str) -> None:
        """In one line, by the spec and where the model is loaded."""
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
        (problem,) = model_problems({"architecture": f"local-dir:{tmp_path}"})
        assert "\n" not in problem.message
        for refused in (load_clip, image_preparation):
            with pytest.raises(ValueError, match=message) as error:
                refused(local(tmp_path))
            assert "\n" not in str(error.value)
        assert str(error.value).rpartition("config.json says")[2] in problem.message

    def test_files_that_are_missing_or_do_not_fit(self, written: tuple[Path, Any], tmp_path: Path) -> None:
        folder = tmp_path / "clip"
        shutil.copytree(written[0], folder)
        model = {"architecture": f"local-dir:{folder}"}
        weights = load_file(folder / "model.safetensors")
        dropped = {name: value for name, value in weights.items() if name != "visual_projection.weight"}
        save_file({**dropped, "vision_model.registers": torch.zeros(4)}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"1 are missing \(visual_projection.*1 are unexpected \(vision_model.reg"):
            load_clip(local(folder))
        save_file({**weights, "visual_projection.weight": torch.zeros(20, 64)}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"the weights do not fit it: 1 have another shape \(visual.proj "):
            load_clip(local(folder))
        (folder / "vocab.json").write_text('{"a": 0}')
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(ValueError, match="vocab.json is not the vocabulary of CLIP's tokenizer"):
            load_clip(local(folder))
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"logit_scale": "a.safetensors"}}')
        (problem,) = model_problems(model)
        assert "holds no a.safetensors, which model.safetensors.index.json names" in problem.message
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"logit_scale": "../a.safetensors"}}')
        (problem,) = model_problems(model)
        assert "names of files beside it" in problem.message
        (folder / "config.json").write_text("{")
        (problem,) = model_problems(model)
        assert "config.json cannot be read as JSON" in problem.message

    def test_preprocessing_that_is_not_stated_is_told(self, written: tuple[Path, Any], tmp_path: Path) -> None:
        shutil.copytree(written[0], tmp_path, dirs_exist_ok=True)
        (tmp_path / "preprocessor_config.json").unlink()
        clip = load_clip(local(tmp_path))
        assert clip.mean == open_clip.OPENAI_DATASET_MEAN and clip.std == open_clip.OPENAI_DATASET_STD
        assert clip.assumed is not None and "has no preprocessor_config.json" in clip.assumed
        # transformers 5 nests it, and takes that before the other file
        nested = {"image_processor": {"size": 32, "crop_size": 32, "resample": 2, "image_mean": [0, 0, 0.5]}}
        (tmp_path / "processor_config.json").write_text(json.dumps(nested))
        clip = load_clip(local(tmp_path))
        assert (clip.mean, clip.geometry[1], clip.assumed) == ((0, 0, 0.5), "bilinear", None)


def policy_of(clip: Clip, **changes: Any) -> Policy:
    """As if it had been trained."""
    policy = make_policy(clip, parameters(**changes), embeddings=torch.eye(clip.embed_dim))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.tuned().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy


def trained_weights(policy: Policy) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in policy.tuned().items()}


class TestWrite:
    @pytest.mark.parametrize(
        ("changes", "strength", "width"),
        [
            ({"tune": "visual"}, 0.0, 24),  # the untouched model
            ({"tune": "visual"}, 1.0, 24),
            ({"tune": "all"}, 0.5, 24),
            ({"tune": "transform", "rank": 12}, 0.5, 12),
            ({"tune": "transform", "rank": 12}, -0.5, 12),
            ({"tune": "transform", "rank": 8, "form": "residual"}, 1.0, 24),
            ({"tune": "transform", "towers": "separate"}, 0.5, 24),
        ],
    )
    def test_logits_are_those_of_the_trial(
        self, changes: dict[str, Any], strength: float, width: int, tmp_path: Path
    ) -> None:
        from transformers import CLIPModel

        clip = load_clip(local(write_clip(tmp_path / "clip", "vit")))
        moved(clip.model)
        policy, out = policy_of(clip, **changes), tmp_path / "out"
        weights = trained_weights(policy)
        export_model(clip, policy, weights, strength, out, "transformers")
        theirs, info = CLIPModel.from_pretrained(out, output_loading_info=True)
        assert not any(info.values()), "every weight is in the file, and no other"
        assert theirs.config.projection_dim == width
        images = torch.randint(0, 256, (6, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        tokens = clip.tokens(PROMPTS)
        policy.set_weights(weights, strength)
        with torch.no_grad():
            if policy.input_kind == "embeddings":
                image = policy.image_embeddings(clip.model.encode_image(clip.pixels(images), normalize=True))
                text = policy.text_embeddings(clip.model.encode_text(tokens, normalize=True))
                expected = policy.logits(image, text)
            else:
                prompts = tokens[None] if policy.trains_text else clip.model.encode_text(tokens, normalize=True)
                expected = policy(images, prompts)
            logits = theirs.eval()(input_ids=tokens, pixel_values=clip.pixels(images)).logits_per_image
        policy.restore()
        torch.testing.assert_close(logits, expected, atol=LOGITS_TOLERANCE, rtol=0)
        assert expected.std() > 100 * LOGITS_TOLERANCE
        gap = largest_logit_difference(clip, policy, weights, strength, out, images, tokens, "transformers")
        assert gap < LOGITS_TOLERANCE
        assert_equal(load_clip(local(out)), theirs)

    def test_untouched_model_comes_back_as_it_was(self, tmp_path: Path) -> None:
        """Weights, activation and normalisation, of a model whose own text tower lies under `text.`."""
        config: dict[str, Any] = {
            "embed_dim": 24,
            "quick_gelu": True,
            "custom_text": True,
            "vision_cfg": {**TOWERS["vit"], "mlp_ratio": 4.9231},
            "text_cfg": WORDS,
        }
        looks = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 2.0], "interpolation": "bilinear", "resize_mode": "squash"}
        folder = tmp_path / "clip"
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": looks}))
        plain = {name: value for name, value in config.items() if name != "custom_text"}
        model = moved(open_clip.CustomTextCLIP(**plain))
        save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
        clip = load_clip(local(folder))
        policy = make_policy(clip, parameters(tune="visual"))
        export_model(clip, policy, trained_weights(policy), 1.0, tmp_path / "out", "transformers")
        again = load_clip(local(tmp_path / "out"))
        pixels, tokens = pixels_of(clip), clip.tokens(PROMPTS)
        torch.testing.assert_close(again.model.encode_image(pixels), clip.model.encode_image(pixels), atol=0, rtol=0)
        torch.testing.assert_close(again.model.encode_text(tokens), clip.model.encode_text(tokens), atol=0, rtol=0)
        assert (again.mean, again.std, again.geometry) == (clip.mean, clip.std, clip.geometry)
        assert again.model.visual.transformer.resblocks[0].mlp.c_fc.out_features == int(32 * 4.9231)

    def test_tokenizer_gives_the_same_ids(self, tmp_path: Path) -> None:
        from transformers import CLIPProcessor

        clip = load_clip(local(write_clip(tmp_path / "clip", "vit")))
        policy = make_policy(clip, parameters(tune="visual"))
        export_model(clip, policy, trained_weights(policy), 1.0, tmp_path / "out", "transformers")
        tokenizer = CLIPProcessor.from_pretrained(tmp_path / "out").tokenizer
        for text in [*PROMPTS, "it's you're THEY'LL", "#tag (100%) $5.00_x", "  spaced\n out ", "İstanbul ß", ""]:
            ids = tokenizer(text, truncation=True)["input_ids"]
            assert clip.tokens([text])[0, : len(ids)].tolist() == ids, text
        (tmp_path / "again").mkdir()
        tokenizer.save_pretrained(tmp_path / "again")  # as tokenizer.json, which is compared where it lies
        shutil.copy(tmp_path / "again" / "tokenizer.json", tmp_path / "out")
        (tmp_path / "out" / "vocab.json").unlink()
        assert load_clip(local(tmp_path / "out")).tokenizer(PROMPTS).equal(clip.tokens(PROMPTS))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"vision_cfg": TOWERS["resnet"]}, "its image tower is a ResNet, and CLIPModel has only CLIP's ViT"),
            ({"vision_cfg": {"timm_model_name": "test_vit", "image_size": 160}}, "its image tower is timm's test_vit"),
            ({"init_logit_bias": -10.0}, "its logits have a bias"),
            ({"vision_cfg": {**TOWERS["vit"], "no_ln_pre": True}}, "its vision_cfg.no_ln_pre is True, which CLIPModel"),
            ({"text_cfg": {**WORDS, "pool_type": "last"}}, "its text_cfg.pool_type is 'last', which CLIPModel"),
            ({"text_cfg": {**WORDS, "vocab_size": 49409}}, "its tokenizer is not CLIP's"),
        ],
    )
    def test_models_that_it_cannot_hold(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        config = {"embed_dim": 24, "vision_cfg": TOWERS["vit"], "text_cfg": WORDS, **changes}
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        model = open_clip.CLIP(**config)
        save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()},
            tmp_path / "open_clip_model.safetensors",
        )
        clip = load_clip(local(tmp_path))
        policy = make_policy(clip, parameters(), embeddings=torch.eye(24))
        with pytest.raises(ValueError, match=f"transformers' CLIPModel cannot hold it: {message}"):
            export_model(clip, policy, trained_weights(policy), 1.0, tmp_path / "out", "transformers")
        assert not (tmp_path / "out").exists()

    def test_padded_images_are_refused(self, tmp_path: Path) -> None:
        folder = write_clip(tmp_path / "clip", "vit")
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["preprocess_cfg"] = {"resize_mode": "longest"}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        clip = load_clip(local(folder))
        policy = make_policy(clip, parameters(tune="visual"))
        with pytest.raises(ValueError, match="padded to a square"):
            export_model(clip, policy, trained_weights(policy), 1.0, tmp_path / "out", "transformers")


@pytest.mark.parametrize("looks", [{}, {"resize_mode": "squash", "interpolation": "bilinear"}])
def test_images_are_prepared_as_transformers_does(looks: dict[str, Any], tmp_path: Path) -> None:
    """Pillow's resizing is the same to a rounding; torchvision's, transformers' default, is a grey level or two off.

    The crop's left edge is 4.5 pixels in: both libraries take 4. At 5.5 open_clip (as OpenAI's code) takes 6,
    transformers 5.
    """
    from transformers import CLIPImageProcessor, CLIPImageProcessorPil

    folder = write_clip(tmp_path / "clip", "vit")
    config = json.loads((folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps({**config, "preprocess_cfg": looks}))
    clip = load_clip(local(folder))
    policy = make_policy(clip, parameters(tune="visual"))
    export_model(clip, policy, trained_weights(policy), 1.0, tmp_path / "out", "transformers")
    noise = torch.randint(0, 256, (17, 23, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy()).resize((125, 97))
    read = load_clip(local(tmp_path / "out"))
    crops: list[Callable[[Any], Any]] = [clip.crop, read.crop, image_preparation(local(tmp_path / "out"))[0]]
    for crop in crops:
        ours = clip.pixels(torch.from_numpy(np.array(crop(image)))[None])
        exact = CLIPImageProcessorPil.from_pretrained(tmp_path / "out")(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours, exact, atol=1e-5, rtol=0)
        near = CLIPImageProcessor.from_pretrained(tmp_path / "out")(image, return_tensors="pt")["pixel_values"]
        grey_level = 1 / 255 / min(clip.std)
        torch.testing.assert_close(ours, near, atol=2.01 * grey_level, rtol=0)

"""Models in the format of transformers' ``CLIPModel``, read, and compared with transformers itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sweeper.spec.model_checks import embedding_width, image_side_px, model_problems
from trainables.models.clip import Clip, image_preparation, load_clip
from trainables.models.export import LOGITS_TOLERANCE
from trainables.settings.task import ModelSettings

SIDE_PX = 32
TOWER = {"hidden_size": 64, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 4}
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

"""How a model's images are resized and cropped, known without its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainables.models.clip import cropping, load_clip, read_config
from trainables.models.model_files import preprocessing
from trainables.settings.task import ModelSettings


def crop_without_weights(settings: ModelSettings) -> tuple[Callable[[Any], Any], int]:
    """Return resizing and cropping, PIL image -> PIL image, and the side of its images in pixels: those of ``Clip``.

    Only a model of the hub is loaded, as its configuration lies there.

    Raises:
        ValueError: there is no such model, or its configuration cannot be had.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    name = settings.architecture
    if name.startswith("hf-hub:"):
        clip = load_clip(settings)
        return clip.crop, clip.image_size
    if name == "world":
        from trainables.world.files import WORLD_MODEL_FOLDER

        name = f"local-dir:{WORLD_MODEL_FOLDER}"
    config = open_clip.get_model_config(name if name.startswith("local-dir:") else name.replace("/", "-"))
    if config is None:
        raise ValueError(f"model {settings.architecture}: open_clip has no such architecture")
    of_weights, forced = _stated(settings, name)
    side_px = forced.get("size") or config["vision_cfg"].get("image_size", 224)
    stated = merge_preprocess_dict(asdict(PreprocessCfg()), dict(of_weights))
    preprocess = PreprocessCfg(**merge_preprocess_dict({**stated, "size": side_px}, dict(forced)))
    return cropping(preprocess), side_px if isinstance(side_px, int) else side_px[0]


def _stated(settings: ModelSettings, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the preprocessing that goes with the weights, and what overrides it."""
    import open_clip

    if name.startswith("local-dir:"):
        return read_config(Path(name.removeprefix("local-dir:"))).get("preprocess_cfg") or {}, {}
    if settings.is_bare_file:
        return {}, preprocessing(settings, {})[0]
    assert settings.pretrained is not None, "the settings ask for weights"
    return open_clip.get_pretrained_cfg(name.replace("/", "-"), settings.pretrained) or {}, {}

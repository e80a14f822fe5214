"""Export of a tuned policy as a folder for open_clip or for transformers, W folded into the projections."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.models.clip import CONFIG_FILE, MERGES_FILE, WEIGHTS_FILE, Clip
from trainables.models.hf_clip import WEIGHTS_FILE as CLIP_MODEL_WEIGHTS_FILE
from trainables.models.hf_clip import load_clip_model
from trainables.models.hf_export import why_no_clip_model, write_clip_model
from trainables.models.index_map import IndexMap
from trainables.models.policy import Policy, TransformPolicy
from trainables.models.towers import OpenClip
from trainables.models.transform import fold

LOGITS_TOLERANCE = 1e-4


ModelFormat = Literal["open_clip", "transformers"]
"""``open_clip``: for its ``local-dir:``. ``transformers``: for ``CLIPModel.from_pretrained``."""
MODEL_FILES: Mapping[ModelFormat, str] = {"open_clip": WEIGHTS_FILE, "transformers": CLIP_MODEL_WEIGHTS_FILE}
"""File of the weights in an exported folder."""


@dataclass(frozen=True)
class TunedModel:
    """A tuned policy as a model of open_clip alone, on the CPU."""

    model: OpenClip
    config: dict[str, Any]
    """Content of ``open_clip_config.json``."""
    index_map: IndexMap | None
    """The matrices that were folded into the model; None if it is no transform."""


def tuned_model(clip: Clip, policy: Policy, weights: Mapping[str, Tensor], strength: float) -> TunedModel:
    """Return a copy of the model with a policy's weights at a strength, W folded into the projections.

    Raises:
        ValueError: W cannot be folded into this architecture.
    """
    config = copy.deepcopy(clip.config)
    policy.set_weights(weights, strength)
    try:
        if not isinstance(policy, TransformPolicy):
            return TunedModel(copy.deepcopy(clip.model).cpu(), config, None)
        image, text = (w.detach().clone().cpu() for w in (policy.matrix, policy.text_matrix))
    finally:
        policy.restore()
    model, config["model_cfg"] = fold(clip.model, config["model_cfg"], image, text)
    return TunedModel(model, config, IndexMap(image, text))


def export_model(
    clip: Clip,
    policy: Policy,
    weights: Mapping[str, Tensor],
    strength: float,
    folder: Path,
    model_format: ModelFormat = "open_clip",
) -> IndexMap | None:
    """Write configuration and weights, and the tokenizer's files where the format or the model needs its own.

    Returns:
        The matrices that were folded into the model; None if it is no transform.

    Raises:
        ValueError: the folder exists and is not empty, W cannot be folded into this architecture, or the format cannot
            hold this model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; name a new folder")
    reason = why_no_clip_model(clip) if model_format == "transformers" else None
    if reason is not None:
        raise ValueError(f"transformers' CLIPModel cannot hold it: {reason}")
    tuned = tuned_model(clip, policy, weights, strength)
    folder.mkdir(parents=True, exist_ok=True)
    if model_format == "transformers":
        write_clip_model(clip, tuned.model.state_dict(), tuned.config["model_cfg"], folder)
    else:
        _write_for_open_clip(clip, tuned, folder)
    return tuned.index_map


def load_exported(folder: Path, model_format: ModelFormat, device: torch.device) -> OpenClip:
    """Return the model of an exported folder in open_clip. One for transformers is read without transformers."""
    import open_clip

    if model_format == "transformers":
        model, _ = load_clip_model(folder)
    else:
        model = open_clip.create_model(f"local-dir:{folder}")
    exported: OpenClip = model.eval().to(device)
    return exported


def _write_for_open_clip(clip: Clip, tuned: TunedModel, folder: Path) -> None:
    from open_clip.tokenizer import HFTokenizer
    from safetensors.torch import save_file

    state = {name: value.detach().clone().contiguous() for name, value in tuned.model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(tuned.config, indent=2) + "\n")
    shutil.copymode(
        folder / CONFIG_FILE, folder / WEIGHTS_FILE
    )  # safetensors writes files that only their owner can read
    if clip.merges is not None:
        shutil.copyfile(clip.merges, folder / MERGES_FILE)
    if isinstance(
        clip.tokenizer, HFTokenizer
    ):  # open_clip looks for the tokenizer's files in the folder, not on the hub
        clip.tokenizer.save_pretrained(str(folder))


@torch.no_grad()
def largest_logit_difference(
    clip: Clip,
    policy: Policy,
    weights: Mapping[str, Tensor],
    strength: float,
    folder: Path,
    images: Tensor,
    text: Tensor,
    model_format: ModelFormat = "open_clip",
) -> float:
    """Return the largest absolute difference, in float32, between the logits of the exported folder and of the trial.

    A folder for transformers is read as a spec's ``local-dir:`` would read it, without transformers.

    Args:
        images: (N, H, W, 3) uint8.
        text: token ids (C, L).
    """
    exported = load_exported(folder, model_format, clip.device)
    of_policy = _policy_logits(clip, policy, weights, strength, images, text)
    image = exported.encode_image(clip.pixels(images), normalize=True)
    of_folder = _logits(exported, image, exported.encode_text(text, normalize=True))
    return float((of_policy - of_folder).abs().max())


def _policy_logits(
    clip: Clip, policy: Policy, weights: Mapping[str, Tensor], strength: float, images: Tensor, text: Tensor
) -> Tensor:
    policy.set_weights(weights, strength)
    try:
        image = clip.model.encode_image(clip.pixels(images), normalize=True)
        prompts = clip.model.encode_text(text, normalize=True)
        if isinstance(policy, TransformPolicy):
            image, prompts = policy.image_embeddings(image), policy.text_embeddings(prompts)
        return _logits(clip.model, image, prompts)
    finally:
        policy.restore()


def _logits(model: OpenClip, image: Tensor, text: Tensor) -> Tensor:
    logits: Tensor = model.logit_scale.exp() * image @ text.T
    bias = getattr(model, "logit_bias", None)
    return logits if bias is None else logits + bias

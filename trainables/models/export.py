"""Export of a tuned policy as a folder for open_clip or for transformers, W folded into the projections."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.models.clip import CONFIG_FILE, MERGES_FILE, WEIGHTS_FILE, Clip
from trainables.models.hf_clip import WEIGHTS_FILE as CLIP_MODEL_WEIGHTS_FILE
from trainables.models.hf_clip import load_clip_model
from trainables.models.hf_export import why_no_clip_model, write_clip_model
from trainables.models.policy import Policy, TransformPolicy
from trainables.models.towers import OpenClip
from trainables.models.transform import fold

LOGITS_TOLERANCE = 1e-4


ModelFormat = Literal["open_clip", "transformers"]
"""``open_clip``: for its ``local-dir:``. ``transformers``: for ``CLIPModel.from_pretrained``."""
MODEL_FILES: Mapping[ModelFormat, str] = {"open_clip": WEIGHTS_FILE, "transformers": CLIP_MODEL_WEIGHTS_FILE}
"""File of the weights in an exported folder."""


def export_model(
    clip: Clip,
    policy: Policy,
    weights: Mapping[str, Tensor],
    strength: float,
    folder: Path,
    model_format: ModelFormat = "open_clip",
) -> None:
    """Write configuration and weights, and the tokenizer's files where the format or the model needs its own.

    Raises:
        ValueError: the folder exists and is not empty, W cannot be folded into this architecture, or the format cannot
            hold this model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; name a new folder")
    reason = why_no_clip_model(clip) if model_format == "transformers" else None
    if reason is not None:
        raise ValueError(f"transformers' CLIPModel cannot hold it: {reason}")
    model, model_cfg = _tuned(clip, policy, weights, strength)
    folder.mkdir(parents=True, exist_ok=True)
    if model_format == "transformers":
        write_clip_model(clip, model.state_dict(), model_cfg, folder)
    else:
        _write_for_open_clip(clip, model, model_cfg, folder)


def _tuned(
    clip: Clip, policy: Policy, weights: Mapping[str, Tensor], strength: float
) -> tuple[OpenClip, dict[str, Any]]:
    """Return a copy of the model with the trained weights, W folded in, and the ``model_cfg`` that builds it."""
    model_cfg = copy.deepcopy(clip.config["model_cfg"])
    policy.set_weights(weights, strength)
    try:
        if isinstance(policy, TransformPolicy):
            return fold(clip.model, model_cfg, policy.matrix, policy.text_matrix)
        return copy.deepcopy(clip.model).cpu(), model_cfg
    finally:
        policy.restore()


def _write_for_open_clip(clip: Clip, model: OpenClip, model_cfg: Mapping[str, Any], folder: Path) -> None:
    from open_clip.tokenizer import HFTokenizer
    from safetensors.torch import save_file

    state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    config = {**copy.deepcopy(clip.config), "model_cfg": model_cfg}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
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
    import open_clip

    if model_format == "transformers":
        exported, _ = load_clip_model(folder)
    else:
        exported = open_clip.create_model(f"local-dir:{folder}")
    exported = exported.eval().to(clip.device)
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

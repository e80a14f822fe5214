"""A point of a front as a folder that plain open_clip loads, with its model card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

from sweeper.environment import versions
from sweeper.errors import UserError
from sweeper.models.model_card import card, export_record
from sweeper.records import Front, FrontPoint
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder

RECORD_FILE, SPEC_FILE, CARD_FILE = "sweeper.json", "spec.yaml", "README.md"


def export_point(folder: SweepFolder, spec: Spec, front: Front, point: FrontPoint, target: Path) -> float:
    """Writes model, card, record and spec, and returns by how much the model's logits differ from the trial's, which
    is checked to be tiny.

    Raises UserError where the target is not empty, the weights are gone or W cannot be folded into this architecture.
    """
    import torch

    from trainables.models.clip import MERGES_FILE, load_clip
    from trainables.models.clip import WEIGHTS_FILE as MODEL_FILE
    from trainables.models.export import LOGITS_TOLERANCE, export_model, largest_logit_difference
    from trainables.models.policy import Policy
    from trainables.settings.parameters import Parameters
    from trainables.training.checkpoint import WEIGHTS_FILE, TrialFolder

    assert point.trial is not None
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not empty; name a new folder")
    trial = TrialFolder(folder.trial_path(point.trial))
    if not (trial.path / WEIGHTS_FILE).exists():
        raise UserError(f"the weights of trial {point.trial} are not in {trial.path}; pick another point")
    try:
        clip = load_clip(spec.model)
        policy = Policy(clip, Parameters.model_validate(point.parameters), embeddings=torch.eye(clip.embed_dim))
        weights = trial.weights(point.weights)
        export_model(clip, policy, weights, point.strength, target)
    except ValueError as error:
        raise UserError(f"trial {point.trial} cannot be exported: {error}") from error
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, clip.image_size, clip.image_size, 3), generator=noise, dtype=torch.uint8)
    text = clip.tokens(["a photo of a dog", "a sign that says dog", "a photo of a cat", "a red house"])
    gap = largest_logit_difference(clip, policy, weights, point.strength, target, images, text)
    if gap > LOGITS_TOLERANCE:
        raise RuntimeError(f"{target} answers differently from trial {point.trial}: logits differ by {gap:.2g}")
    record = export_record(folder, spec, point, front, json.loads((trial.path / "trial.json").read_text()))
    record["digests"]["exported_weights"] = _sha256(target / MODEL_FILE)
    record["exported_with"] = versions()
    (target / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    (target / SPEC_FILE).write_text(yaml.safe_dump(spec.resolved(), sort_keys=False))
    merges = MERGES_FILE if (target / MERGES_FILE).exists() else None
    (target / CARD_FILE).write_text(card(record, spec, str(target), merges))
    return gap


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A point of a front as a folder that plain open_clip or transformers loads, with its model card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sweeper.environment import versions
from sweeper.errors import UserError
from sweeper.front.export_record import Digests, ExportRecord, UntouchedMetrics
from sweeper.front.second_look import images_behind
from sweeper.models.model_card import model_card, validation_intervals
from sweeper.records import Front, FrontPoint
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.files import StorageError

if TYPE_CHECKING:
    from trainables.models.export import ModelFormat

SPEC_FILE, CARD_FILE = "spec.yaml", "README.md"


def export_point(
    folder: SweepFolder,
    spec: Spec,
    front: Front,
    point: FrontPoint,
    target: Path,
    model_format: ModelFormat = "open_clip",
) -> float:
    """Write model, model card, record and spec; return the largest difference of a logit from the trial's.

    Raises:
        UserError: the target is not empty, the weights are missing, W cannot be folded into this architecture, or the
            format cannot hold it.
        RuntimeError: the logits differ by more than rounding.
    """
    import torch
    from safetensors import SafetensorError

    from trainables.models.clip import MERGES_FILE, load_clip
    from trainables.models.export import LOGITS_TOLERANCE, MODEL_FILES, export_model, largest_logit_difference
    from trainables.models.policy import make_policy
    from trainables.settings.parameters import Parameters
    from trainables.training.trial_folder import WEIGHTS_FILE

    assert point.trial is not None
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not empty; name a new folder")
    trial = folder.trial(point.trial)
    if folder.remote is not None:
        folder.remote.trial(trial.path).pull()
    if not (trial.path / WEIGHTS_FILE).exists():
        again = folder.command("rerun", str(point.trial), "--keep-weights")
        raise UserError(
            f"the weights of trial {point.trial} are not in {trial.path}: a sweep removes them when no point of a "
            f"trial can be on the front any more (limits.weights); pick another point, or make them with: {again}"
        )
    try:
        clip = load_clip(spec.model)
        policy = make_policy(clip, Parameters.model_validate(point.parameters), embeddings=torch.eye(clip.embed_dim))
        weights = trial.weights(point.weights)
        try:
            export_model(clip, policy, weights, point.strength, target, model_format)
        except SafetensorError as error:  # safetensors' error on a full disk
            raise StorageError(f"{target} cannot be written: {error}") from error
    except ValueError as error:
        raise UserError(f"trial {point.trial} cannot be exported: {error}") from error
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, clip.image_size, clip.image_size, 3), generator=noise, dtype=torch.uint8)
    text = clip.tokens(["a photo of a dog", "a sign that says dog", "a photo of a cat", "a red house"])
    gap = largest_logit_difference(clip, policy, weights, point.strength, target, images, text, model_format)
    if gap > LOGITS_TOLERANCE:
        raise RuntimeError(f"{target} answers differently from trial {point.trial}: logits differ by {gap:.2g}")
    digest = _sha256(target / MODEL_FILES[model_format])
    record = _export_record(folder, spec, front, point, exported_weights=digest)
    record.write(target)
    (target / SPEC_FILE).write_text(yaml.safe_dump(spec.resolved(), sort_keys=False))
    merges = MERGES_FILE if (target / MERGES_FILE).exists() else None
    (target / CARD_FILE).write_text(model_card(record, spec, str(target), merges, model_format))
    return gap


def _export_record(
    folder: SweepFolder, spec: Spec, front: Front, point: FrontPoint, *, exported_weights: str
) -> ExportRecord:
    """Return the record of an exported point.

    Args:
        exported_weights: SHA-256 of the exported file.
    """
    assert point.trial is not None
    trial = json.loads((folder.trial(point.trial).path / "trial.json").read_text())
    untouched_point = next(shown for shown in front.points if shown.trial is None)
    untouched = folder.untouched()
    assert untouched is not None, "a sweep with a front has measured the untouched model"
    return ExportRecord(
        sweep=folder.name,
        sweep_id=folder.sweep_id,
        git_commit=folder.git_commit,
        trial=point.trial,
        name=point.name,
        weights=point.weights,
        strength=point.strength,
        parameters={name: value for name, value in point.parameters.items() if value is not None},
        seed=trial["seed"],
        data_seed=trial["data_seed"],
        validation=point.validation,
        validation_intervals=validation_intervals(point.validation, images_behind(point, untouched), front.goals),
        test=point.values,
        intervals=point.intervals,
        confirmation=point.confirmation,
        untouched=UntouchedMetrics(
            validation=untouched_point.validation, test=untouched_point.values, intervals=untouched_point.intervals
        ),
        digests=Digests(
            reference_weights=untouched.weights_digest,
            data=untouched.data_digest,
            exported_weights=exported_weights,
        ),
        trained_with={**untouched.versions, "device": untouched.device},
        model=spec.model.model_dump(mode="json", exclude_none=True),
        exported_with=versions(),
        goals=tuple(goal.metric for goal in front.goals),
        class_names=tuple(untouched.class_names),
        templates=tuple(untouched.templates),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

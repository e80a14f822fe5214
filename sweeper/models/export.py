"""A point of a front as a folder that plain open_clip or transformers loads, with its model card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sweeper.environment import versions
from sweeper.errors import UserError
from sweeper.front.export_record import Digests, ExportRecord, UntouchedMetrics
from sweeper.front.second_look import images_behind
from sweeper.models.model_card import Converted, model_card, validation_intervals
from sweeper.models.trained_point import load_point, stored_with
from sweeper.records import Front, FrontPoint
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.files import StorageError
from trainables.models.validity import StoredEmbeddings

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.models.clip import Clip
    from trainables.models.export import ModelFormat
    from trainables.models.index_map import IndexMap

SPEC_FILE, CARD_FILE = "spec.yaml", "README.md"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Checks of an exported folder, and the use of stored embeddings with it."""

    logit_difference: float
    """Largest difference of a logit from the trial's."""
    stored: StoredEmbeddings
    converted: Converted | None
    """None without ``index_map.npz``."""


def export_point(
    folder: SweepFolder,
    spec: Spec,
    front: Front,
    point: FrontPoint,
    target: Path,
    model_format: ModelFormat = "open_clip",
    *,
    index_map: bool = False,
) -> Exported:
    """Write model, model card, record and spec.

    Args:
        index_map: also write the matrices that convert stored embeddings.

    Raises:
        UserError: the target is not empty, the weights are missing, W cannot be folded into this architecture, the
            format cannot hold it, or no matrix converts the stored embeddings.
        RuntimeError: logits or converted embeddings differ by more than rounding.
    """
    import torch
    from safetensors import SafetensorError

    from trainables.models.clip import MERGES_FILE
    from trainables.models.export import LOGITS_TOLERANCE, MODEL_FILES, export_model, largest_logit_difference

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not empty; name a new folder")
    stored = stored_with(spec, point)
    if index_map:
        _check_convertible(stored, point)
    try:
        trained = load_point(folder, spec, point)
        clip, policy, weights = trained.clip, trained.policy, trained.weights
        try:
            matrices = export_model(clip, policy, weights, point.strength, target, model_format)
        except SafetensorError as error:  # safetensors' error on a full disk
            raise StorageError(f"{target} cannot be written: {error}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"trial {point.trial} cannot be exported: {error}") from error
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, clip.image_size, clip.image_size, 3), generator=noise, dtype=torch.uint8)
    text = clip.tokens(["a photo of a dog", "a sign that says dog", "a photo of a cat", "a red house"])
    gap = largest_logit_difference(clip, policy, weights, point.strength, target, images, text, model_format)
    if gap > LOGITS_TOLERANCE:
        raise RuntimeError(f"{target} answers differently from trial {point.trial}: logits differ by {gap:.2g}")
    converted = None
    if index_map:
        assert matrices is not None, "a transform has matrices"
        converted = _write_index_map(clip, matrices, target, model_format, images, text)
    record = _export_record(folder, spec, front, point, exported_weights=_sha256(target / MODEL_FILES[model_format]))
    record.write(target)
    (target / SPEC_FILE).write_text(yaml.safe_dump(spec.resolved(), sort_keys=False))
    merges = MERGES_FILE if (target / MERGES_FILE).exists() else None
    (target / CARD_FILE).write_text(model_card(record, spec, str(target), merges, model_format, converted))
    return Exported(logit_difference=gap, stored=stored, converted=converted)


def _check_convertible(stored: StoredEmbeddings, point: FrontPoint) -> None:
    """Check that a matrix converts the stored embeddings.

    Raises:
        UserError: no matrix does.
    """
    if stored.images == "unchanged":
        raise UserError(
            f"--index-map: at this strength trial {point.trial} is the untouched model: stored embeddings stay valid "
            "and nothing is to be converted; leave --index-map out"
        )
    if stored.images != "one matrix product":
        raise UserError(
            f"--index-map: trial {point.trial} tunes `{point.parameters['tune']}`, and no matrix makes its image "
            "embeddings of stored ones: leave --index-map out, embed the images again, and measure the old index "
            "with `sweeper evaluate DIR --index`"
        )


def _write_index_map(
    clip: Clip, matrices: IndexMap, target: Path, model_format: ModelFormat, images: Tensor, text: Tensor
) -> Converted:
    """Write ``index_map.npz``; return how well it converts noise and prompts.

    Raises:
        RuntimeError: a converted embedding differs from that of the exported model by more than rounding.
    """
    from trainables.models.export import load_exported
    from trainables.models.index_map import INDEX_MAP_TOLERANCE, largest_map_difference

    exported = load_exported(target, model_format, clip.device)
    difference = largest_map_difference(clip, matrices, exported, images, text)
    if difference > INDEX_MAP_TOLERANCE:
        raise RuntimeError(
            f"{target}: converted embeddings differ from those of the exported model by {difference:.2g}"
        )
    matrices.write(target)
    new_width, old_width = matrices.image.shape
    return Converted(
        old_width=old_width, new_width=new_width, images=len(images), prompts=len(text), difference=difference
    )


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

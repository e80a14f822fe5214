"""A point of a front as a folder that plain open_clip loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeper.folder import SweepFolder
from sweeper.records import FrontPoint, UserError
from sweeper.spec import Spec

_LOADING = """\
```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")
tokenizer = open_clip.get_tokenizer("local-dir:{folder}"{merges})
```
"""


def export_point(folder: SweepFolder, spec: Spec, point: FrontPoint, target: Path) -> float:
    """Writes the folder and returns by how much its logits differ from the trial's, which is checked to be tiny.

    Raises UserError where the target is not empty, the weights are gone or W cannot be folded into this architecture.
    """
    import torch

    from trainables.checkpoint import WEIGHTS_FILE, TrialFolder
    from trainables.clip import MERGES_FILE, load_clip
    from trainables.export import LOGITS_TOLERANCE, export_model, largest_logit_difference
    from trainables.policy import Policy
    from trainables.settings import Parameters

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
    merges = f', bpe_path="{target}/{MERGES_FILE}"' if clip.merges is not None else ""
    (target / "README.md").write_text(_card(folder, point, target, merges))
    record = {"sweep": folder.name, "sweep_id": folder.sweep_id, "trial": point.trial, "weights": point.weights}
    record |= {"strength": point.strength, "parameters": point.parameters, "validation": point.validation}
    record |= {"test": point.values, "intervals": point.intervals, "seed": spec.search.seed}
    record |= {"reference_weights_digest": (folder.untouched() or {}).get("weights_digest")}
    (target / "sweeper.json").write_text(json.dumps(record, indent=1) + "\n")
    return gap


def _card(folder: SweepFolder, point: FrontPoint, target: Path, merges: str) -> str:
    rows = ["| measured on | what | value | 95 % interval |", "| --- | --- | --- | --- |"]
    rows += [f"| validation | {name} | {value:.4f} | |" for name, value in point.validation.items()]
    for name, value in (point.values or {}).items():
        low, high = (point.intervals or {})[name]
        rows.append(f"| test | {name} | {value:.4f} | {low:.4f} to {high:.4f} |")
    if not point.validation:
        rows.append("| | not measured at this strength | | |")
    parameters: dict[str, Any] = {name: value for name, value in point.parameters.items() if value is not None}
    return "\n".join(
        [
            f"# {folder.name}, trial {point.trial}",
            "",
            f"A CLIP tuned against written words: {point.weights} weights at strength {point.strength:g}.",
            "",
            _LOADING.format(folder=target, merges=merges),
            *rows,
            "",
            "Parameters: " + ", ".join(f"{name} {value}" for name, value in parameters.items()) + ".",
            "",
            "The licence of the original weights applies.",
            "",
        ]
    )

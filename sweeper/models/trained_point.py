"""A point of a front as an untouched CLIP, a policy and the weights of a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.errors import UserError
from sweeper.records import FrontPoint
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.models.validity import StoredEmbeddings, stored_embeddings
from trainables.settings.parameters import Parameters

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.models.clip import Clip
    from trainables.models.policy import Policy


@dataclass(frozen=True)
class TrainedPoint:
    """Parts of a tuned model."""

    clip: Clip
    """The untouched model."""
    policy: Policy
    weights: dict[str, Tensor]
    """Trained parameters of the policy by name."""


def load_point(folder: SweepFolder, spec: Spec, point: FrontPoint) -> TrainedPoint:
    """Return the parts of a point that was trained.

    Raises:
        UserError: the weights are missing.
        ValueError: the model cannot be loaded.
    """
    import torch

    from trainables.models.clip import load_clip
    from trainables.models.policy import make_policy
    from trainables.training.trial_folder import WEIGHTS_FILE

    assert point.trial is not None
    trial = folder.trial(point.trial)
    if folder.remote is not None:
        folder.remote.trial(trial.path).pull()
    if not (trial.path / WEIGHTS_FILE).exists():
        again = folder.command("rerun", str(point.trial), "--keep-weights")
        raise UserError(
            f"the weights of trial {point.trial} are not in {trial.path}: a sweep removes them when no point of a "
            f"trial can be on the front any more (limits.weights); pick another point, or make them with: {again}"
        )
    clip = load_clip(spec.model)
    policy = make_policy(clip, Parameters.model_validate(point.parameters), embeddings=torch.eye(clip.embed_dim))
    return TrainedPoint(clip, policy, trial.weights(point.weights))


def stored_with(spec: Spec, point: FrontPoint) -> StoredEmbeddings:
    """Return the use of stored embeddings with a point that was trained."""
    return stored_embeddings(
        Parameters.model_validate(point.parameters),
        model_trains_text=spec.model.text == "trained",
        strength=point.strength,
    )

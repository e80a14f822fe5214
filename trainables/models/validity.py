"""Stored embeddings of the untouched model after tuning: which of them can stay, for images and for texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.settings.parameters import Parameters

Validity = Literal["unchanged", "one matrix product", "embed again"]
"""``unchanged``: the tuned model gives the same embedding. ``one matrix product``: its embedding is the normalised
product of a matrix and the stored one. ``embed again``: only the tuned model itself gives its embedding."""

ADVICE: dict[Validity, str] = {
    "unchanged": "the stored embeddings stay valid",
    "one matrix product": "the normalised product of one matrix and a stored embedding is the new embedding",
    "embed again": "the stored embeddings are those of another model: encode all of them again",
}

INDEX_MAP_FILE = "index_map.npz"
"""File beside an exported transform: the matrices ``image`` and ``text``."""


@dataclass(frozen=True, kw_only=True)
class StoredEmbeddings:
    """Use of the untouched model's stored embeddings with a tuned model."""

    images: Validity
    texts: Validity

    def __str__(self) -> str:
        return f"images: {self.images}; texts: {self.texts}"


def stored_embeddings(parameters: Parameters, *, model_trains_text: bool, strength: float = 1.0) -> StoredEmbeddings:
    """Return the use of stored embeddings with a trial's model.

    Args:
        parameters: of the trial.
        model_trains_text: ``model.text: trained`` in the spec.
        strength: of the trial's weights. Interpolated weights at strength 0 are the untouched model, and so are towers
            that the objective ``none`` does not train. W^0 of a shared transform is a rotation.
    """
    transform = parameters.tune == "transform"
    interpolated = not transform or parameters.towers == "separate"
    if (interpolated and strength == 0.0) or (not transform and parameters.objective == "none"):
        return StoredEmbeddings(images="unchanged", texts="unchanged")
    if transform:
        return StoredEmbeddings(images="one matrix product", texts="one matrix product")
    texts: Validity = "embed again" if tunes_text(parameters, model_trains_text) else "unchanged"
    return StoredEmbeddings(images="embed again", texts=texts)


def tunes_text(parameters: Parameters, model_trains_text: bool) -> bool:
    """Return whether a trial trains the text tower.

    Args:
        parameters: of the trial.
        model_trains_text: ``model.text: trained`` in the spec.
    """
    return parameters.tune == "all" or (parameters.tune != "transform" and model_trains_text)

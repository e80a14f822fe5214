"""Training data of a trial: pairs of a preferred and a rejected prompt, and the answers that must not change."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainables.data.image_set import View
from trainables.records import Names


@dataclass(frozen=True)
class Prompts:
    """Prompts that a policy chooses from: each name in each template; embeddings are averaged over templates."""

    names: Names
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Preferences:
    """Preferences; row p of ``shown`` belongs to row ``p % N`` of ``kept``."""

    shown: View
    """P images that have a preference."""
    prompts: Prompts
    """K prompts of the preferences."""
    chosen: Tensor
    """(P,) int64: row of ``prompts`` that is preferred for each image."""
    rejected: Tensor
    """(P,) int64: row of ``prompts`` that is rejected for each image."""
    kept: View
    """N images for which the policy must answer as the reference does."""
    kept_prompts: Prompts
    """Prompts that the policy chooses from for ``kept``."""
    values: Tensor | None = None
    """(N,) int64: attribute's value of each image of ``kept``; None for a task without an attribute."""
    candidates: Tensor | None = None
    """(P, V) int64: rows of ``prompts`` with the image's class and each value of the attribute."""

    @property
    def images(self) -> int:
        """Return the number N of different images."""
        return len(self.kept.labels)

    def kept_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of ``kept`` that belong to rows of ``shown``."""
        return rows % self.images

"""Training data of a trial: which prompt is preferred to which, and what must not change."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainables.data.image_set import View
from trainables.records import Names


@dataclass(frozen=True)
class Prompts:
    """Prompts that a policy chooses from: each name in each template, whose embeddings are averaged."""

    names: Names
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Preferences:
    """Row p of ``shown`` belongs to row ``p % N`` of ``kept``."""

    shown: View
    """P images about which there are preferences."""
    prompts: Prompts
    """K prompts that preferences are about."""
    chosen: Tensor
    """(P,) int64: the row of ``prompts`` that is preferred for each image."""
    rejected: Tensor
    """(P,) int64: the row that ``chosen`` is preferred to."""
    kept: View
    """N images for which the policy is to answer as the reference does."""
    kept_prompts: Prompts
    """What the policy is to choose among for ``kept``."""
    values: Tensor | None = None
    """(N,) int64: the value of an attribute of each image of ``kept``; None where the task is about none."""
    candidates: Tensor | None = None
    """(P, V) int64: rows of ``prompts`` with the image's class and each value of the attribute."""

    @property
    def images(self) -> int:
        """Number of different images: N."""
        return len(self.kept.labels)

    def kept_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of ``kept`` that rows of ``shown`` belong to."""
        return rows % self.images

"""The interface of a task: its data and its measures, for training and for the sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from trainables.data.image_set import View
from trainables.data.preferences import Preferences, Prompts
from trainables.distributed import WorkerGroup
from trainables.models.policy import Policy
from trainables.records import Measurement
from trainables.settings.parameters import Parameters

if TYPE_CHECKING:
    from trainables.context.trial_context import TrialContext


class TaskData(Protocol):
    """Training data, and images to measure on. Every method raises ValueError if images cannot be read."""

    @property
    def preferences(self) -> Preferences: ...

    def preference_rows(self, parameters: Parameters) -> Tensor:
        """Return the rows (M,) of ``preferences.shown`` that a trial trains on.

        Raises:
            ValueError: the parameters ask for more rows than there are.
        """

    def searched_prompts(self) -> Sequence[Prompts]:
        """Return the prompts that the goals are measured with."""

    def searched_views(self) -> Sequence[View]:
        """Return the images that the goals are measured on."""

    def validation_images(self) -> list[int]:
        """Return the number of images of each validation set."""

    def unseen_images(self) -> list[int]:
        """Return for each validation set the number of images that the second look uses and the search does not see."""

    def chance(self) -> float:
        """Return the expected first goal of guessing, mean over the validation sets."""

    def described(self) -> list[str]:
        """Return a line for each part of the data: its name and its number of images."""

    def broken(self) -> dict[str, list[str]]:
        """Return the images that were left out, with reasons, for each split read so far that has such images."""

    def digest(self) -> str:
        """Return the digest of all data for training and search."""

    def validation_digest(self) -> str:
        """Return the digest of all data for the search: points with equal digests may stand on one front."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Results of a policy on the validation sets."""

    values: dict[str, float]
    """Metric -> value: the goals and other metrics."""
    hits: dict[str, list[np.ndarray]]
    """Goal -> for each set, whether each of its N images is answered correctly, (N,) bool. Empty if a goal is not a
    mean over images.
    """


class Measures(Protocol):
    """Measurement of policies. Workers share the images; every worker gets all values."""

    def findings(self, context: TrialContext) -> list[str]:
        """Return lines about the untouched model and the training data, known before any training."""

    def validation(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> Validation:
        """Return the validation metrics that are measured repeatedly during a trial."""

    def kept(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        """Return the metrics on validation that ``keep`` names and ``validation`` does not have."""

    def second_look(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        """Return the metrics of ``validation`` and ``kept`` on the validation images that the search does not see.

        Called only if every validation set has such images. A metric that cannot be measured on them is left out.
        """

    def solved_strength(self, context: TrialContext, policy: Policy, weights: Mapping[str, Tensor]) -> float | None:
        """Return a strength of these weights to be measured besides those that the spec names; None if there is none.

        The policy may have other weights afterwards.
        """

    def test(
        self, context: TrialContext, policy: Policy, group: WorkerGroup, *, variants: bool, answers: Path | None = None
    ) -> Measurement:
        """Return all test metrics.

        Args:
            variants: also metrics that cost more and are measured for points of the front only.
            answers: file for the answers image by image, which the first worker writes.
        """

"""What a task gives to training and to measuring, as training and the sweep see it."""

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
    """Training data, and images to measure on. All of it raises ValueError where images cannot be had."""

    @property
    def preferences(self) -> Preferences: ...

    def preference_rows(self, parameters: Parameters) -> Tensor:
        """Return the rows of ``preferences.shown`` that a trial trains on (M,).

        Raise ValueError for parameters that ask for more than there is.
        """

    def searched_prompts(self) -> Sequence[Prompts]:
        """Return the prompts that the goals are measured with."""

    def searched_views(self) -> Sequence[View]:
        """Return the images that the goals are measured on."""

    def validation_images(self) -> list[int]:
        """Return how many images each validation set has."""

    def unseen_images(self) -> list[int]:
        """Return how many images each validation set has that the second look takes, and that the search does not
        see."""

    def chance(self) -> float:
        """Return the first goal of guessing, mean over the validation sets."""

    def described(self) -> list[str]:
        """Return a line per part of the data: what it is, and how many images it has."""

    def broken(self) -> dict[str, list[str]]:
        """Return images that were left out, with reasons, by split read so far; not of splits without."""

    def digest(self) -> str:
        """Return the digest of everything that is trained and searched on."""

    def validation_digest(self) -> str:
        """Return the digest of everything that is searched on: points with equal digests may stand on one front."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a policy reaches on the validation sets."""

    values: dict[str, float]
    """Metric -> value: the goals and more."""
    hits: dict[str, list[np.ndarray]]
    """Goal -> per set whether each of its N images is answered right, (N,) bool. Empty where a goal is no mean over
    images."""


class Measures(Protocol):
    """Measures policies. Workers share the images; every one of them gets all values."""

    def findings(self, context: TrialContext) -> list[str]:
        """Return what the untouched model and the training data tell before any training, a line each."""

    def validation(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> Validation:
        """Return what is measured on validation again and again during a trial."""

    def kept(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        """Return the metrics on validation that ``keep`` names and ``validation`` does not have."""

    def second_look(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        """Return what ``validation`` and ``kept`` measure, on the validation images that the search does not see.

        Called only where every validation set has some. A metric that cannot be had there is left out.
        """

    def solved_strength(self, context: TrialContext, policy: Policy, weights: Mapping[str, Tensor]) -> float | None:
        """Return a strength of these weights that is worth measuring beside those that the spec names; None for none.

        The policy may have other weights afterwards.
        """

    def test(
        self, context: TrialContext, policy: Policy, group: WorkerGroup, *, variants: bool, answers: Path | None = None
    ) -> Measurement:
        """Return everything that is measured on test.

        Args:
            variants: also what costs more, and is measured of points of the front only.
            answers: a file for the answers image by image, which the first worker writes.
        """

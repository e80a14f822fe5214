"""The moving average of weights from the authors' release, kept beside the last weights.

Step i of n has the weight of the Beta(b, b) density at (i + 0.5) / (n + 1), which is U-shaped for b < 1: the start of
training (step 0, the untouched weights) and its end count most. From CLIPood (Shu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class BetaAverage:
    """Weighted average of named weights over ``steps`` training steps; step 0 is the untouched weights.

    Args:
        weights: the untouched weights by name; copied.
        beta: b of the Beta(b, b) density.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, steps: int, beta: float = 0.7) -> None:
        self._steps, self._beta = steps, beta
        self._step = 0
        self._total = self._density()
        self.weights = {name: value.detach().clone() for name, value in weights.items()}

    def _density(self) -> float:
        position = (self._step + 0.5) / (self._steps + 1)
        return float((position * (1 - position)) ** (self._beta - 1))

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Add the weights after the next step; they have the names and shapes of the untouched ones."""
        self._step += 1
        density = self._density()
        self._total += density
        new = [weights[name].detach() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), new, density / self._total)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "total": self._total, "weights": dict(self.weights)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step, self._total = state["step"], state["total"]
        for name, average in self.weights.items():
            average.copy_(state["weights"][name])

"""The authors' moving average of weights, kept beside the raw ones.

Step i of n has the weight of the Beta(b, b) density at (i + 0.5) / (n + 1): U-shaped for b < 1, it counts the start
(step 0, the untouched weights) and the end of training most. From CLIPood (Shu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class BetaAverage:
    """Average of named weights over ``steps`` training steps; step 0 is the untouched weights."""

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
        """Add the weights after the next step."""
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

"""The optimizer of a trial and its learning-rate schedule."""

from __future__ import annotations

import math

import torch

from trainables.models.policy import Policy
from trainables.settings.parameters import Parameters


def schedule(step: int, *, steps: int, warmup: int) -> float:
    """Return the learning rate's factor at a 0-based step: linear warm-up, then cosine to 0 (authors: no warm-up)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def learning_rate_of(parameters: Parameters) -> float:
    """Return the learning rate; 0 for a trial that trains nothing."""
    return 0.0 if parameters.learning_rate is None else parameters.learning_rate


def make_optimizer(policy: Policy, parameters: Parameters, name: str) -> torch.optim.Optimizer:
    tuned, decay, rate = list(policy.tuned().values()), parameters.weight_decay, learning_rate_of(parameters)
    if name == "adamw":
        return torch.optim.AdamW(tuned, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.Adamax(tuned, lr=rate, weight_decay=decay, foreach=True)  # PyTorch has no fused version

"""Three objectives beyond those that sweeper brings: functions of logits, as a spec names them.

Every function takes logits (B, C) over the class prompts, of the policy and of the untouched model, for B attacked
images, and two (B,) class indices: the true class is chosen, the written class is rejected. It returns the loss of each
pair, (B,). ``examples/own_objective.yaml`` is a spec with all three, ``docs/objectives.md`` compares them.

With pi(y|x) = softmax over class prompts, and pi_ref the untouched model.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def conservative_dpo(
    policy_logits: Tensor,
    reference_logits: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float,
) -> Tensor:
    """Return conservative DPO: with probability e = ``label_smoothing``, 0 <= e < 1/2, a preference is flipped.

    loss = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)
    h = log pi(chosen|x) - log pi(rejected|x) - log pi_ref(chosen|x) + log pi_ref(rejected|x)

    The loss is least at beta h = log((1 - e) / e), where plain DPO pushes h on for ever. Mitchell, "A note on DPO with
    noisy preferences and relationship to IPO", 2023. The built-in ``dpo`` has ``label_smoothing`` too and is the same.
    """
    h = beta * (_margin(policy_logits, chosen, rejected) - _margin(reference_logits, chosen, rejected))
    return -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)


def slic_hinge(
    policy_logits: Tensor, reference_logits: Tensor, chosen: Tensor, rejected: Tensor, *, delta: float
) -> Tensor:
    """Return the rank calibration loss of SLiC-HF, a hinge with the margin ``delta`` > 0, in nats.

    loss = max(0, delta - log pi(chosen|x) + log pi(rejected|x))

    It has no reference: what keeps the model near the untouched one is ``lambda_reg``, in place of that paper's
    cross-entropy term. Zhao et al., "SLiC-HF: Sequence likelihood calibration with human feedback", arXiv 2305.10425.
    """
    return (delta - _margin(policy_logits, chosen, rejected)).clamp(min=0)


def simpo(
    policy_logits: Tensor, reference_logits: Tensor, chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float
) -> Tensor:
    """Return SimPO, which has a target margin ``gamma`` >= 0 and no reference.

    loss = -log sigmoid(beta (log pi(chosen|x) - log pi(rejected|x)) - gamma)

    A class is one choice among C, so that its length, by which the paper divides, is 1. Meng et al., "SimPO: Simple
    preference optimization with a reference-free reward", arXiv 2405.14734, equation 6.
    """
    return -F.logsigmoid(beta * _margin(policy_logits, chosen, rejected) - gamma)


def _margin(logits: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return log pi(chosen|x) - log pi(rejected|x) of each pair: (B,). The normaliser of the softmax cancels."""
    return (logits.gather(1, chosen[:, None]) - logits.gather(1, rejected[:, None]))[:, 0]

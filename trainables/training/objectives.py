"""The preference objectives, as pure functions of logits over class prompts.

CLIP is a policy: pi(y|x) = softmax over class prompts of its logits. ``chosen`` is the true label of an attacked image,
``rejected`` the label written on it. Gradients flow to the policy's logits alone.

Source: Afzali et al., ICLR 2025, arXiv 2411.08923, and the authors' released losses. The paper's total loss (13) is
``objective + lambda_reg * reference_kl``, the second term on the clean originals.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.settings.parameters import Parameters
from trainables.training.own_objective import own_losses


def dpo(
    policy_logits: Tensor,
    reference_logits: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the loss of direct preference optimisation (Rafailov et al. 2023): mean of -logsigmoid(beta h).

    Args:
        policy_logits, reference_logits: (B, C) over class prompts, of the attacked images.
        chosen, rejected: (B,) class indices.
        label_smoothing: probability that a preference is flipped (conservative DPO).

    Returns:
        A scalar.
    """
    h = beta * _margin(policy_logits, reference_logits, chosen, rejected)
    return (-(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)).mean()


def ipo(policy_logits: Tensor, reference_logits: Tensor, chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """Return the loss of identity preference optimisation (Azar et al. 2023): mean of (h - 1 / (2 beta))^2.

    Args:
        policy_logits, reference_logits, chosen, rejected: as in ``dpo``.
        beta: tau in that paper.

    Returns:
        A scalar.
    """
    return (_margin(policy_logits, reference_logits, chosen, rejected) - 1 / (2 * beta)).square().mean()


def kto(
    policy_logits: Tensor,
    reference_logits: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    kl: Tensor,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Return the loss of Kahneman-Tversky optimisation (Ethayarajh et al. 2024), mean over both terms of all pairs.

    Args:
        policy_logits, reference_logits, chosen, rejected: as in ``dpo``.
        kl: z0, a scalar: KL(reference || policy) over the clean images of the global batch. No gradient flows through
            it.

    Returns:
        A scalar.
    """
    policy, reference = policy_logits.log_softmax(-1), reference_logits.detach().log_softmax(-1)
    chosen_ratio = _take(policy, chosen) - _take(reference, chosen)
    rejected_ratio = _take(policy, rejected) - _take(reference, rejected)
    z0 = kl.detach()
    desirable = desirable_weight * (1 - torch.sigmoid(beta * (chosen_ratio - z0)))
    undesirable = undesirable_weight * (1 - torch.sigmoid(beta * (z0 - rejected_ratio)))
    return torch.cat([desirable, undesirable]).mean()


def cross_entropy(policy_logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the loss of the baseline: mean of -log pi(chosen | attacked image).

    Args:
        policy_logits: (B, C) over class prompts.
        chosen: (B,) class indices.

    Returns:
        A scalar.
    """
    return F.cross_entropy(policy_logits, chosen)


def reference_kl(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Return KL(reference || policy) of (B, C) logits on clean images, a scalar: the mean over the batch."""
    reference = reference_logits.detach().log_softmax(-1)
    return F.kl_div(policy_logits.log_softmax(-1), reference, log_target=True, reduction="batchmean")


def balanced_cross_entropy(policy_logits: Tensor, candidates: Tensor) -> Tensor:
    """Return the loss of the neutral target: cross-entropy with equal probabilities of several candidate prompts.

    Args:
        policy_logits: (B, K) over prompts.
        candidates: (B, m) indices of the prompts.

    Returns:
        A scalar, at least log m.
    """
    return -policy_logits.gather(-1, candidates).log_softmax(-1).mean()


def equal_means_weights(means: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of the target ``equal`` and its gradient with respect to every image's own logit.

    The loss is the mean, over the classes that have images of all values and over pairs of values, of the squared
    difference between the mean logits of the neutral prompt. Not from the paper: measured in docs/attributes.md.

    Args:
        means: (C, V) mean logit of the class's neutral prompt over its images of each value.
        counts: (C, V) number of images of each class and value.

    Returns:
        The loss, a scalar, and the weights (C, V) of an image's logit in the gradient; 0 for classes that lack a value.
    """
    values = means.shape[1]
    whole = (counts > 0).all(1)
    pairs = values * (values - 1) / 2
    spread = values * means - means.sum(1, keepdim=True)  # of value v: sum over w of (mean_v - mean_w)
    loss = ((spread * means).sum(1) * whole).sum() / pairs / whole.sum().clamp(min=1)
    gradient = 2 * spread / pairs / whole.sum().clamp(min=1) / counts.clamp(min=1)
    return loss, gradient * whole[:, None]


def preference_loss(
    parameters: Parameters,
    policy_logits: Tensor,
    reference_logits: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    *,
    kl: Tensor | None,
    margin: float | None = None,
    candidates: Tensor | None = None,
) -> Tensor:
    """Return the loss of the objective that a trial's parameters name, on attacked images.

    Args:
        policy_logits, reference_logits, chosen, rejected: as in ``dpo``.
        kl: as in ``kto``.
        margin: m0, the reference's mean margin of rejected over chosen on the preference data, in nats; needed if beta
            is given relative to m0.
        candidates: as in ``balanced_cross_entropy``; for the target ``neutral``.

    Returns:
        A scalar.
    """
    if parameters.objective == "cross_entropy":
        if parameters.target == "neutral":
            assert candidates is not None
            return balanced_cross_entropy(policy_logits, candidates)
        return cross_entropy(policy_logits, chosen)
    pair = (policy_logits, reference_logits, chosen, rejected)
    if parameters.own_objective is not None:
        detached = (policy_logits, reference_logits.detach(), chosen, rejected)
        return own_losses(parameters, detached, own_beta(parameters, margin)).mean()
    beta = beta_of(parameters, margin)
    if parameters.objective == "dpo":
        return dpo(*pair, beta=beta, label_smoothing=parameters.label_smoothing)
    if parameters.objective == "ipo":
        return ipo(*pair, beta=beta)
    assert parameters.objective == "kto" and kl is not None
    return kto(
        *pair,
        beta=beta,
        kl=kl,
        desirable_weight=parameters.desirable_weight,
        undesirable_weight=parameters.undesirable_weight,
    )


def beta_of(parameters: Parameters, margin: float | None) -> float:
    """Return beta, given m0 (see ``preference_loss``).

    With the target ``neutral`` beta is 1 / (2 m0): IPO then moves every margin by m0, which makes its mean 0.

    Raises:
        ValueError: m0 is needed and not above 0.
    """
    if parameters.beta is not None:
        return parameters.beta
    assert margin is not None, "m0 is measured where it is needed"
    if margin <= 0:
        raise ValueError(
            f"m0, the reference's mean margin on the preference data, is {margin:.3g}: beta cannot be "
            "given relative to it; give `beta` itself"
        )
    return 1 / (2 * margin) if parameters.target == "neutral" else (parameters.beta_m0 or 0.0) / margin


def own_beta(parameters: Parameters, margin: float | None) -> float | None:
    """Return beta of an objective of the user's own, given m0; None if the trial has none."""
    given = parameters.beta is not None or parameters.beta_m0 is not None
    return beta_of(parameters, margin) if given else None


def _margin(policy_logits: Tensor, reference_logits: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return h (B,): the margin of chosen over rejected in the policy minus that in the reference.

    The normaliser of the softmax cancels.
    """
    reference_logits = reference_logits.detach()
    return (_take(policy_logits, chosen) - _take(policy_logits, rejected)) - (
        _take(reference_logits, chosen) - _take(reference_logits, rejected)
    )


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)

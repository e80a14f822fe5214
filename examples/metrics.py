"""A metric beyond those that sweeper brings: a function of logits, as a spec names it.

Its arguments are those of an objective (``examples/objectives.py``), with the true class and the written class of each
image; it returns a number for each image, (B,), whose mean is the metric.
"""

from __future__ import annotations

from torch import Tensor


def doubt(policy_logits: Tensor, reference_logits: Tensor, true: Tensor, written: Tensor) -> Tensor:
    """Return 1 - pi(true|x): the probability that the model gives to wrong classes."""
    return 1 - policy_logits.softmax(-1).gather(1, true[:, None])[:, 0]

"""A concept (an attribute with two or more values) in the embeddings of images and prompts, and W computed from it.

Embeddings are normalised. g_I (images) and g_T (prompts) are half the difference between the mean embeddings of the
first and the second value, each mean taken class by class and then over classes. Derivation and proofs:
docs/transform.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Concept:
    """Mean embeddings of a concept's values, class by class."""

    image_means: Tensor
    """(C, V, d): mean embedding of the images of each class and value; NaN if there are none."""
    prompts: Tensor
    """(C, V, d): embedding of the prompt that names class and value."""

    @property
    def image_direction(self) -> Tensor:
        """Return g_I (d,), between the first two values."""
        return _direction(self.image_means)

    @property
    def text_direction(self) -> Tensor:
        """Return g_T (d,), between the first two values."""
        return _direction(self.prompts)

    def cosine(self) -> float:
        """Return the cosine of g_I and g_T."""
        return float(F.cosine_similarity(self.image_direction, self.text_direction, dim=0))

    def class_cosines(self) -> list[float]:
        """Return the cosine of the two directions in each class; NaN for a class that lacks a value."""
        images = self.image_means[:, 0] - self.image_means[:, 1]
        prompts = self.prompts[:, 0] - self.prompts[:, 1]
        return [float(cosine) for cosine in F.cosine_similarity(images, prompts, dim=1)]

    def text_subspace(self) -> Tensor:
        """Return an orthonormal basis (V - 1, d) of the mean differences between the values' prompts."""
        means = self.prompts.mean(0)
        _, _, basis = torch.linalg.svd((means - means.mean(0)).double(), full_matrices=False)
        return basis[: len(means) - 1].to(means.dtype)


def concept_of(embeddings: Tensor, classes: Tensor, values: Tensor, prompts: Tensor) -> Concept:
    """Return the mean embeddings of a concept's values, class by class.

    Args:
        embeddings: (N, d) of images.
        classes, values: (N,) class and value of each image.
        prompts: (C, V, d) embeddings of the prompts that name class and value.
    """
    count_c, count_v, width = prompts.shape
    group = classes.to(embeddings.device) * count_v + values.to(embeddings.device)
    sums = torch.zeros(count_c * count_v, width, device=embeddings.device).index_add(0, group, embeddings)
    counts = torch.bincount(group, minlength=count_c * count_v)[:, None]
    return Concept((sums / counts).reshape(count_c, count_v, width), prompts)


def needed_ratio(cosine: float) -> float:
    """Return cot(theta / 2): how many times more W must stretch g_I - g_T than g_I + g_T to reverse the concept.

    It is infinite for parallel directions: no W for both towers reverses the concept then. A W with a smaller condition
    number cannot reverse it either (Wielandt's inequality).

    Args:
        cosine: cos(theta) of g_I and g_T.
    """
    half = math.acos(max(-1.0, min(1.0, cosine))) / 2
    return math.inf if half == 0 else 1 / math.tan(half)


def closed_form(concept: Concept) -> Tensor:
    """Return W (d, d) that shrinks g_I + g_T and stretches g_I - g_T by cot(theta / 2) each.

    The ratio of its singular values is cot(theta / 2)^2. W^t neutralises the concept at t = 1/2 and reverses it at t =
    1, where the angle between the two directions is pi - theta.

    Raises:
        ValueError: the directions are parallel.
    """
    image, text = (F.normalize(direction, dim=0) for direction in (concept.image_direction, concept.text_direction))
    ratio = needed_ratio(float(image @ text))
    if not math.isfinite(ratio) or (image - text).norm() < 1e-4:
        raise ValueError(
            "the directions of the concept in images and in prompts are parallel: no W for both towers reverses it; "
            "write towers: separate, or target: neutral"
        )
    shrunk, stretched = F.normalize(image + text, dim=0), F.normalize(image - text, dim=0)
    identity = torch.eye(len(image), device=image.device)
    return identity + (1 / ratio - 1) * torch.outer(shrunk, shrunk) + (ratio - 1) * torch.outer(stretched, stretched)


def projection(concept: Concept) -> Tensor:
    """Return W (d, d) that removes the differences between the values' prompts: I - B^T B, B a basis of these."""
    basis = concept.text_subspace()
    return torch.eye(basis.shape[1], device=basis.device) - basis.T @ basis


def _direction(means: Tensor) -> Tensor:
    halves = (means[:, 0] - means[:, 1]) / 2
    return halves[halves.isfinite().all(1)].mean(0)

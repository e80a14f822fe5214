"""The linear transform W on frozen embeddings: start, penalty, strength, folding into a CLIP's projections.

Source: arXiv 2411.08923 section 3.4. W (r, d) is applied to image and text embeddings alike and the cosine is taken
after it. (The class in the authors' release does not renormalise after W; such a model cannot be folded into CLIP.)
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.clip import ImageTower, OpenClip

SINGULAR_VALUE_RANGE = (0.1, 10.0)
"""For t < 0: trained singular values span three decades, and S^-0.5 would blow up one direction."""


def initial_transform(embeddings: Tensor, rank: int) -> Tensor:
    """W (rank, d) with orthonormal rows: the directions in which the (N, d) embeddings have most of their energy.

    At full rank this is the reference policy exactly; below it a random start would lose most of the image.
    """
    embeddings = embeddings.double()
    _, vectors = torch.linalg.eigh(embeddings.T @ embeddings)
    return vectors.flip(1)[:, :rank].T.float().contiguous()


def apply_transform(w: Tensor, embeddings: Tensor) -> Tensor:
    """(N, d) embeddings -> (N, r), normalised."""
    return F.normalize(embeddings @ w.T, dim=-1)


def penalty(w: Tensor) -> Tensor:
    """||I - W W^T||_F^2, scalar. Squared: the unsquared norm has a gradient of constant size at W = I and pins it."""
    return (torch.eye(len(w), device=w.device, dtype=w.dtype) - w @ w.T).square().sum()


def power(w: Tensor, t: float) -> Tensor:
    """W^t = U S^t V^T (r, d) for W = U S V^T: 1 the learned W, 0 the untouched angles, below 0 the reverse.

    For t < 0 the singular values are clamped to ``SINGULAR_VALUE_RANGE``.
    """
    if t == 1.0:
        return w
    u, s, vt = torch.linalg.svd(w.double(), full_matrices=False)
    if t < 0:
        s = s.clamp(*SINGULAR_VALUE_RANGE)
    return ((u * s**t) @ vt).to(w.dtype)


def fold(model: OpenClip, w: Tensor) -> OpenClip:
    """A copy of an open_clip model whose own projections include W (r, d): plain CLIP with ``embed_dim`` r.

    Raises:
        ValueError: a tower of this model does not end in a linear projection.
    """
    model = copy.deepcopy(model).cpu()
    w = w.detach().cpu().double()
    with torch.no_grad():
        _fold_image_tower(model.visual, w)
        text = model if hasattr(model, "text_projection") else model.text
        if isinstance(text.text_projection, nn.Linear):
            text.text_projection = _fold_linear(text.text_projection, w)
        elif isinstance(text.text_projection, nn.Parameter):
            text.text_projection = _fold_matrix(text.text_projection, w)
        else:
            raise ValueError(f"the text tower of a {type(model).__name__} has no linear projection to fold W into")
    return model


def _fold_image_tower(visual: ImageTower, w: Tensor) -> None:
    if isinstance(getattr(visual, "proj", None), nn.Parameter):
        visual.proj = _fold_matrix(visual.proj, w)
    elif hasattr(visual, "attnpool"):
        visual.attnpool.c_proj = _fold_linear(visual.attnpool.c_proj, w)
    elif hasattr(visual, "head") and isinstance(getattr(visual.head, "proj", None), nn.Linear):
        visual.head.proj = _fold_linear(visual.head.proj, w)
    else:
        raise ValueError(
            f"the image tower {type(visual).__name__} does not end in a linear projection; W cannot be folded into it"
        )


def _fold_matrix(projection: nn.Parameter, w: Tensor) -> nn.Parameter:
    """(width, d) @ (d, r)."""
    return nn.Parameter((projection.double() @ w.T).to(projection.dtype))


def _fold_linear(linear: nn.Linear, w: Tensor) -> nn.Linear:
    folded = nn.Linear(linear.in_features, len(w), bias=linear.bias is not None)
    folded.weight.copy_(w @ linear.weight.double())
    if linear.bias is not None:
        folded.bias.copy_(w @ linear.bias.double())
    return folded

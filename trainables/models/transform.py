"""The linear transform W on frozen embeddings: start, penalty, strength, folding into a CLIP's projections.

W (r, d) is applied to image and text embeddings alike, and the cosine is taken after it (Afzali et al. 2025, section
3.4). The class in the authors' release does not normalise again after W; such a model cannot be folded into CLIP.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.towers import ImageTower, OpenClip, is_resnet, text_tower

_ENERGY_ROWS = 65_536
"""Embeddings that are converted to float64 at a time."""
SINGULAR_VALUE_RANGE = (0.1, 10.0)
"""Bounds of singular values for t < 0: trained ones span three decades, and S^-0.5 would blow up one direction."""


def initial_transform(images: Tensor, rank: int, prompts: Tensor | None = None) -> Tensor:
    """Return W (rank, d) with orthonormal rows: the main directions of the prompts, then the remaining ones of images.

    At full rank this is exactly the reference policy. If the rank is at least that of the prompts' span, the
    reference's answers over these prompts are kept: the part of an image that W drops only scales its logits. Measured
    in docs/transform.md.

    Args:
        images: embeddings (N, d).
        prompts: embeddings (C, d) of the classes that matter; without them only the images count.
    """
    energy = _energy(images)
    if prompts is None:
        return _main_directions(energy, rank).float()
    spanned = int(torch.linalg.matrix_rank(prompts.double(), rtol=1e-5))
    span = _main_directions(prompts.double().T @ prompts.double(), min(rank, spanned))
    inside = span.T @ span
    others = torch.eye(len(energy), device=energy.device, dtype=energy.dtype) - inside
    # Energy below zero inside the span: the span stays out even if there are fewer images than directions.
    rest = _main_directions(others @ energy @ others - inside, rank - len(span))
    return torch.cat([span, rest]).float()


def _energy(embeddings: Tensor) -> Tensor:
    """Return the sum of outer products (d, d) of embeddings (N, d) over their squared length, in float64."""
    parts = embeddings.split(_ENERGY_ROWS)
    products = [part.double().T @ part.double() for part in parts]
    lengths = [part.double().square().sum() for part in parts]
    return torch.stack(products).sum(0) / torch.stack(lengths).sum(0)


def _main_directions(energy: Tensor, count: int) -> Tensor:
    """Return (count, d) orthonormal rows: the eigenvectors with the largest eigenvalues of a (d, d) matrix."""
    _, vectors = torch.linalg.eigh(energy)
    return vectors.flip(1)[:, :count].T.contiguous()


def residual_transform(a: Tensor, b: Tensor) -> Tensor:
    """Return W = I + B A (d, d) of A (r, d) and B (d, r): the learned change has rank r, and nothing is dropped.

    As in LoRA (Hu et al. 2022, arXiv 2106.09685) B starts at zero, so step 0 is the reference policy at any rank.
    """
    return torch.eye(a.shape[1], device=a.device, dtype=a.dtype) + b @ a


def apply_transform(w: Tensor, embeddings: Tensor) -> Tensor:
    """Return W applied to embeddings, (N, d) -> (N, r), normalised."""
    return F.normalize(embeddings @ w.T, dim=-1)


def penalty(w: Tensor) -> Tensor:
    """Return ||I - W W^T||_F^2, a scalar.

    It is squared because the unsquared norm has a gradient of constant size at W = I, which keeps W there.
    """
    return (torch.eye(len(w), device=w.device, dtype=w.dtype) - w @ w.T).square().sum()


def identity_distance(w: Tensor) -> Tensor:
    """Return ||W^T W - I||_F / sqrt(d) of W (r, d), a scalar: how far similarities are from the untouched model's.

    It is the root mean square of (s^2 - 1) over the d directions, so models of different width are comparable. A
    direction that W drops counts 1: at rank r < d orthonormal rows have sqrt(1 - r / d), not 0.
    """
    return (w.T @ w - torch.eye(w.shape[1], device=w.device, dtype=w.dtype)).norm() / w.shape[1] ** 0.5


def power(w: Tensor, t: float) -> Tensor:
    """Return W^t = U S^t V^T (r, d) for W = U S V^T.

    t = 1 gives the learned W, 0 the untouched angles, t < 0 the reverse. For t < 0 the singular values are clamped to
    ``SINGULAR_VALUE_RANGE``.
    """
    if t == 1.0:
        return w
    u, s, vt = torch.linalg.svd(w.double(), full_matrices=False)
    if t < 0:
        s = s.clamp(*SINGULAR_VALUE_RANGE)
    return ((u * s**t) @ vt).to(w.dtype)


def foldable(model: OpenClip) -> str | None:
    """Return why W cannot be folded into a model of this architecture; None if it can."""
    return _image_reason(model.visual) or _text_reason(model)


def fold(
    model: OpenClip, config: Mapping[str, Any], w: Tensor, text_w: Tensor | None = None
) -> tuple[OpenClip, dict[str, Any]]:
    """Return a copy of an open_clip model whose own projections include W (r, d), and the ``model_cfg`` that builds it.

    ViT: ``visual.proj``. ResNet: ``attnpool.c_proj``, weight and bias. timm: the linear head, that of an attention
    pool, or the trunk's own classifier; a tower that ends in pooling (SigLIP) gets a linear head. Text:
    ``text_projection``, likewise.

    Args:
        text_w: another W for the text tower.

    Raises:
        ValueError: a tower of this model does not end in a linear projection, see ``foldable``.
    """
    reason = foldable(model)
    if reason is not None:
        raise ValueError(f"W cannot be folded into this model: {reason}")
    model, folded = copy.deepcopy(model).cpu(), copy.deepcopy(dict(config))
    w = w.detach().cpu().double()
    text_w = w if text_w is None else text_w.detach().cpu().double()
    folded["embed_dim"] = len(w)
    with torch.no_grad():
        _fold_image_tower(model.visual, folded["vision_cfg"], w)
        _fold_text_tower(text_tower(model), folded["text_cfg"], text_w)
    return model, folded


def _image_reason(visual: ImageTower) -> str | None:
    if is_resnet(visual):
        return None
    if isinstance(getattr(visual, "proj", None), nn.Parameter):
        pooled = getattr(visual, "attn_pool", None) is not None
        return "its attention pooling is as wide as its embedding, and would change with it" if pooled else None
    if not hasattr(visual, "trunk"):
        return f"its image tower {type(visual).__name__} does not end in a linear projection"
    names = [name for name, _ in visual.head.named_children()]
    if names == ["pool"] and isinstance(visual.head.pool.proj, nn.Linear):
        return None
    if "pool" in names:
        return "its image tower pools by attention at the width of the embedding, which would change with it"
    if "mlp" in names:
        return "its image tower ends in an MLP whose hidden width follows the embedding's, and would change with it"
    classifier = visual.trunk.get_classifier()
    if names or isinstance(classifier, nn.Linear | nn.Identity):
        return None
    return f"its image tower ends in a {type(classifier).__name__}, which is not linear"


def _text_reason(model: OpenClip) -> str | None:
    text = text_tower(model)
    if hasattr(text, "text_projection"):
        return None
    kind = type(text.proj).__name__
    return None if isinstance(text.proj, nn.Linear) else f"its text tower ends in a {kind}, which is not one linear map"


def _fold_image_tower(visual: ImageTower, config: dict[str, Any], w: Tensor) -> None:
    if is_resnet(visual):
        visual.attnpool.c_proj = _fold_linear(visual.attnpool.c_proj, w)
    elif isinstance(getattr(visual, "proj", None), nn.Parameter):
        visual.proj = _fold_matrix(visual.proj, w)
    elif hasattr(visual.head, "pool"):
        visual.head.pool.proj = _fold_linear(visual.head.pool.proj, w)
    elif hasattr(visual.head, "proj"):
        visual.head.proj = _fold_linear(visual.head.proj, w)
    elif isinstance(visual.trunk.get_classifier(), nn.Linear):
        classifier = visual.trunk.get_classifier()
        name = next(name for name, module in visual.trunk.named_modules() if module is classifier)
        visual.trunk.set_submodule(name, _fold_linear(classifier, w))
    else:
        visual.head.add_module("proj", _linear(w))
        config |= {"timm_proj": "linear", "timm_proj_bias": False}


def _fold_text_tower(text: Any, config: dict[str, Any], w: Tensor) -> None:
    if not hasattr(text, "text_projection"):
        text.proj = _fold_linear(text.proj, w)
    elif isinstance(text.text_projection, nn.Linear):
        text.text_projection = _fold_linear(text.text_projection, w)
    elif text.text_projection is not None:
        text.text_projection = _fold_matrix(text.text_projection, w)
    else:
        text.text_projection = nn.Parameter(w.T.float().contiguous())
        config |= {"proj_type": "linear", "proj_bias": False}


def _fold_matrix(projection: nn.Parameter, w: Tensor) -> nn.Parameter:
    """Return a projection (width, d) times W^T (d, r)."""
    return nn.Parameter((projection.double() @ w.T).to(projection.dtype))


def _fold_linear(linear: nn.Linear, w: Tensor) -> nn.Linear:
    bias = None if linear.bias is None else w @ linear.bias.double()
    return _linear(w @ linear.weight.double(), bias)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)
    return linear

"""Image towers in parts: the blocks that ``last_blocks`` counts, the layers before and after them, recomputation.

open_clip's own functions are not used: ``lock`` has another meaning in each tower and refuses ResNets, and
``set_grad_checkpointing`` of a ResNet is an empty function (open_clip 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

OpenClip = Any
"""``open_clip.CLIP`` or ``CustomTextCLIP``, which have no types and no common class."""
ImageTower = Any
"""``visual`` of a CLIP: open_clip's VisionTransformer, ModifiedResNet or TimmModel."""
TimmKind = Literal["vit", "eva", "convnext", "fastvit", "swin"]
"""Kinds of timm trunks that can be split, see ``_timm_kind``."""


def split_blocks(visual: ImageTower) -> list[nn.Module] | None:
    """Return the parts of an image tower that ``last_blocks`` counts, in order; None for an unknown tower.

    ViT: its residual blocks. ResNet: its four stages (attention pooling belongs to the last). timm: the trunk's
    ``blocks`` (transformers), ``stages`` (ConvNeXt, FastViT), ``layers`` (Swin) or ``layer1`` to ``layer4`` (ResNet).
    """
    if is_resnet(visual):
        return _stages(visual)
    if hasattr(visual, "transformer") and hasattr(visual.transformer, "resblocks"):
        return list(visual.transformer.resblocks)
    name = _blocks_name(visual)
    if name is None:
        return None
    return _stages(visual.trunk) if name == "layer4" else list(getattr(visual.trunk, name))


def last_parameters(visual: ImageTower, blocks: int) -> list[str]:
    """Return the names of the parameters that ``tune: last_blocks`` trains: the last blocks and all layers after them.

    Raises:
        ValueError: the tower has fewer blocks, or its blocks are not known.
    """
    parts = split_blocks(visual)
    if parts is None:
        tower = type(getattr(visual, "trunk", visual)).__name__
        raise ValueError(f"tune last_blocks: the blocks of a {tower} tower are not known; use visual")
    if blocks > len(parts):
        raise ValueError(f"blocks: {blocks} of an image tower that has {len(parts)}")
    tuned = {id(parameter) for part in parts[-blocks:] for parameter in part.parameters()}
    for module in _after_blocks(visual):
        tuned |= {id(parameter) for parameter in module.parameters()}
    if isinstance(getattr(visual, "proj", None), nn.Parameter):
        tuned.add(id(visual.proj))
    return [name for name, parameter in visual.named_parameters() if id(parameter) in tuned]


def can_split(visual: ImageTower) -> bool:
    """Return whether ``trunk`` and ``head`` support a tower.

    They support open_clip's ViT and ResNet, and timm's plain ViT (SigLIP's), Eva (EVA02, PE-Core), ConvNeXt, FastViT
    (MobileCLIP) and Swin.
    """
    if is_resnet(visual) or _timm_kind(visual) is not None:
        return True
    transformer: Any = getattr(visual, "transformer", None)
    return hasattr(visual, "_embeds") and hasattr(transformer, "resblocks") and bool(transformer.batch_first)


def trunk(visual: ImageTower, pixels: Tensor, blocks: int, *, checkpointed: bool = False) -> Any:
    """Return the activations in front of the last ``blocks`` blocks.

    They are (B, tokens, width) of a ViT or Eva, (B, C, H, W) of a ResNet, ConvNeXt or FastViT, (B, H, W, C) of a Swin.
    """
    if is_resnet(visual):
        x = _run(visual.stem, pixels, checkpointed)
    elif _timm_kind(visual) is not None:
        x = _timm_stem(visual, pixels)
    else:
        x = visual._embeds(pixels)
    steps = _steps(visual, x)
    for step in steps[: len(steps) - blocks]:
        x = _run(step, x, checkpointed)
    return x


def head(visual: ImageTower, activations: Tensor, blocks: int, *, checkpointed: bool = False) -> Any:
    """Return the image features (B, d) that the rest of the tower computes from the activations of ``trunk``.

    Args:
        checkpointed: recompute the activations inside a block in the backward pass.
    """
    x, steps = activations, _steps(visual, activations)
    assert blocks > 0
    for step in steps[len(steps) - blocks :]:
        x = _run(step, x, checkpointed)
    if is_resnet(visual):
        return visual.attnpool(x)
    if _timm_kind(visual) is not None:
        return visual.head(visual.trunk.forward_head(_timm_norm(visual, x)))
    pooled, _ = visual._pool(x)
    return pooled if visual.proj is None else pooled @ visual.proj


def features(visual: ImageTower, pixels: Tensor, *, checkpointed: bool = False) -> Any:
    """Return the features (B, d) that the whole tower computes from normalised pixels (B, 3, H, W).

    Args:
        checkpointed: recompute the activations inside a block in the backward pass.
    """
    if can_split(visual) and (checkpointed or _answers_by_class_token(visual)):
        parts = split_blocks(visual)
        assert parts is not None
        blocks = len(parts) if checkpointed else 1
        return head(visual, trunk(visual, pixels, blocks, checkpointed=checkpointed), blocks, checkpointed=checkpointed)
    if not checkpointed:
        return visual(pixels)
    visual.trunk.set_grad_checkpointing(True)
    try:
        return visual(pixels)
    finally:
        visual.trunk.set_grad_checkpointing(False)


def shortened(model: OpenClip, tokens: Tensor) -> Tensor:
    """Return token ids (..., L) without the padding behind the longest prompt if ``text_features`` allows it."""
    if not _reads_causally(model):
        return tokens
    return tokens[..., : int(tokens.argmax(-1).max()) + 1]


def text_features(model: OpenClip, tokens: Tensor) -> Tensor:
    """Return the text features (N, d) of token ids (N, L).

    open_clip 3.3 pads every prompt to the whole context, 77 tokens in most models. No token of a causal tower attends
    to the padding behind it, so ``shortened`` prompts have the same features, for a fifth of the work.
    """
    length = tokens.shape[-1]
    if not _reads_causally(model) or length == model.context_length:
        encoded: Tensor = model.encode_text(tokens)
        return encoded
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    last = x[torch.arange(len(x), device=x.device), tokens.argmax(-1)]
    projection = model.text_projection
    encoded = projection(last) if isinstance(projection, nn.Linear) else last @ projection
    return encoded


def check_checkpointing(model: OpenClip, *, text: bool) -> None:
    """Check that the towers that are trained can recompute activations.

    Args:
        text: whether the text tower is trained too.

    Raises:
        ValueError: one of them cannot.
    """
    from open_clip.transformer import ResidualAttentionBlock

    advice = "set training.gradient_checkpointing: false (and a smaller micro_batch_size)"
    if not can_split(model.visual):
        try:
            model.visual.trunk.set_grad_checkpointing(True)
            model.visual.trunk.set_grad_checkpointing(False)
        except (AssertionError, AttributeError) as error:  # timm reports in this way that a trunk cannot
            name = type(getattr(model.visual, "trunk", model.visual)).__name__
            raise ValueError(f"gradient_checkpointing: a {name} image tower does not support it; {advice}") from error
    blocks = getattr(text_tower(model).transformer, "resblocks", ())
    # open_clip 3.3 recomputes its own blocks only: custom blocks get arguments that they do not accept.
    if text and not (blocks and all(isinstance(block, ResidualAttentionBlock) for block in blocks)):
        raise ValueError(f"gradient_checkpointing: the trained text tower does not support it; {advice}")


def text_tower(model: OpenClip) -> Any:
    """Return the module that holds ``transformer`` and ``text_projection`` (``proj`` of a Hugging Face tower).

    It is the model itself or its ``text``.
    """
    return model.text if hasattr(model, "text") else model


def is_resnet(visual: ImageTower) -> bool:
    """Return whether a tower is open_clip's own ResNet."""
    return hasattr(visual, "layer4")


def prefers_channels_last(visual: ImageTower) -> bool:
    """Return whether pixels and weights of a tower are to be kept in channels_last: if it has several spatial
    convolutions.

    ResNets and MobileNets are faster so. ConvNeXt and ViTamin, whose first normalisation changes to channels_last
    anyway, are as fast, and so are a plain ViT and a Swin, which have one such convolution
    (benchmarks/results/memory_format.md).
    """
    convolutions = [module for module in visual.modules() if isinstance(module, nn.Conv2d)]
    if any(breaks_in_channels_last(module) for module in convolutions):
        return False
    return sum(max(module.kernel_size) > 1 for module in convolutions) > 1


def breaks_in_channels_last(convolution: nn.Conv2d) -> bool:
    """Return whether the backward pass of a convolution overwrites foreign memory of a CPU in channels_last.

    oneDNN 3.12 (torch 2.14) does so for 1x1 convolutions with a stride and fewer input channels than a vector register
    takes, 16 with AVX-512: issue 6035 of uxlfoundation/oneDNN. The stem of a FastViT has one, on the three colours.
    """
    pointwise = max(convolution.kernel_size) == 1 and max(convolution.stride) > 1
    return pointwise and convolution.groups == 1 and convolution.in_channels < 16


def _reads_causally(model: OpenClip) -> bool:
    """Return whether a model is open_clip's own CLIP with OpenAI's text tower.

    In that tower the features are those of the end-of-text token, which has the highest id.
    """
    import open_clip

    own = type(model) is open_clip.CLIP and model.text_pool_type == "argmax"
    return own and model.attn_mask is not None and model.text_projection is not None


def _answers_by_class_token(visual: ImageTower) -> bool:
    """Return whether a tower is open_clip's ViT whose features are the class token's: its last block needs no other."""
    from open_clip.transformer import ResidualAttentionBlock

    if not can_split(visual) or not hasattr(visual, "transformer"):
        return False
    plain = type(visual.transformer.resblocks[-1]) is ResidualAttentionBlock
    return plain and visual.pool_type == "tok" and visual.attn_pool is None


def _class_token(block: Any, x: Tensor) -> Tensor:
    """Run open_clip's residual block for the first token only: (B, tokens, width) -> (B, 1, width).

    This token attends to all tokens. Keys and values are a sixth of a block's work; the rest is saved for all other
    tokens.
    """
    normed, first = block.ln_1(x), x[:, :1]
    first = first + block.ls_1(block.attention(q_x=normed[:, :1], k_x=normed, v_x=normed))
    output: Tensor = first + block.ls_2(block.mlp(block.ln_2(first)))
    return output


def _steps(visual: ImageTower, x: Tensor) -> list[Callable[[Tensor], Any]]:
    """Return the blocks as functions of activations alone.

    Args:
        x: activations (B, ...) in front of any block; of an Eva their shape tells the grid of patches.
    """
    parts = split_blocks(visual)
    assert parts is not None
    if _timm_kind(visual) == "eva":
        return [partial(block, rope=rope) for block, rope in zip(parts, _ropes(visual.trunk, x), strict=True)]
    if _answers_by_class_token(visual):
        return [*parts[:-1], partial(_class_token, parts[-1])]
    return list(parts)


def _ropes(eva: Any, x: Tensor) -> list[Any]:
    """Return the rotary position embeddings that timm's Eva gives to each of its blocks; None for those without.

    They depend on the grid of patches alone. timm computes them where it adds the absolute position embeddings, in one
    function with cases for each kind of them, so patches of zeros go through it.

    Args:
        x: activations (B, tokens, width) of square images.
    """
    count = x.shape[1] - eva.num_prefix_tokens
    grid = (math.isqrt(count), math.isqrt(count)) if eva.dynamic_img_size else (count,)
    _, rope = eva._pos_embed(x.new_zeros(1, *grid, x.shape[2]))
    return list(rope) if eva.rope_mixed else [rope] * len(eva.blocks)


def _run(step: Callable[[Tensor], Any], x: Tensor, checkpointed: bool) -> Any:
    if not checkpointed:
        return step(x)
    if not hasattr(step, "grad_checkpointing"):
        return checkpoint(step, x, use_reentrant=False)
    # A stage of timm recomputes its blocks one by one, which takes less memory than recomputing the whole stage.
    stage: Any = step
    stage.grad_checkpointing = True
    try:
        return stage(x)
    finally:
        stage.grad_checkpointing = False


def _stages(resnet: Any) -> list[nn.Module]:
    return [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]


def _blocks_name(visual: ImageTower) -> str | None:
    names = dict(visual.trunk.named_children()) if hasattr(visual, "trunk") else {}
    return next((name for name in ("blocks", "stages", "layers", "layer4") if name in names), None)


def _after_blocks(visual: ImageTower) -> list[nn.Module]:
    """Return the modules of a trunk after its blocks; timm registers modules in the order in which they run."""
    if not hasattr(visual, "trunk"):
        after = [getattr(visual, name, None) for name in ("ln_post", "attn_pool", "attnpool")]
        return [module for module in after if isinstance(module, nn.Module)]
    children = list(visual.trunk.named_children())
    place = [name for name, _ in children].index(_blocks_name(visual) or "")
    return [module for _, module in children[place + 1 :]] + [visual.head]


def _timm_kind(visual: ImageTower) -> TimmKind | None:
    """Return the kind of a timm trunk that can be split; None for other towers.

    A subclass with a forward pass of its own is another tower.
    """
    if not hasattr(visual, "trunk"):
        return None
    from timm.models.convnext import ConvNeXt
    from timm.models.eva import Eva
    from timm.models.fastvit import FastVit
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    kinds: dict[TimmKind, Any] = {
        "vit": VisionTransformer,
        "eva": Eva,
        "convnext": ConvNeXt,
        "fastvit": FastVit,
        "swin": SwinTransformer,
    }
    trunk_type = type(visual.trunk)
    for kind, known in kinds.items():
        if (
            issubclass(trunk_type, known)
            and trunk_type.forward_features is known.forward_features
            and trunk_type.forward is known.forward
        ):
            return kind
    return None


def _timm_stem(visual: ImageTower, pixels: Tensor) -> Any:
    """Return the activations in front of a timm trunk's first block."""
    timm_trunk, kind = visual.trunk, _timm_kind(visual)
    if kind == "vit":
        return timm_trunk.norm_pre(timm_trunk.patch_drop(timm_trunk._pos_embed(timm_trunk.patch_embed(pixels))))
    if kind == "eva":
        x, _ = timm_trunk._pos_embed(timm_trunk.patch_embed(pixels))
        return timm_trunk.norm_pre(x)
    return timm_trunk.patch_embed(pixels) if kind == "swin" else timm_trunk.stem(pixels)


def _timm_norm(visual: ImageTower, x: Tensor) -> Any:
    """Return the input of timm's ``forward_head`` for the activations behind a trunk's last block."""
    timm_trunk, kind = visual.trunk, _timm_kind(visual)
    if kind == "fastvit":
        return timm_trunk.final_conv(x)
    return timm_trunk.norm_pre(x) if kind == "convnext" else timm_trunk.norm(x)

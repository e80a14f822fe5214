"""CLIP as a policy over class prompts: pi(y|x) = softmax over prompts of logit_scale * cos(image, text) (+ bias).

A policy takes what its scope makes of images: frozen embeddings (``transform``), frozen trunk activations
(``last_blocks``, where the tower can be split) or pixels. Its reference is the same CLIP untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.clip import Clip
from trainables.models.towers import (
    OpenClip,
    check_checkpointing,
    features,
    head,
    last_parameters,
    text_features,
    text_tower,
)
from trainables.models.transform import apply_transform, initial_transform, penalty, power, residual_transform
from trainables.settings.parameters import Parameters

InputKind = Literal["embeddings", "activations", "pixels"]


class Policy(nn.Module):
    """The CLIP being tuned. ``clip`` itself is tuned in place: one process holds one model (see ``restore``)."""

    def __init__(
        self,
        clip: Clip,
        parameters: Parameters,
        *,
        bf16: bool = False,
        embeddings: Tensor | None = None,
        prompts: Tensor | None = None,
        from_activations: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        """A policy at the reference's weights.

        Args:
            bf16: inside the towers; everything after them is float32.
            embeddings, prompts: the reference's of images (N, d) and class prompts (C, d), where ``tune: transform``
                starts.
            from_activations: with ``tune: last_blocks``, take the frozen trunk's activations instead of pixels.
            gradient_checkpointing: activations of the trained towers are computed again in the backward pass.

        Raises ValueError for a rank above the embedding width, more blocks than the tower has, and a tower that cannot
        compute its activations again.
        """
        super().__init__()
        self.tune = parameters.tune
        self.blocks = parameters.blocks or 0
        self._residual = parameters.form == "residual"
        self._at_strength: Tensor | None = None
        """W^t while it is not the W of the parameters."""
        self._clip, self._bf16 = clip, bf16
        self._from_activations = from_activations
        self.trains_text = self.tune == "all" or (clip.trains_text and self.tune in ("last_blocks", "visual"))
        """Then ``forward`` takes token ids for prompts, and logit scale and bias are trained too."""
        self._checkpointing = gradient_checkpointing and self.tune != "transform"
        if self._checkpointing:
            check_checkpointing(clip.model, text=self.trains_text)
        model = clip.model.requires_grad_(False)
        self.logit_scale, self.logit_bias = model.logit_scale, getattr(model, "logit_bias", None)
        if self.tune == "transform":
            assert embeddings is not None, "transform starts from the reference's embeddings"
            rank = clip.embed_dim if parameters.rank is None else parameters.rank
            if rank > clip.embed_dim:
                raise ValueError(f"rank {rank} is above the embedding width {clip.embed_dim} of the model")
            if self._residual:
                self.a = nn.Parameter(initial_transform(embeddings, rank).to(clip.device))
                self.b = nn.Parameter(torch.zeros_like(self.a.T, memory_format=torch.contiguous_format))
            else:
                self.w = nn.Parameter(initial_transform(embeddings, rank, prompts).to(clip.device))
        else:
            if self.trains_text:
                self.model = model.requires_grad_(True)
            else:
                self.visual = model.visual
            names = set(last_parameters(model.visual, self.blocks)) if self.tune == "last_blocks" else None
            for name, parameter in model.visual.named_parameters():
                parameter.requires_grad_(names is None or name in names)
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        self._reference = {name: value.detach().clone() for name, value in trained.items()}

    @property
    def input_kind(self) -> InputKind:
        """What ``forward`` takes for images."""
        if self.tune == "transform":
            return "embeddings"
        return "activations" if self._from_activations else "pixels"

    @property
    def matrix(self) -> Tensor:
        """W of ``transform`` as it is now: (r, d), or (d, d) of the residual form."""
        if self._at_strength is not None:
            return self._at_strength
        return residual_transform(self.a, self.b) if self._residual else self.w

    def tuned(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if name in self._reference}

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Logits (B, C).

        Args:
            images: embeddings (B, d), trunk activations (B, ...) or uint8 pixels (B, H, W, 3), see ``input_kind``.
            prompts: reference's text embeddings (C, d); token ids (T, C, L) of T templates where
                ``trains_text``.
        """
        return self.logits(self.image_embeddings(images), self.text_embeddings(prompts))

    def logits(self, image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
        """Normalised (B, r) and (C, r) -> (B, C)."""
        logits = self.logit_scale.exp() * image_embeddings @ text_embeddings.T
        return logits if self.logit_bias is None else logits + self.logit_bias

    def image_embeddings(self, images: Tensor) -> Tensor:
        """(B, r) normalised."""
        if self.tune == "transform":
            return apply_transform(self.matrix, images.to(self._clip.device))
        visual, again = self._clip.model.visual, self._checkpointing and torch.is_grad_enabled()
        with mixed_precision(self._clip.device, self._bf16):
            if self.input_kind == "activations":
                found = head(visual, images.to(self._clip.device), self.blocks, checkpointed=again)
            else:
                found = features(visual, self._clip.pixels(images), checkpointed=again)
        return F.normalize(found.float(), dim=-1)

    def text_embeddings(self, prompts: Tensor) -> Tensor:
        """(C, r) normalised."""
        if self.tune == "transform":
            return apply_transform(self.matrix, prompts)
        if not self.trains_text:
            return prompts
        text = text_tower(self._clip.model).transformer
        text.grad_checkpointing = self._checkpointing and torch.is_grad_enabled()
        try:
            with mixed_precision(self._clip.device, self._bf16):
                return prompt_embeddings(self._clip.model, prompts)
        finally:
            text.grad_checkpointing = False

    def penalty(self) -> Tensor:
        """||I - W W^T||^2 for ``transform``, else 0."""
        return penalty(self.matrix) if self.tune == "transform" else self.logit_scale.new_zeros(())

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor], strength: float = 1.0) -> None:
        """Puts trained weights in at a strength: W^t for ``transform``, else reference + t (weights - reference)."""
        for name, parameter in self.tuned().items():
            value = weights[name].to(parameter.device)
            if strength == 1.0 or self.tune == "transform":
                parameter.copy_(value)
            else:
                parameter.copy_(torch.lerp(self._reference[name], value, strength))
        self._at_strength = None
        if self.tune == "transform" and strength != 1.0:
            self._at_strength = power(self.matrix, strength)

    def at_reference(self) -> bool:
        """Whether the CLIP that this policy tunes has the reference's weights (W is not part of it)."""
        tuned = self.tuned().items()
        return self.tune == "transform" or all(torch.equal(value, self._reference[name]) for name, value in tuned)

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the reference's weights back into the CLIP that this policy tunes."""
        self._at_strength = None
        for name, parameter in self.tuned().items():
            parameter.copy_(self._reference[name])


def mixed_precision(device: torch.device, bf16: bool) -> torch.autocast:
    """bf16 inside the towers; cosines, softmax and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def prompt_embeddings(model: OpenClip, tokens: Tensor) -> Tensor:
    """Token ids (T, C, L) of T templates -> (C, d): normalised mean of the templates' normalised embeddings."""
    templates, classes, length = tokens.shape
    embeddings = F.normalize(text_features(model, tokens.reshape(-1, length)), dim=-1).float()
    return F.normalize(embeddings.reshape(templates, classes, -1).mean(0), dim=-1)

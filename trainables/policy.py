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

from trainables.clip import Clip, OpenClip, head, last_parameters
from trainables.settings import Parameters
from trainables.transform import apply_transform, initial_transform, penalty, power

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
        from_activations: bool = False,
    ) -> None:
        """A policy at the reference's weights.

        Args:
            bf16: inside the towers; everything after them is float32.
            embeddings: (N, d) of the reference, for the start of ``tune: transform``.
            from_activations: with ``tune: last_blocks``, take the frozen trunk's activations instead of pixels.

        Raises ValueError for a rank above the embedding width or more blocks than the tower has.
        """
        super().__init__()
        self.tune = parameters.tune
        self.blocks = parameters.blocks or 0
        self._clip, self._bf16 = clip, bf16
        self._from_activations = from_activations
        model = clip.model.requires_grad_(False)
        self.logit_scale, self.logit_bias = model.logit_scale, getattr(model, "logit_bias", None)
        if self.tune == "transform":
            assert embeddings is not None, "transform starts from the reference's embeddings"
            rank = clip.embed_dim if parameters.rank is None else parameters.rank
            if rank > clip.embed_dim:
                raise ValueError(f"rank {rank} is above the embedding width {clip.embed_dim} of the model")
            self.w = nn.Parameter(initial_transform(embeddings, rank).to(clip.device))
        elif self.tune == "all":
            self.model = model.requires_grad_(True)
        else:
            self.visual = model.visual
            names = set(last_parameters(self.visual, self.blocks)) if self.tune == "last_blocks" else None
            for name, parameter in self.visual.named_parameters():
                parameter.requires_grad_(names is None or name in names)
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        self._reference = {name: value.detach().clone() for name, value in trained.items()}

    @property
    def input_kind(self) -> InputKind:
        """What ``forward`` takes for images."""
        if self.tune == "transform":
            return "embeddings"
        return "activations" if self._from_activations else "pixels"

    def tuned(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if name in self._reference}

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Logits (B, C).

        Args:
            images: embeddings (B, d), trunk activations (B, ...) or uint8 pixels (B, H, W, 3), see ``input_kind``.
            prompts: reference's text embeddings (C, d); with ``tune: all`` token ids (T, C, L) of T templates.
        """
        scale = self.logit_scale.exp()
        logits = scale * self.image_embeddings(images) @ self.text_embeddings(prompts).T
        return logits if self.logit_bias is None else logits + self.logit_bias

    def image_embeddings(self, images: Tensor) -> Tensor:
        """(B, r) normalised."""
        if self.tune == "transform":
            return apply_transform(self.w, images.to(self.w.device))
        visual = self._clip.model.visual
        with mixed_precision(self._clip.device, self._bf16):
            if self.input_kind == "activations":
                features = head(visual, images.to(self._clip.device), self.blocks)
            else:
                features = visual(self._clip.pixels(images))
        return F.normalize(features.float(), dim=-1)

    def text_embeddings(self, prompts: Tensor) -> Tensor:
        """(C, r) normalised."""
        if self.tune == "transform":
            return apply_transform(self.w, prompts)
        if self.tune != "all":
            return prompts
        with mixed_precision(self._clip.device, self._bf16):
            return prompt_embeddings(self._clip.model, prompts)

    def penalty(self) -> Tensor:
        """||I - W W^T||^2 for ``transform``, else 0."""
        return penalty(self.w) if self.tune == "transform" else self.logit_scale.new_zeros(())

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor], strength: float = 1.0) -> None:
        """Puts trained weights in at a strength: W^t for ``transform``, else reference + t (weights - reference)."""
        for name, parameter in self.tuned().items():
            value = weights[name].to(parameter.device)
            if self.tune == "transform":
                parameter.copy_(power(value, strength))
            elif strength == 1.0:
                parameter.copy_(value)
            else:
                parameter.copy_(torch.lerp(self._reference[name], value, strength))

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the reference's weights back into the CLIP that this policy tunes."""
        for name, parameter in self.tuned().items():
            parameter.copy_(self._reference[name])


def mixed_precision(device: torch.device, bf16: bool) -> torch.autocast:
    """bf16 inside the towers; cosines, softmax and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def prompt_embeddings(model: OpenClip, tokens: Tensor) -> Tensor:
    """Token ids (T, C, L) of T templates -> (C, d): normalised mean of the templates' normalised embeddings."""
    templates, classes, length = tokens.shape
    embeddings = model.encode_text(tokens.reshape(-1, length), normalize=True).float()
    return F.normalize(embeddings.reshape(templates, classes, -1).mean(0), dim=-1)

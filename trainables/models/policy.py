"""CLIP as a policy over class prompts: pi(y|x) = softmax over prompts of logit_scale * cos(image, text) (+ bias).

The form of a policy's image inputs depends on its scope: frozen embeddings (``transform``), frozen trunk activations
(``last_blocks``, if the tower can be split) or pixels. Its reference is the same CLIP untouched.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.memory import in_batches
from trainables.models.clip import Clip
from trainables.models.towers import (
    OpenClip,
    check_checkpointing,
    features,
    head,
    last_parameters,
    shortened,
    text_features,
    text_tower,
)
from trainables.models.transform import (
    apply_transform,
    identity_distance,
    initial_transform,
    penalty,
    power,
    residual_transform,
)
from trainables.models.validity import tunes_text
from trainables.records import Names
from trainables.settings.parameters import Parameters

InputKind = Literal["embeddings", "activations", "pixels"]
TEXT_BATCH = 1024
"""Largest number of prompts in a forward pass without gradients: 80 templates of 1000 classes are 80 000."""
LARGEST_LOGIT_SCALE = math.log(100)
"""Upper bound of a trained logit scale, as in CLIP's training (Radford et al. 2021) and in open_clip's."""


class Policy(nn.Module):
    """The CLIP being tuned: ``TransformPolicy`` or ``TowerPolicy``."""

    input_kind: InputKind
    """Form of the images that ``forward`` takes."""
    trains_text: bool
    """Whether the text tower is trained: ``forward`` then takes token ids, and logit scale and bias are trained too."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self._clip = clip
        model = clip.model.requires_grad_(False)
        self.logit_scale, self.logit_bias = model.logit_scale, getattr(model, "logit_bias", None)
        self._start: dict[str, Tensor] = {}

    def _remember_start(self) -> None:
        """Keep a copy of the starting weights. Called when the trained parameters exist and require gradients."""
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        self._start = {name: value.detach().clone() for name, value in trained.items()}

    def tuned(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if name in self._start}

    def forward(self, images: Tensor, prompts: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Return logits (B, C).

        Args:
            images: embeddings (B, d), trunk activations (B, ...) or uint8 pixels (B, H, W, 3), see ``input_kind``.
            prompts: reference's text embeddings (C, d), or token ids (T, C, L) of T templates if ``trains_text``. For a
                tuple of prompts their logits are concatenated along C.
        """
        embedded_images = self.image_embeddings(images)
        parts = prompts if isinstance(prompts, tuple) else (prompts,)
        embedded = [self.text_embeddings(part) for part in parts]
        return self.logits(embedded_images, embedded[0] if len(embedded) == 1 else torch.cat(embedded))

    def logits(self, image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return logits (B, C) of normalised embeddings (B, r) and (C, r)."""
        logits = self.logit_scale.exp() * image_embeddings @ text_embeddings.T
        return logits if self.logit_bias is None else logits + self.logit_bias

    @abstractmethod
    def image_embeddings(self, images: Tensor) -> Tensor:
        """Return normalised embeddings (B, r); ``images`` as in ``forward``."""

    @abstractmethod
    def text_embeddings(self, prompts: Tensor) -> Tensor:
        """Return normalised embeddings (C, r); ``prompts`` as in ``forward``."""

    @torch.no_grad()
    def limit_logit_scale(self) -> None:
        """Keep a trained logit scale at or below CLIP's bound, or the start's if that is higher: above it training is
        unstable.
        """
        start = self._start.get("logit_scale")
        if start is not None:
            self.logit_scale.clamp_(max=start.clamp(min=LARGEST_LOGIT_SCALE))

    @abstractmethod
    def penalty(self) -> Tensor:
        """Return ||I - W W^T||^2, a scalar, of a transform; 0 for other policies."""

    @abstractmethod
    def identity_distance(self) -> float | None:
        """Return ||W^T W - I|| / sqrt(d) of a transform; None for other policies."""

    @abstractmethod
    def set_weights(self, weights: Mapping[str, Tensor], strength: float = 1.0) -> None:
        """Load trained weights at a strength t: W^t of a transform, else reference + t (weights - reference)."""

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the weights that the policy started with (the reference's for a tower), without gradients."""
        self.set_weights(self._start)
        for parameter in self.parameters():
            parameter.grad = None

    @abstractmethod
    def reference_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the CLIP has the reference's weights; the present weights are restored after it."""


class TransformPolicy(Policy):
    """A linear transform W of the frozen CLIP's embeddings (``tune: transform``), shared by both towers or one for
    each.
    """

    def __init__(
        self,
        clip: Clip,
        parameters: Parameters,
        embeddings: Tensor,
        prompts: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        """Start from the reference's embeddings, see ``initial_transform``, or from a given W.

        Args:
            embeddings: (N, d) of images.
            prompts: (C, d) of class prompts.
            start: W (d, d).

        Raises:
            ValueError: the rank is above the embedding width.
        """
        super().__init__(clip)
        self.input_kind, self.trains_text = "embeddings", False
        self._at_strength: tuple[Tensor, Tensor] | None = None
        """W of images and W of text at the present strength; None while they are those of the parameters."""
        rank = clip.embed_dim if parameters.rank is None else parameters.rank
        if rank > clip.embed_dim:
            raise ValueError(f"rank {rank} is above the embedding width {clip.embed_dim} of the model")
        self._residual, self._separate = parameters.form == "residual", parameters.towers == "separate"
        if self._residual:
            first = initial_transform(embeddings, rank).to(clip.device)
            self.a = nn.Parameter(first)
            self.b = nn.Parameter(torch.zeros_like(self.a.T, memory_format=torch.contiguous_format))
            if self._separate:
                self.text_a, self.text_b = nn.Parameter(first.clone()), nn.Parameter(torch.zeros_like(self.b))
        else:
            first = initial_transform(embeddings, rank, prompts) if start is None else start
            self.w = nn.Parameter(first.to(clip.device))
            if self._separate:
                self.text_w = nn.Parameter(self.w.detach().clone())
        self._remember_start()

    @property
    def matrix(self) -> Tensor:
        """Return the present W of images: (r, d), or (d, d) of the residual form."""
        if self._at_strength is not None:
            return self._at_strength[0]
        return residual_transform(self.a, self.b) if self._residual else self.w

    @property
    def text_matrix(self) -> Tensor:
        """Return the present W of text; the same as ``matrix`` unless each tower has its own W."""
        if self._at_strength is not None:
            return self._at_strength[1]
        if not self._separate:
            return self.matrix
        return residual_transform(self.text_a, self.text_b) if self._residual else self.text_w

    def image_embeddings(self, images: Tensor) -> Tensor:
        return apply_transform(self.matrix, images.to(self._clip.device))

    def text_embeddings(self, prompts: Tensor) -> Tensor:
        """Return normalised embeddings (C, r) of the reference's text embeddings.

        Args:
            prompts: (C, d), means over the templates, or (T, C, d), every prompt by itself. The latter is what a CLIP
                does that has W in its projections: W first, then the mean.
        """
        transformed = apply_transform(self.text_matrix, prompts)
        return transformed if prompts.ndim == 2 else template_mean(transformed)

    def penalty(self) -> Tensor:
        return penalty(self.matrix) + penalty(self.text_matrix) if self._separate else penalty(self.matrix)

    def identity_distance(self) -> float:
        distances = [identity_distance(self.matrix.detach())]
        if self._separate:
            distances.append(identity_distance(self.text_matrix.detach()))
        return float(sum(distances)) / len(distances)

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor], strength: float = 1.0) -> None:
        """Load W at a strength t: W^t of a shared W, or I + t (W - I) if each tower has its own W.

        W^t of two different W would change the angles between the towers (docs/transform.md).
        """
        for name, parameter in self.tuned().items():
            parameter.copy_(weights[name].to(parameter.device))
        self._at_strength = None
        if strength == 1.0:
            return
        if self._separate:
            identity = torch.eye(self.matrix.shape[1], device=self.matrix.device)
            self._at_strength = (
                torch.lerp(identity, self.matrix, strength),
                torch.lerp(identity, self.text_matrix, strength),
            )
        else:
            at_strength = power(self.matrix, strength)
            self._at_strength = at_strength, at_strength

    def reference_weights(self) -> AbstractContextManager[None]:
        return nullcontext()  # W is not a part of the CLIP


class TowerPolicy(Policy):
    """The image tower, its last blocks or the whole CLIP, tuned in place: one process holds one model."""

    def __init__(
        self,
        clip: Clip,
        parameters: Parameters,
        *,
        bf16: bool = False,
        from_activations: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Start at the weights of ``clip``: the reference's.

        Args:
            bf16: bfloat16 inside the towers; everything after them is float32.
            from_activations: with ``tune: last_blocks``, take the frozen trunk's activations instead of pixels.
            gradient_checkpointing: recompute activations of the trained towers in the backward pass.

        Raises:
            ValueError: the tower has fewer blocks than asked for, or cannot recompute its activations.
        """
        super().__init__(clip)
        model, self._bf16, self._checkpointing = clip.model, bf16, gradient_checkpointing
        self.input_kind = "activations" if from_activations else "pixels"
        self.blocks = parameters.blocks or 0
        self.trains_text = tunes_text(parameters, clip.trains_text)
        if self._checkpointing:
            check_checkpointing(model, text=self.trains_text)
        if self.trains_text:
            self.model = model.requires_grad_(True)
        else:
            self.visual = model.visual
        names = set(last_parameters(model.visual, self.blocks)) if parameters.tune == "last_blocks" else None
        for name, parameter in model.visual.named_parameters():
            parameter.requires_grad_(names is None or name in names)
        self._remember_start()

    def image_embeddings(self, images: Tensor) -> Tensor:
        visual, recomputing = self._clip.model.visual, self._checkpointing and torch.is_grad_enabled()
        with mixed_precision(self._clip.device, self._bf16):
            if self.input_kind == "activations":
                embeddings = head(visual, images.to(self._clip.device), self.blocks, checkpointed=recomputing)
            else:
                embeddings = features(visual, self._clip.pixels(images), checkpointed=recomputing)
        return F.normalize(embeddings.float(), dim=-1)

    def text_embeddings(self, prompts: Tensor) -> Tensor:
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
        return self.logit_scale.new_zeros(())

    def identity_distance(self) -> None:
        return None

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor], strength: float = 1.0) -> None:
        for name, parameter in self.tuned().items():
            value = weights[name].to(parameter.device)
            parameter.copy_(value if strength == 1.0 else torch.lerp(self._start[name], value, strength))

    @contextmanager
    def reference_weights(self) -> Iterator[None]:
        present = {name: parameter.detach().clone() for name, parameter in self.tuned().items()}
        self.set_weights(self._start)
        try:
            yield
        finally:
            self.set_weights(present)


def make_policy(
    clip: Clip,
    parameters: Parameters,
    *,
    embeddings: Tensor | None = None,
    prompts: Tensor | None = None,
    start: Tensor | None = None,
    bf16: bool = False,
    from_activations: bool = False,
    gradient_checkpointing: bool = False,
) -> Policy:
    """Return the policy that ``parameters.tune`` names, at the reference's weights.

    Args:
        embeddings, prompts, start: for a transform, which requires embeddings; see ``TransformPolicy``.
        bf16, from_activations, gradient_checkpointing: for towers, see ``TowerPolicy``.

    Raises:
        ValueError: the parameters do not fit the model.
    """
    if parameters.tune == "transform":
        assert embeddings is not None, "transform starts from the reference's embeddings"
        return TransformPolicy(clip, parameters, embeddings, prompts, start)
    return TowerPolicy(
        clip,
        parameters,
        bf16=bf16,
        from_activations=from_activations,
        gradient_checkpointing=gradient_checkpointing,
    )


def mixed_precision(device: torch.device, bf16: bool) -> torch.autocast:
    """Return a context with bfloat16 inside the towers; cosines, softmax and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def prompt_tokens(clip: Clip, class_names: Names, templates: tuple[str, ...]) -> Tensor:
    """Return the token ids (T, C, L) of C classes in T templates, without padding that no token attends to."""
    prompts = [[template.format(name) for name in class_names] for template in templates]
    return shortened(clip.model, torch.stack([clip.tokens(of_template) for of_template in prompts]))


def prompt_embeddings(model: OpenClip, tokens: Tensor) -> Tensor:
    """Return from token ids (T, C, L) of T templates the normalised mean (C, d) of their normalised embeddings."""
    return template_mean(each_prompt(model, tokens))


def template_mean(prompts: Tensor) -> Tensor:
    """Return the normalised mean (C, d) of the embeddings (T, C, d) of C classes in T templates."""
    return F.normalize(prompts.mean(0), dim=-1)


def each_prompt(model: OpenClip, tokens: Tensor) -> Tensor:
    """Return from token ids (T, C, L) the normalised embeddings (T, C, d) of all prompts."""
    templates, classes, length = tokens.shape
    prompts = tokens.reshape(-1, length)

    def encode(part: Tensor) -> Tensor:
        return F.normalize(text_features(model, part).float(), dim=-1)

    if torch.is_grad_enabled():
        embeddings = encode(prompts)
    else:
        parts, _ = in_batches(prompts, TEXT_BATCH, encode, "encoding prompts")
        embeddings = torch.cat(parts)
    return embeddings.reshape(templates, classes, -1)

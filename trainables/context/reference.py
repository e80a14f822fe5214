"""Outputs of the frozen reference, computed once.

The reference never changes within a sweep, so its embeddings of every view and its text embeddings are kept, under a
key of weights, pixels and precision: on disk for all processes of a node, in memory for all trials of a process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.cache import Store, digest_of
from trainables.data.image_set import View
from trainables.memory import in_batches
from trainables.models.clip import Clip
from trainables.models.policy import Policy, each_prompt, mixed_precision, prompt_tokens, template_mean
from trainables.models.towers import features
from trainables.records import Names

EMBEDDING_BATCH = 256


class ReferenceCache:
    """The untouched CLIP's embeddings and logits.

    While the reference is computed, the weights of a policy that tunes the CLIP in place are replaced by the
    reference's.
    """

    def __init__(self, clip: Clip, store: Store, *, bf16: bool) -> None:
        self._clip, self._store, self._bf16 = clip, store, bf16
        self._memory: dict[str, Tensor] = {}
        self._logit_scale = clip.model.logit_scale.detach().exp()
        bias = getattr(clip.model, "logit_bias", None)
        self._logit_bias = None if bias is None else bias.detach().clone()
        self.policy: Policy | None = None
        """The policy that tunes ``clip``; set by the creator of the policy."""

    def embeddings(self, view: View) -> Tensor:
        """Return the normalised image embeddings (N, d) of a view."""
        clip = self._clip
        key = {"embeddings": view.digest, "weights": clip.digest, "bf16": self._bf16, "device": clip.device.type}
        name = digest_of(key)
        if name not in self._memory:
            with self._reference_weights():
                arrays = self._store.get(key, lambda: {"embeddings": self._embed(view)})
            self._memory[name] = arrays["embeddings"].to(clip.device)
        return self._memory[name]

    def text_embeddings(self, class_names: Names, templates: tuple[str, ...]) -> Tensor:
        """Return the text embeddings (C, d) of C classes, means over the templates."""
        name = digest_of(["text", class_names, templates])
        if name not in self._memory:
            self._memory[name] = template_mean(self.each_prompt(class_names, templates))
        return self._memory[name]

    def each_prompt(self, class_names: Names, templates: tuple[str, ...]) -> Tensor:
        """Return the text embeddings (T, C, d) of C classes in T templates. They are kept in the host's memory."""
        clip, name = self._clip, digest_of(["prompts", class_names, templates])
        if name not in self._memory:
            with self._reference_weights(), torch.no_grad(), mixed_precision(clip.device, self._bf16):
                self._memory[name] = each_prompt(clip.model, prompt_tokens(clip, class_names, templates)).cpu()
        return self._memory[name].to(clip.device)

    def logits(self, embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return logits (B, C) from image embeddings (B, d) and text embeddings (C, d)."""
        logits = self._logit_scale * embeddings @ text_embeddings.T
        return logits if self._logit_bias is None else logits + self._logit_bias

    def _reference_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.policy is None else self.policy.reference_weights()

    @torch.no_grad()
    def _embed(self, view: View) -> np.ndarray:
        def embed(rows: Tensor) -> Tensor:
            with mixed_precision(self._clip.device, self._bf16):
                embeddings = features(self._clip.model.visual, self._clip.pixels(view.images[rows]))
            return F.normalize(embeddings.float(), dim=-1).cpu()

        batches, _ = in_batches(torch.arange(len(view.labels)), EMBEDDING_BATCH, embed, "embedding images")
        return torch.cat(batches).numpy()

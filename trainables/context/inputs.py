"""Inputs of a policy for images and class prompts, kept for all trials of a process if memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainables.context.pinned_feed import Part, PinnedFeed
from trainables.context.reference import EMBEDDING_BATCH, ReferenceCache
from trainables.context.task import TaskData
from trainables.data.cache import digest_of
from trainables.data.image_set import View
from trainables.memory import available_bytes, in_batches
from trainables.models.clip import Clip
from trainables.models.policy import Policy, TowerPolicy, TransformPolicy, mixed_precision, prompt_tokens
from trainables.models.towers import trunk
from trainables.records import Names

DEVICE_SHARE = 0.3
"""Largest share of a GPU's free memory for the images or activations that trials use; if they need more, they stay in
the host's memory.
"""
ACTIVATIONS_LIMIT_BYTES = 2 * 2**30
"""Without a GPU: largest size of kept trunk activations that trials use; above it the tower takes pixels."""


def trial_views(data: TaskData) -> list[View]:
    """Return every view that trials use."""
    return [data.preferences.kept, data.preferences.shown, *data.searched_views()]


class InputCache:
    """Inputs of policies that tune one CLIP: embeddings, trunk activations or pixels, see ``Policy.input_kind``."""

    def __init__(self, clip: Clip, data: TaskData, reference: ReferenceCache, *, bf16: bool) -> None:
        self._clip, self._data, self._reference, self._bf16 = clip, data, reference, bf16
        self._memory: dict[str, Tensor] = {}
        self._fitting: dict[str, bool] = {}
        """Kind of inputs -> whether they are kept for all trials."""
        self._tokens: dict[tuple[Names, tuple[str, ...]], Tensor] = {}
        """Class names and templates -> token ids."""
        self._pinned_feed: PinnedFeed | None = None

    def whole_view(self, policy: Policy, view: View) -> Tensor:
        """Return the inputs (N, ...) of a view that trials use again and again; they are kept."""
        if policy.input_kind == "embeddings":
            return self._reference.embeddings(view)
        if isinstance(policy, TowerPolicy) and policy.input_kind == "activations":
            return self._activations(view, policy.blocks)
        return self._pixels(view)

    def rows(self, policy: Policy, view: View, rows: Tensor) -> Tensor:
        """Return the inputs of some rows of a view; kept for the search sets only, because a test runs once."""
        if policy.input_kind == "embeddings" or self._is_searched(view):
            inputs = self.whole_view(policy, view)
            if inputs.device == self._clip.device:
                return inputs[rows.to(inputs.device)]
        on_gpu = self._clip.device.type == "cuda"
        images = self.take([(view.images, rows)]) if on_gpu else view.images[rows]
        if isinstance(policy, TowerPolicy) and policy.input_kind == "activations":
            return self._trunk(images, policy.blocks)
        return images

    def prompts(self, policy: Policy, class_names: Names, templates: tuple[str, ...]) -> Tensor:
        """Return text embeddings (C, d), or token ids (T, C, L) for a policy that trains the text tower."""
        if policy.trains_text:
            if (class_names, templates) not in self._tokens:
                self._tokens[class_names, templates] = prompt_tokens(self._clip, class_names, templates)
            return self._tokens[class_names, templates]
        return self._reference.text_embeddings(class_names, templates)

    def measured_prompts(self, policy: Policy, class_names: Names, templates: tuple[str, ...]) -> Tensor:
        """Return what ``prompts`` returns, but each template by itself (T, C, d) for a transform of several templates.

        Training takes their mean, which saves a product with W for each template and step. Measured is what an exported
        model does: W on every prompt, then the mean.
        """
        if isinstance(policy, TransformPolicy) and len(templates) > 1:
            return self._reference.each_prompt(class_names, templates)
        return self.prompts(policy, class_names, templates)

    def activations_fit(self, blocks: int) -> bool:
        """Return whether the activations of all views that trials use may be kept."""
        first = self._data.preferences.kept.images[:1]
        return self._fits(f"activations {blocks}", lambda: self._trunk(first, blocks).nbytes)

    def take(self, parts: Sequence[Part]) -> Tensor:
        """Return images (B, H, W, 3) of the host's memory on the GPU, one part after the other."""
        return self._feed().take(parts)

    def prefetch(self, parts: Sequence[Part]) -> None:
        """Begin to bring the parts to the GPU that ``take`` is called with next."""
        self._feed().prefetch(parts)

    def _feed(self) -> PinnedFeed:
        if self._pinned_feed is None:
            self._pinned_feed = PinnedFeed(self._clip.device)
        return self._pinned_feed

    def _is_searched(self, view: View) -> bool:
        return any(view.digest == searched.digest for searched in self._data.searched_views())

    def _activations(self, view: View, blocks: int) -> Tensor:
        """Return the trunk activations (N, ...) of a view."""
        name = digest_of(["activations", view.digest, blocks])
        if name not in self._memory:
            row = self._trunk(view.images[:1], blocks)
            # Filled in place: joining batches would need twice the memory.
            kept = row.new_empty((len(view.labels), *row.shape[1:]))

            def compute(rows: Tensor) -> bool:
                kept[int(rows[0]) : int(rows[0]) + len(rows)] = self._trunk(view.images[rows], blocks)
                return True

            in_batches(torch.arange(len(view.labels)), EMBEDDING_BATCH, compute, "computing activations")
            self._memory[name] = kept
        return self._memory[name]

    def _pixels(self, view: View) -> Tensor:
        """Return the prepared images (N, H, W, 3) of a view, on a GPU if they fit: they are normalised there."""
        if self._clip.device.type == "cpu":
            return view.images
        name = digest_of(["pixels", view.digest])
        if name not in self._memory:
            fit = self._fits("pixels", lambda: view.images[:1].nbytes)
            self._memory[name] = view.images.to(self._clip.device) if fit else view.images
        return self._memory[name]

    def _fits(self, kind: str, row_bytes: Callable[[], int]) -> bool:
        """Return whether inputs of a kind are kept; decided once, because kept inputs reduce the free memory."""
        if kind not in self._fitting:
            rows = sum(len(view.labels) for view in trial_views(self._data))
            self._fitting[kind] = rows * row_bytes() <= self._available_bytes()
        return self._fitting[kind]

    def _available_bytes(self) -> int:
        """Bytes available for caching trial inputs."""
        if self._clip.device.type != "cuda":
            return ACTIVATIONS_LIMIT_BYTES
        return int(DEVICE_SHARE * available_bytes(self._clip.device))

    @torch.no_grad()
    def _trunk(self, images: Tensor, blocks: int) -> Tensor:
        with mixed_precision(self._clip.device, self._bf16):
            return trunk(self._clip.model.visual, self._clip.pixels(images), blocks)

"""Inputs, labels and reference logits of a trial's training images, on the trial's device.

Nothing here makes the host wait for a GPU, except images that do not fit on it (see ``context.pinned_feed``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.context.trial_context import TrialContext
from trainables.models.policy import Policy
from trainables.training.batches import Rows


class TrialData:
    """The preference data of a context as the inputs of one policy; ``Rows`` are rows of the shown images."""

    def __init__(self, context: TrialContext, policy: Policy) -> None:
        data, inputs, reference = context.data.preferences, context.inputs, context.reference
        device = context.device
        self._reference, self._images = reference, inputs
        self._same_images, self._same_prompts = data.kept is data.shown, data.kept_prompts == data.prompts
        self._count = data.images
        self._shown_inputs, self._kept_inputs = (
            inputs.whole_view(policy, data.shown),
            inputs.whole_view(policy, data.kept),
        )
        kept_prompts = inputs.prompts(policy, data.kept_prompts.names, data.kept_prompts.templates)
        prompts = inputs.prompts(policy, data.prompts.names, data.prompts.templates)
        self._kept_prompts = kept_prompts
        self._prompts = prompts if self._same_prompts else (prompts, kept_prompts)
        self._names = len(data.prompts.names)
        self._kept_embeddings, self._shown_embeddings = (
            reference.embeddings(data.kept),
            reference.embeddings(data.shown),
        )
        self._kept_text = reference.text_embeddings(data.kept_prompts.names, data.kept_prompts.templates)
        self._shown_text = reference.text_embeddings(data.prompts.names, data.prompts.templates)
        self._chosen, self._rejected = data.chosen.to(device), data.rejected.to(device)
        self._candidates = None if data.candidates is None else data.candidates.to(device)
        self._kept_labels = data.kept.labels.to(device)
        self._values = None if data.values is None else data.values.to(device)
        self.classes = len(data.kept_prompts.names)
        """Number C of prompts of the kept images."""
        self.attribute_values = 0 if data.values is None else int(data.values.max()) + 1
        """Number V of values of the attribute; 0 for a task without an attribute."""

    def logits(self, policy: nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) of shown and (B, C) of kept images of the same rows, from one forward pass."""
        logits = policy(self._inputs(rows), self._prompts)
        kept = logits if self._same_images else logits[len(rows) :]
        shown = logits[: len(rows)]
        return (shown, kept) if self._same_prompts else (shown[:, : self._names], kept[:, self._names :])

    def kept_logits(self, policy: nn.Module, rows: Rows) -> Tensor:
        """Return logits (B, C) of the kept images that belong to ``rows``."""
        kept: Tensor = policy(self._kept_inputs_of(rows), self._kept_prompts)
        return kept

    def prefetch(self, rows: Rows) -> None:
        """Begin to bring the images of the next call of ``logits`` from the host's memory to the GPU."""
        self._images.prefetch(self._parts(rows))

    def reference_of_shown(self, rows: Rows) -> Tensor:
        """Return the reference's logits (B, K) of shown images."""
        return self._reference.logits(self._shown_embeddings[rows.device], self._shown_text)

    def reference_of_kept(self, rows: Rows) -> Tensor:
        """Return the reference's logits (B, C) of the kept images that belong to ``rows``."""
        return self._reference.logits(self._kept_embeddings[self._kept_rows(rows)], self._kept_text)

    def preferences(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return rows of prompts: the chosen (B,), the rejected (B,), and all values (B, V) of an attribute."""
        index = rows.device
        candidates = None if self._candidates is None else self._candidates[index]
        return self._chosen[index], self._rejected[index], candidates

    def own_logits(self, kept: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Return for the kept images the logit of the own class, the class and the attribute's value, (B,) each.

        Args:
            kept: logits (B, C) of the kept images that belong to ``rows``.
        """
        assert self._values is not None, "the target equal is one of the attribute task"
        own = self._kept_rows(rows)
        labels = self._kept_labels[own]
        return kept.gather(1, labels[:, None])[:, 0], labels, self._values[own]

    def _kept_rows(self, rows: Rows) -> Tensor:
        return rows.device % self._count

    def _inputs(self, rows: Rows) -> Tensor:
        """Return the inputs of the shown images and, unless they are the same, of the kept images behind them."""
        if self.in_host_memory:
            return self._images.take(self._parts(rows))
        shown = self._shown_inputs[rows.device]
        return shown if self._same_images else torch.cat([shown, self._kept_inputs[self._kept_rows(rows)]])

    def _kept_inputs_of(self, rows: Rows) -> Tensor:
        if self.in_host_memory:
            return self._images.take([(self._kept_inputs, rows.host % self._count)])
        return self._kept_inputs[self._kept_rows(rows)]

    def _parts(self, rows: Rows) -> list[tuple[Tensor, Tensor]]:
        shown = [(self._shown_inputs, rows.host)]
        return shown if self._same_images else [*shown, (self._kept_inputs, rows.host % self._count)]

    @property
    def in_host_memory(self) -> bool:
        """Return whether the images stay in the host's memory because they do not fit on the GPU."""
        return self._shown_inputs.device != self._chosen.device

"""The objects that a process keeps between trials: the CLIP, prepared images, and the frozen reference's outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from trainables.activity import busy_with
from trainables.context.batch_sizes import BatchSizes
from trainables.context.inputs import InputCache
from trainables.context.reference import EMBEDDING_BATCH, ReferenceCache
from trainables.context.task import Measures, TaskData
from trainables.context.task_images import TaskImages
from trainables.data.cache import Store
from trainables.data.preferences import Prompts
from trainables.data.source import DataSource
from trainables.memory import limit_device_memory, return_device_memory
from trainables.models.clip import load_clip
from trainables.models.concept import Concept, closed_form, concept_of, projection
from trainables.models.policy import Policy, TowerPolicy, make_policy
from trainables.models.towers import can_split, last_parameters
from trainables.numerics import full_precision
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings


class TrialContext:
    """The CLIP, images and reference of a process; creates the policies that trials tune, one at a time."""

    def __init__(
        self,
        task: TaskSettings,
        load: Callable[[TaskSettings, TaskImages], TaskData],
        measures: Measures,
        *,
        data_seed: int,
        cache: Path,
        device: torch.device,
        device_share: float = 1.0,
    ) -> None:
        """Called by ``trainables.tasks.known.open_context``, which knows the task's data and measures."""
        self.task, self.measures, self.device = task, measures, device
        self._shares_device = device_share < 1
        if device.type == "cuda":
            full_precision()
            if self._shares_device:
                limit_device_memory(device, device_share)
        self.bf16 = task.training.precision == "bf16" or (task.training.precision == "auto" and device.type == "cuda")
        busy_with("loading the model")
        self.clip = load_clip(task.model).to(device)
        self.store = Store(cache)
        source = DataSource(self.store, self.clip.crop, self.clip.image_size, self.clip.geometry)
        self.images = TaskImages(task, source, self.store, seed=data_seed)
        self.data = load(task, self.images)
        self.reference = ReferenceCache(self.clip, self.store, bf16=self.bf16)
        self.inputs = InputCache(self.clip, self.data, self.reference, bf16=self.bf16)
        self.batch_sizes = BatchSizes()

    def policy(self, parameters: Parameters) -> Policy:
        """Return a policy at the reference's weights. An earlier tower policy of this context loses its weights.

        Raises:
            ValueError: the parameters do not fit the model or the preference data.
        """
        if isinstance(self.reference.policy, TowerPolicy):
            self.reference.policy.restore()
        # For towers too: otherwise the time of the first evaluation of a process would include it.
        searched = [self._text_embeddings(prompts) for prompts in self.data.searched_prompts()]
        embeddings, prompts, start, from_activations = None, None, None, False
        if parameters.tune == "transform":
            data, rows = self.data.preferences, self.data.preference_rows(parameters)
            kept, shown = self.reference.embeddings(data.kept), self.reference.embeddings(data.shown)
            embeddings = torch.cat([kept[rows[rows < len(kept)]], shown[rows]])
            prompts = torch.cat([self._text_embeddings(data.prompts), *searched])
            start = self._start(parameters)
        elif parameters.tune == "last_blocks" and can_split(self.clip.model.visual):
            # raises ValueError if the tower has fewer blocks
            last_parameters(self.clip.model.visual, parameters.blocks or 0)
            from_activations = self.inputs.activations_fit(parameters.blocks or 0)
        self.reference.policy = make_policy(
            self.clip,
            parameters,
            embeddings=embeddings,
            prompts=prompts,
            start=start,
            bf16=self.bf16,
            from_activations=from_activations,
            gradient_checkpointing=self.task.training.gradient_checkpointing,
        )
        return self.reference.policy

    def mean_margin(self) -> float:
        """Return m0: by how many nats the reference prefers the rejected to the chosen prompt, mean over all
        preferences.
        """
        data = self.data.preferences
        embeddings, text = self.reference.embeddings(data.shown), self._text_embeddings(data.prompts)
        chosen, rejected = data.chosen.to(embeddings.device)[:, None], data.rejected.to(embeddings.device)[:, None]
        margins = []
        for start in range(0, len(chosen), EMBEDDING_BATCH):
            rows = slice(start, start + EMBEDDING_BATCH)
            logits = self.reference.logits(embeddings[rows], text)
            margins.append(logits.gather(1, rejected[rows]) - logits.gather(1, chosen[rows]))
        return float(torch.cat(margins).double().mean())

    def concept(self) -> Concept:
        """Return the reference's embeddings of the task's attribute.

        Raises:
            ValueError: the task has no attribute.
        """
        data = self.data.preferences
        if data.values is None or data.candidates is None:
            raise ValueError(f"the task {self.task.task} has no attribute")
        classes, values = len(data.kept_prompts.names), data.candidates.shape[1]
        prompts = self._text_embeddings(data.prompts).reshape(values, classes, -1).transpose(0, 1)
        return concept_of(self.reference.embeddings(data.kept), data.kept.labels, data.values, prompts)

    def _start(self, parameters: Parameters) -> Tensor | None:
        """Return W (d, d) at the start of a trial; None for the identity."""
        if parameters.start == "closed_form":
            return closed_form(self.concept())
        return projection(self.concept()) if parameters.start == "projection" else None

    def release(self, policy: Policy) -> None:
        """Restore the reference's weights and drop all inputs of a policy that will not be used any more."""
        policy.restore()
        if self.reference.policy is policy:
            self.reference.policy = None
        if self._shares_device:
            return_device_memory()

    def _text_embeddings(self, prompts: Prompts) -> Tensor:
        return self.reference.text_embeddings(prompts.names, prompts.templates)

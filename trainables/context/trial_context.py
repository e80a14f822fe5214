"""The objects that a process keeps between trials: the CLIP, prepared images, and the frozen reference's outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from trainables.activity import busy_with
from trainables.context.batch_sizes import BatchSizes
from trainables.context.inputs import InputCache
from trainables.context.reference import ReferenceCache
from trainables.context.task import Measures, TaskData
from trainables.context.task_images import TaskImages
from trainables.data.cache import Store
from trainables.data.preferences import Prompts
from trainables.data.source import DataSource
from trainables.models.clip import load_clip
from trainables.models.concept import Concept, closed_form, concept_of, projection
from trainables.models.policy import Policy, TowerPolicy, make_policy
from trainables.models.towers import can_split, last_parameters
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
    ) -> None:
        """Called by ``trainables.tasks.known.open_context``, which knows the task's data and measures."""
        self.task, self.measures, self.device = task, measures, device
        self.bf16 = task.training.precision == "bf16" or (task.training.precision == "auto" and device.type == "cuda")
        busy_with("loading the model")
        self.clip = load_clip(task.model).to(device)
        store = Store(cache)
        source = DataSource(store, self.clip.crop, self.clip.image_size, self.clip.geometry)
        self.images = TaskImages(task, source, store, seed=data_seed)
        self.data = load(task, self.images)
        self.reference = ReferenceCache(self.clip, store, bf16=self.bf16)
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
        logits = self.reference.logits(self.reference.embeddings(data.shown), self._text_embeddings(data.prompts))
        chosen, rejected = data.chosen.to(logits.device)[:, None], data.rejected.to(logits.device)[:, None]
        return float((logits.gather(1, rejected) - logits.gather(1, chosen)).double().mean())

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

    def _text_embeddings(self, prompts: Prompts) -> Tensor:
        return self.reference.text_embeddings(prompts.names, prompts.templates)

"""What a process keeps between trials: the CLIP, prepared images, and everything of the frozen reference."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from trainables.context.batch_sizes import BatchSizes
from trainables.context.inputs import InputCache
from trainables.context.reference import ReferenceCache
from trainables.context.task_data import TaskData
from trainables.data.cache import Store
from trainables.data.image_set import ImageSet
from trainables.data.source import DataSource
from trainables.models.clip import load_clip
from trainables.models.policy import Policy, TowerPolicy, make_policy
from trainables.models.towers import can_split, last_parameters
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings


class TrialContext:
    """Built once per process; hands out the policies that trials tune, one at a time."""

    def __init__(self, task: TaskSettings, *, data_seed: int, cache: Path, device: torch.device) -> None:
        """``cache`` is shared by all processes of a node. Raises ValueError where the model cannot be had."""
        self.task, self.device = task, device
        self.bf16 = task.training.precision == "bf16" or (task.training.precision == "auto" and device.type == "cuda")
        self.clip = load_clip(task.model).to(device)
        store = Store(cache)
        source = DataSource(store, self.clip.crop, self.clip.image_size, self.clip.geometry)
        self.data = TaskData(task, source, store, seed=data_seed)
        self.reference = ReferenceCache(self.clip, store, bf16=self.bf16)
        self.inputs = InputCache(self.clip, self.data, self.reference, bf16=self.bf16)
        self.batch_sizes = BatchSizes()

    def policy(self, parameters: Parameters) -> Policy:
        """Return a policy at the reference's weights; a tower policy handed out before loses its weights.

        Raises ValueError where the parameters do not fit the model or the preference data.
        """
        if isinstance(self.reference.policy, TowerPolicy):
            self.reference.policy.restore()
        # For towers too: the first evaluation of a process would otherwise be timed with it.
        searched = [self._text_embeddings(validation.images) for validation in self.data.search_sets]
        embeddings, prompts, from_activations = None, None, False
        if parameters.tune == "transform":
            pairs, rows = self.data.pairs, self.data.pair_rows(parameters)
            clean, attacked = self.reference.embeddings(pairs.clean), self.reference.embeddings(pairs.attacked)
            embeddings = torch.cat([clean[rows[rows < len(clean)]], attacked[rows]])
            prompts = torch.cat([self._text_embeddings(pairs.images), *searched])
        elif parameters.tune == "last_blocks" and can_split(self.clip.model.visual):
            last_parameters(self.clip.model.visual, parameters.blocks or 0)  # refuses more blocks than the tower has
            from_activations = self.inputs.activations_fit(parameters.blocks or 0)
        self.reference.policy = make_policy(
            self.clip,
            parameters,
            embeddings=embeddings,
            prompts=prompts,
            bf16=self.bf16,
            from_activations=from_activations,
            gradient_checkpointing=self.task.training.gradient_checkpointing,
        )
        return self.reference.policy

    def release(self, policy: Policy) -> None:
        """Put the reference's weights back, and keep nothing of a policy that will not be used any more."""
        policy.restore()
        if self.reference.policy is policy:
            self.reference.policy = None

    def _text_embeddings(self, images: ImageSet) -> Tensor:
        return self.reference.text_embeddings(images.class_names, images.templates)

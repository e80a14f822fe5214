"""What a process keeps between trials: the CLIP, prepared images, and everything of the frozen reference.

The reference never changes within a sweep, so its embeddings of every view and its text embeddings are computed once:
keyed by weights, pixels and precision, on disk for all processes of a node, in memory for all trials of a process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.clip import can_split, last_parameters, load_clip, trunk
from trainables.data import (
    AttackedImages,
    DataSource,
    ImageSet,
    held_out_variants,
    preference_images,
    subset,
    trained_attack,
)
from trainables.policy import Policy, mixed_precision, prompt_embeddings
from trainables.set_settings import Split
from trainables.settings import Parameters, TaskSettings, split_of
from trainables.store import Store, digest_of

EMBEDDING_BATCH = 256
ACTIVATIONS_LIMIT_BYTES = 2 * 2**30
"""Trunk activations of all that a trial looks at are kept up to this size; above it the tower sees pixels."""


@dataclass(frozen=True)
class View:
    """Images as a policy is shown them, with what they mean."""

    images: Tensor
    """(N, H, W, 3) uint8."""
    labels: Tensor
    """(N,) int64: the true class."""
    written: Tensor | None
    """(N,) int64: the written class, -1 for a word that names none; None for clean images."""
    digest: str


@dataclass(frozen=True)
class PreferencePairs:
    """Training data: row p of ``attacked`` is a copy of row ``p % len(clean)`` of ``clean``."""

    clean: View
    attacked: View
    class_names: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationSet:
    """What goals are measured on: an image set clean and attacked, over all its classes."""

    name: str
    clean: View
    attacked: View
    class_names: tuple[str, ...]
    templates: tuple[str, ...]


class Workbench:
    """Built once per process; ``cache`` is shared by all processes of a node."""

    def __init__(self, task: TaskSettings, *, data_seed: int, cache: Path, device: torch.device) -> None:
        """Raises ValueError where the model or the images cannot be had."""
        torch.set_flush_denormal(True)  # an almost untrained small model is 10-25 x slower with denormals
        self.task, self.device = task, device
        self.bf16 = task.training.precision == "bf16" or (task.training.precision == "auto" and device.type == "cuda")
        self.clip = load_clip(task.model).to(device)
        self._store = Store(cache)
        self._data_seed = data_seed
        preprocessing = [self.clip.config["preprocess_cfg"].get(k) for k in ("size", "interpolation", "resize_mode")]
        self._source = DataSource(self._store, self.clip.crop, self.clip.image_size, preprocessing)
        self._memory: dict[str, Tensor] = {}

    @cached_property
    def pairs(self) -> PreferencePairs:
        """Images of the preference classes and their attacked copies."""
        train = self.task.train
        images = preference_images(self._images(f"{train.set}/train", "train"), train, seed=self._data_seed)
        attack = trained_attack(self.task.attack)
        attacked = self._source.attacked(images, attack, seed=self._data_seed, copies=train.copies)
        labels = images.labels.repeat(train.copies)
        return PreferencePairs(
            View(images.images, images.labels, None, images.digest),
            View(attacked.images, labels, attacked.written, attacked.digest),
            images.class_names,
            images.templates,
        )

    @cached_property
    def search_sets(self) -> list[EvaluationSet]:
        """Validation: what a trial is told by."""
        search = self.task.evaluate.search
        return [self._evaluation_set(name, "validation", search.images) for name in search.sets]

    @cached_property
    def test_sets(self) -> list[EvaluationSet]:
        """Images that no decision was taken on."""
        test = self.task.evaluate.test
        return [self._evaluation_set(name, "test", test.images) for name in test.sets]

    @cached_property
    def variant_sets(self) -> dict[str, list[EvaluationSet]]:
        """The test images under attacks that preference data never show, by the attack's name."""
        sets: dict[str, list[EvaluationSet]] = {}
        for name, variant in held_out_variants(self.task.attack).items():
            sets[name] = []
            for images in self._test_images():
                attacked = self._source.attacked(images, variant, seed=self._data_seed)
                sets[name].append(_evaluation_set(images, attacked))
        return sets

    @cached_property
    def sign_views(self) -> list[tuple[View, tuple[str, ...], tuple[str, ...]]]:
        """Words on images without an object: (view, class names, templates) per test set."""
        found = []
        for reference, images in zip(self.task.evaluate.test.sets, self._test_images(), strict=True):
            settings = self.task.sets[split_of(reference, "test")[0]]
            signs = self._source.signs(images, self.task.attack.recipe, settings, seed=self._data_seed)
            view = View(signs.images, signs.labels, None, signs.digest)
            found.append((view, signs.class_names, signs.templates))
        return found

    def policy(self, parameters: Parameters) -> Policy:
        """A policy at the reference's weights."""
        embeddings, from_activations = None, False
        if parameters.tune == "transform":
            embeddings = torch.cat([self.embeddings(self.pairs.clean), self.embeddings(self.pairs.attacked)])
        elif parameters.tune == "last_blocks" and can_split(self.clip.model.visual):
            last_parameters(self.clip.model.visual, parameters.blocks or 0)  # refuses more blocks than there are
            from_activations = self._activations_fit(parameters.blocks or 0)
        return Policy(self.clip, parameters, bf16=self.bf16, embeddings=embeddings, from_activations=from_activations)

    def inputs(self, policy: Policy, view: View) -> Tensor:
        """What ``policy`` takes for the images of a view, row by row: embeddings, activations or pixels."""
        if policy.input_kind == "embeddings":
            return self.embeddings(view)
        if policy.input_kind == "activations":
            return self._activations(view, policy.blocks)
        return view.images

    def prompts(self, policy: Policy, class_names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        """What ``policy`` takes for class prompts: text embeddings (C, d); token ids (T, C, L) with ``tune: all``."""
        return self._tokens(class_names, templates) if policy.tune == "all" else self.text(class_names, templates)

    def embeddings(self, view: View) -> Tensor:
        """The reference's normalised image embeddings (N, d)."""
        key = {"embeddings": view.digest, "weights": self.clip.digest, "bf16": self.bf16, "device": self.device.type}
        name = digest_of(key)
        if name not in self._memory:
            found = self._store.get(key, lambda: {"embeddings": self._embed(view)})
            self._memory[name] = found["embeddings"].to(self.device)
        return self._memory[name]

    def text(self, class_names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        """The reference's text embeddings (C, d)."""
        name = digest_of(["text", class_names, templates])
        if name not in self._memory:
            with torch.no_grad(), mixed_precision(self.device, self.bf16):
                self._memory[name] = prompt_embeddings(self.clip.model, self._tokens(class_names, templates))
        return self._memory[name]

    def reference_logits(self, view: View, class_names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        """(N, C) logits of the untouched model."""
        name = digest_of(["logits", view.digest, class_names, templates])
        if name not in self._memory:
            model = self.clip.model
            with torch.no_grad():
                logits = model.logit_scale.exp() * self.embeddings(view) @ self.text(class_names, templates).T
                bias = getattr(model, "logit_bias", None)
                self._memory[name] = logits if bias is None else logits + bias
        return self._memory[name]

    def data_digest(self) -> str:
        """Of everything that is trained and searched on."""
        sets = [view.digest for one in self.search_sets for view in (one.clean, one.attacked)]
        return digest_of([self.pairs.attacked.digest, self.pairs.clean.digest, *sets])

    def _images(self, reference: str, default: Split) -> ImageSet:
        name, split = split_of(reference, default)
        return self._source.load(name, self.task.sets[name], cast(Split, split))

    def _test_images(self) -> list[ImageSet]:
        test = self.task.evaluate.test
        return [subset(self._images(name, "test"), test.images, seed=self._data_seed) for name in test.sets]

    def _evaluation_set(self, reference: str, default: Split, count: int | None) -> EvaluationSet:
        images = subset(self._images(reference, default), count, seed=self._data_seed)
        attacked = self._source.attacked(images, trained_attack(self.task.attack), seed=self._data_seed)
        return _evaluation_set(images, attacked)

    def _tokens(self, class_names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        prompts = [[template.format(name) for name in class_names] for template in templates]
        return torch.stack([self.clip.tokens(one) for one in prompts])

    @torch.no_grad()
    def _embed(self, view: View) -> np.ndarray:
        parts = []
        for images in view.images.split(EMBEDDING_BATCH):
            with mixed_precision(self.device, self.bf16):
                features = self.clip.model.visual(self.clip.pixels(images))
            parts.append(F.normalize(features.float(), dim=-1).cpu())
        return torch.cat(parts).numpy()

    def _activations(self, view: View, blocks: int) -> Tensor:
        """Trunk activations of the view (N, ...)."""
        name = digest_of(["activations", view.digest, blocks])
        if name not in self._memory:
            self._memory[name] = torch.cat([self._trunk(part, blocks) for part in view.images.split(EMBEDDING_BATCH)])
        return self._memory[name]

    def _activations_fit(self, blocks: int) -> bool:
        """Whether the activations of everything a trial looks at may be kept."""
        views = [self.pairs.clean, self.pairs.attacked]
        views += [view for one in self.search_sets for view in (one.clean, one.attacked)]
        one_bytes = self._trunk(self.pairs.clean.images[:1], blocks).nbytes
        return one_bytes * sum(len(view.labels) for view in views) <= ACTIVATIONS_LIMIT_BYTES

    @torch.no_grad()
    def _trunk(self, images: Tensor, blocks: int) -> Tensor:
        with mixed_precision(self.device, self.bf16):
            return trunk(self.clip.model.visual, self.clip.pixels(images), blocks).cpu()


def _evaluation_set(images: ImageSet, attacked: AttackedImages) -> EvaluationSet:
    return EvaluationSet(
        images.name,
        View(images.images, images.labels, None, images.digest),
        View(attacked.images, images.labels, attacked.written, attacked.digest),
        images.class_names,
        images.templates,
    )

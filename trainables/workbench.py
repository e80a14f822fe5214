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

from trainables.attack import Variant, generator
from trainables.clip import load_clip
from trainables.data import (
    DataSource,
    ImageSet,
    held_out_variants,
    preference_images,
    subset,
    trained_attack,
)
from trainables.policy import Policy, mixed_precision, prompt_embeddings
from trainables.set_settings import ImageSetSettings, ScamSet, Split, TypographicSet
from trainables.settings import Parameters, TaskSettings, split_of
from trainables.store import Store, digest_of
from trainables.towers import can_split, last_parameters, trunk

EMBEDDING_BATCH = 256
VARIANT_IMAGES = 2000
"""Of each test set, under each held-out attack and as signs: ten more looks at every image of a large set would cost
more than they tell (95 % intervals are within 0.022 at this size)."""
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
    """What is measured on: an image set clean and attacked, over all its classes."""

    name: str
    keys: tuple[str, ...]
    clean: View | None
    """None where photographs show written words only."""
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
        self._source = DataSource(self._store, self.clip.crop, self.clip.image_size, self.clip.geometry)
        self._memory: dict[str, Tensor] = {}
        self._logit_scale = self.clip.model.logit_scale.detach().exp()
        bias = getattr(self.clip.model, "logit_bias", None)
        self._logit_bias = None if bias is None else bias.detach().clone()
        self._broken: dict[str, tuple[str, ...]] = {}
        self._policy: Policy | None = None
        """The last one given out: it tunes the CLIP of this workbench in place."""

    @cached_property
    def pairs(self) -> PreferencePairs:
        """Images of the preference classes and their attacked copies."""
        train = self.task.train
        loaded = self._images(f"{train.set}/train", "train")
        images = preference_images(loaded, train, seed=self._data_seed, store=self._store)
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
        """Images that no decision was taken on, with words pasted on them."""
        attack = trained_attack(self.task.attack)
        return [self._attacked(images, attack) for images in self._test_images]

    @cached_property
    def typographic_sets(self) -> list[EvaluationSet]:
        """Real photographs of written words."""
        return [self._typographic_set(name) for name in self.task.evaluate.test.sets if self._is_typographic(name)]

    @cached_property
    def variant_sets(self) -> dict[str, list[EvaluationSet]]:
        """``test_sets`` under attacks that preference data never show, by the attack's name; at most
        ``VARIANT_IMAGES`` of each set."""
        return {
            name: [self._attacked(images, attack) for images in self._variant_images]
            for name, attack in held_out_variants(self.task.attack).items()
        }

    @cached_property
    def sign_sets(self) -> list[EvaluationSet]:
        """Words on images without an object, as attacked views labelled with the word; one per set of ``test_sets``."""
        found = []
        for images in self._variant_images:
            settings = self.task.sets[images.name.partition("/")[0]]
            signs = self._source.signs(images, self.task.attack.recipe, settings, seed=self._data_seed)
            view = View(signs.images, signs.labels, None, signs.digest)
            found.append(EvaluationSet(signs.name, signs.keys, None, view, signs.class_names, signs.templates))
        return found

    def clean_sample(self, reference: str, most: int) -> tuple[View, ImageSet, int]:
        """At most so many images of ``name`` (its test split) or ``name/split`` as they are, and how many there are."""
        images = self._images(reference, "test")
        chosen = subset(images, most, seed=self._data_seed)
        return View(chosen.images, chosen.labels, None, chosen.digest), chosen, len(images.labels)

    def prepare_test(self) -> None:
        """Everything of the reference that a test needs; to be called while the model has the reference's weights."""
        sets = [*self.test_sets, *self.typographic_sets]
        for one in (*sets, *(self.sign_sets if self.task.evaluate.test.variants else [])):
            self.text(one.class_names, one.templates)
        for one in sets:
            if one.clean is not None:
                self.embeddings(one.clean)

    def broken(self) -> dict[str, list[str]]:
        """Images that could not be decoded and were left out, by split read so far; splits without any left out."""
        return {name: list(images) for name, images in self._broken.items() if images}

    def pair_rows(self, parameters: Parameters) -> Tensor:
        """Rows of ``pairs.attacked`` that a trial trains on: the first copies, of the images it may have.

        Raises ValueError where there are fewer copies or images than asked for.
        """
        images, most = len(self.pairs.clean.labels), self.task.train.copies
        copies = most if parameters.copies is None else parameters.copies
        if copies > most:
            raise ValueError(f"copies {copies}: preference data have {most}; raise train.copies")
        chosen = torch.arange(images)
        if parameters.images is not None:
            if parameters.images > images:
                raise ValueError(f"images {parameters.images}: preference data have {images} images")
            order = generator(self._data_seed, "images of a trial").permutation(images)
            chosen = torch.from_numpy(np.sort(order[: parameters.images]))
        return torch.cat([copy * images + chosen for copy in range(copies)])

    def policy(self, parameters: Parameters) -> Policy:
        """A policy at the reference's weights."""
        # All texts while the text tower has the reference's weights.
        searched = [self.text(one.class_names, one.templates) for one in self.search_sets]
        embeddings, prompts, from_activations = None, None, False
        if parameters.tune == "transform":
            rows = self.pair_rows(parameters)
            clean, attacked = self.embeddings(self.pairs.clean), self.embeddings(self.pairs.attacked)
            embeddings = torch.cat([clean[rows[rows < len(clean)]], attacked[rows]])
            prompts = torch.cat([self.text(self.pairs.class_names, self.pairs.templates), *searched])
        elif parameters.tune == "last_blocks" and can_split(self.clip.model.visual):
            last_parameters(self.clip.model.visual, parameters.blocks or 0)  # refuses more blocks than there are
            from_activations = self._activations_fit(parameters.blocks or 0)
        self._policy = Policy(
            self.clip,
            parameters,
            bf16=self.bf16,
            embeddings=embeddings,
            prompts=prompts,
            from_activations=from_activations,
            gradient_checkpointing=self.task.training.gradient_checkpointing,
        )
        return self._policy

    def inputs(self, policy: Policy, view: View) -> Tensor:
        """What ``policy`` takes for the images of a view, row by row: embeddings, activations or pixels."""
        if policy.input_kind == "embeddings":
            return self.embeddings(view)
        if policy.input_kind == "activations":
            return self._activations(view, policy.blocks)
        return view.images

    def input_rows(self, policy: Policy, view: View, rows: Tensor) -> Tensor:
        """``inputs`` of some rows. Activations are kept of what is searched on only: a test is looked at once."""
        if policy.input_kind == "activations" and not any(view is searched for searched in self._search_views()):
            return self._trunk(view.images[rows], policy.blocks)
        return self.inputs(policy, view)[rows]

    def prompts(self, policy: Policy, class_names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        """What ``policy`` takes for class prompts: text embeddings (C, d); token ids (T, C, L) where it is trained."""
        return self._tokens(class_names, templates) if policy.trains_text else self.text(class_names, templates)

    def embeddings(self, view: View) -> Tensor:
        """The reference's normalised image embeddings (N, d)."""
        key = {"embeddings": view.digest, "weights": self.clip.digest, "bf16": self.bf16, "device": self.device.type}
        name = digest_of(key)
        if name not in self._memory:
            self._assert_reference()
            found = self._store.get(key, lambda: {"embeddings": self._embed(view)})
            self._memory[name] = found["embeddings"].to(self.device)
        return self._memory[name]

    def text(self, class_names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        """The reference's text embeddings (C, d)."""
        name = digest_of(["text", class_names, templates])
        if name not in self._memory:
            self._assert_reference()
            with torch.no_grad(), mixed_precision(self.device, self.bf16):
                self._memory[name] = prompt_embeddings(self.clip.model, self._tokens(class_names, templates))
        return self._memory[name]

    def reference_logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Logits (B, C) of the untouched model from its embeddings (B, d) and text embeddings (C, d)."""
        logits = self._logit_scale * embeddings @ text.T
        return logits if self._logit_bias is None else logits + self._logit_bias

    def data_digest(self) -> str:
        """Of everything that is trained and searched on."""
        sets = [view.digest for view in self._search_views()]
        return digest_of([self.pairs.attacked.digest, self.pairs.clean.digest, *sets])

    def validation_digest(self) -> str:
        """Of everything that is searched on: points with equal digests may stand on one front."""
        return digest_of([view.digest for view in self._search_views()])

    def _assert_reference(self) -> None:
        assert self._policy is None or self._policy.at_reference(), "the reference is measured with its own weights"

    def _search_views(self) -> list[View]:
        return [view for one in self.search_sets for view in (one.clean, one.attacked) if view is not None]

    def _images(self, reference: str, default: Split) -> ImageSet:
        name, split = split_of(reference, default)
        images = self._source.load(name, self.task.sets[name], cast(Split, split))
        self._broken[images.name] = images.broken
        return images

    def _is_typographic(self, reference: str) -> bool:
        return isinstance(self.task.sets[split_of(reference, "test")[0]], TypographicSet)

    @cached_property
    def _test_images(self) -> list[ImageSet]:
        """Of the sets on which words are pasted."""
        test, seed = self.task.evaluate.test, self._data_seed
        pasted = [name for name in test.sets if not self._is_typographic(name)]
        return [subset(self._images(name, "test"), test.images, seed=seed, store=self._store) for name in pasted]

    @cached_property
    def _variant_images(self) -> list[ImageSet]:
        seed, store = self._data_seed, self._store
        return [subset(images, VARIANT_IMAGES, seed=seed, store=store) for images in self._test_images]

    def _evaluation_set(self, reference: str, default: Split, count: int | None) -> EvaluationSet:
        images = subset(self._images(reference, default), count, seed=self._data_seed, store=self._store)
        return self._attacked(images, trained_attack(self.task.attack))

    def _attacked(self, images: ImageSet, attack: Variant) -> EvaluationSet:
        return pasted_set(self._source, images, attack, seed=self._data_seed)

    def _typographic_set(self, reference: str) -> EvaluationSet:
        name, _ = split_of(reference, "test")
        images = subset(self._images(reference, "test"), self.task.evaluate.test.images, seed=self._data_seed)
        return typographic_set(self._source, name, self.task.sets[name], images)

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
        views = [self.pairs.clean, self.pairs.attacked, *self._search_views()]
        one_bytes = self._trunk(self.pairs.clean.images[:1], blocks).nbytes
        return one_bytes * sum(len(view.labels) for view in views) <= ACTIVATIONS_LIMIT_BYTES

    @torch.no_grad()
    def _trunk(self, images: Tensor, blocks: int) -> Tensor:
        with mixed_precision(self.device, self.bf16):
            return trunk(self.clip.model.visual, self.clip.pixels(images), blocks).cpu()


def pasted_set(source: DataSource, images: ImageSet, attack: Variant, *, seed: int) -> EvaluationSet:
    """Images, and the same images with a word written on each."""
    attacked = source.attacked(images, attack, seed=seed)
    return EvaluationSet(
        images.name,
        images.keys,
        View(images.images, images.labels, None, images.digest),
        View(attacked.images, images.labels, attacked.written, attacked.digest),
        images.class_names,
        images.templates,
    )


def typographic_set(source: DataSource, name: str, settings: ImageSetSettings, images: ImageSet) -> EvaluationSet:
    """Photographs of written words, and the same scenes without them where the set has those."""
    assert images.written is not None, "typographic sets know what is written"
    without, clean = None, source.load_clean(name, settings) if isinstance(settings, ScamSet) else None
    if clean is not None:
        row = {key: i for i, key in enumerate(clean.keys)}
        both = [i for i, key in enumerate(images.keys) if key in row]  # a scene that is broken in one is in neither
        images = images.take(both, images.class_names, images.labels[both])
        index = [row[key] for key in images.keys]
        without = View(clean.images[index], clean.labels[index], images.written, digest_of([clean.digest, index]))
    assert images.written is not None
    attacked = View(images.images, images.labels, images.written, images.digest)
    return EvaluationSet(images.name, images.keys, without, attacked, images.class_names, images.templates)

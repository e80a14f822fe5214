"""What a process keeps between trials: the CLIP, prepared images, and everything of the frozen reference.

The reference never changes within a sweep, so its embeddings of every view and its text embeddings are computed once:
keyed by weights, pixels and precision, on disk for all processes of a node, in memory for all trials of a process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.attack.rendering import Variant, generator
from trainables.data.cache import Store, digest_of
from trainables.data.image_set import ImageSet, preference_images, subset
from trainables.data.source import DataSource, held_out_variants, trained_attack
from trainables.data.views import EvaluationSet, PreferencePairs, View, pasted_set, typographic_set
from trainables.memory import in_parts
from trainables.models.clip import load_clip
from trainables.models.policy import Policy, mixed_precision, prompt_embeddings
from trainables.models.towers import can_split, features, last_parameters, shortened, trunk
from trainables.settings.parameters import Parameters
from trainables.settings.sets import Split, TypographicSet
from trainables.settings.task import TaskSettings, split_of

EMBEDDING_BATCH = 256
EVALUATION_BATCH = 512
DEVICE_SHARE = 0.3
"""Of a GPU's memory that is free at the time, what images or activations of all that a trial looks at may take to be
kept there; above it they stay in the host's memory."""
VARIANT_IMAGES = 2000
"""Of each test set, under each held-out attack and as signs: ten more looks at every image of a large set would cost
more than they tell (95 % intervals are within 0.022 at this size)."""
ACTIVATIONS_LIMIT_BYTES = 2 * 2**30
"""Without a GPU: trunk activations of all that a trial looks at are kept up to this size; above it the tower sees
pixels."""


class TrialContext:
    """Built once per process; ``cache`` is shared by all processes of a node."""

    def __init__(self, task: TaskSettings, *, data_seed: int, cache: Path, device: torch.device) -> None:
        """Raises ValueError where the model or the images cannot be had."""
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
        self._fitting: dict[str, bool] = {}
        """Kind of inputs -> whether they are kept ready for all trials."""
        self.evaluation_batch_size = EVALUATION_BATCH
        """Images; less once memory ran out."""
        self._micro_batch_sizes: dict[tuple[str, int | None], int] = {}
        """What fitted into memory, by what is trained."""
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

    def micro_batch_size(self, parameters: Parameters) -> int | None:
        """Pairs that fitted into memory in a trial of the same scope; None where it never ran out."""
        return self._micro_batch_sizes.get((parameters.tune, parameters.blocks))

    def remember_micro_batch_size(self, parameters: Parameters, pairs: int) -> None:
        self._micro_batch_sizes[parameters.tune, parameters.blocks] = pairs

    def inputs(self, policy: Policy, view: View) -> Tensor:
        """What ``policy`` takes for the images of a view, row by row: embeddings, activations or pixels."""
        if policy.input_kind == "embeddings":
            return self.embeddings(view)
        if policy.input_kind == "activations":
            return self._activations(view, policy.blocks)
        return self._pixels(view)

    def input_rows(self, policy: Policy, view: View, rows: Tensor) -> Tensor:
        """``inputs`` of some rows. Only what is searched on is kept ready: a test is looked at once."""
        if policy.input_kind == "embeddings" or any(view is searched for searched in self._search_views()):
            return self.inputs(policy, view)[rows]
        images = view.images[rows]
        return self._trunk(images, policy.blocks) if policy.input_kind == "activations" else images

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

    def _trial_views(self) -> list[View]:
        """Everything that a trial looks at."""
        return [self.pairs.clean, self.pairs.attacked, *self._search_views()]

    def _room_bytes(self) -> int:
        """What may be taken to keep the inputs of a trial ready for all trials."""
        if self.device.type != "cuda":
            return ACTIVATIONS_LIMIT_BYTES
        free_bytes, _ = torch.cuda.mem_get_info(self.device)
        return int(DEVICE_SHARE * free_bytes)

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
        return shortened(self.clip.model, torch.stack([self.clip.tokens(one) for one in prompts]))

    @torch.no_grad()
    def _embed(self, view: View) -> np.ndarray:
        def embed(rows: Tensor) -> Tensor:
            with mixed_precision(self.device, self.bf16):
                found = features(self.clip.model.visual, self.clip.pixels(view.images[rows]))
            return F.normalize(found.float(), dim=-1).cpu()

        parts, _ = in_parts(torch.arange(len(view.labels)), EMBEDDING_BATCH, embed)
        return torch.cat(parts).numpy()

    def _activations(self, view: View, blocks: int) -> Tensor:
        """Trunk activations of the view (N, ...)."""
        name = digest_of(["activations", view.digest, blocks])
        if name not in self._memory:
            rows = torch.arange(len(view.labels))
            parts, _ = in_parts(rows, EMBEDDING_BATCH, lambda part: self._trunk(view.images[part], blocks))
            self._memory[name] = torch.cat(parts)
        return self._memory[name]

    def _pixels(self, view: View) -> Tensor:
        """Prepared images of a view (N, H, W, 3), on a GPU where they fit: they are normalised there."""
        if self.device.type == "cpu":
            return view.images
        name = digest_of(["pixels", view.digest])
        if name not in self._memory:
            fit = self._fit("pixels", lambda: view.images[:1].nbytes)
            self._memory[name] = view.images.to(self.device) if fit else view.images
        return self._memory[name]

    def _activations_fit(self, blocks: int) -> bool:
        """Whether the activations of everything a trial looks at may be kept."""
        return self._fit(f"activations {blocks}", lambda: self._trunk(self.pairs.clean.images[:1], blocks).nbytes)

    def _fit(self, kind: str, row_bytes: Callable[[], int]) -> bool:
        """Decided once for each kind of inputs: what is kept counts against the room that is left."""
        if kind not in self._fitting:
            rows = sum(len(view.labels) for view in self._trial_views())
            self._fitting[kind] = rows * row_bytes() <= self._room_bytes()
        return self._fitting[kind]

    @torch.no_grad()
    def _trunk(self, images: Tensor, blocks: int) -> Tensor:
        with mixed_precision(self.device, self.bf16):
            return trunk(self.clip.model.visual, self.clip.pixels(images), blocks)

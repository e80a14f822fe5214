"""A large pool of embedded images of the generated world, from which each sweep of ``coverage`` draws its images."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.context.inputs import InputCache
from trainables.context.reference import ReferenceCache
from trainables.context.task_images import TaskImages
from trainables.context.trial_context import TrialContext
from trainables.context.typographic_data import TypographicData
from trainables.data.cache import Store
from trainables.data.image_set import ImageSet, View
from trainables.data.typographic import EvaluationSet, PreferencePairs
from trainables.evaluation.typographic import settings_of
from trainables.models.clip import Clip
from trainables.settings.task import TaskSettings

POOL = {"train": 12000, "validation": 20, "test": 24000}
PAIRS, VALIDATION, TEST = 256, 500, 1000


class Draw(TrialContext):
    """The images of the pool that one sweep sees. Embeddings are read from the pool."""

    data: DrawnData

    def __init__(self, pool: TrialContext, cache: Path, seed: int, unseen: int = 0) -> None:
        """``unseen``: images of the second look."""

        def load(task: TaskSettings, images: TaskImages) -> DrawnData:
            return DrawnData(pool, images, unseen)

        super().__init__(pool.task, load, pool.measures, data_seed=seed, cache=cache, device=pool.device)
        self.reference = DrawnReference(self.clip, self.data, Store(cache), bf16=self.bf16)
        self.inputs = InputCache(self.clip, self.data, self.reference, bf16=self.bf16)


class DrawnData(TypographicData):
    """Rows of the pool's pairs and of its test images, without pixels: a transform needs none."""

    def __init__(self, pool: TrialContext, images: TaskImages, unseen: int) -> None:
        super().__init__(settings_of(pool), images)
        self._unseen = unseen
        self.pool, self._rows = pool, np.random.default_rng([images.seed, 7])
        self.drawn: dict[str, Tensor] = {}
        """Embeddings by the digest of a view."""

    @cached_property
    def pairs(self) -> PreferencePairs:
        whole = self.pool.data.pairs
        rows = torch.from_numpy(self._rows.permutation(len(whole.images.labels))[:PAIRS])
        images = self._drawn(whole.images, whole.clean, rows, "train")
        return PreferencePairs(images, self._view(whole.attacked, rows, "train, attacked"))

    @cached_property
    def parts(self) -> dict[str, EvaluationSet]:
        """Return a partition of the pool's test images; ``unseen`` is for the second look, ``fresh`` for truths."""
        whole = self.pool.data.test_sets[0]
        order = torch.from_numpy(self._rows.permutation(len(whole.images.keys)))
        rows = torch.tensor_split(order, [VALIDATION, VALIDATION + TEST, VALIDATION + TEST + self._unseen])
        names = ("validation", "test", "unseen", "fresh")
        return {name: self._set(whole, part, name) for name, part in zip(names, rows, strict=True)}

    @cached_property
    def search_sets(self) -> list[EvaluationSet]:
        return [self.parts["validation"]]

    @cached_property
    def unseen_sets(self) -> list[EvaluationSet]:
        return [self.parts["unseen"]] if self._unseen else []

    def unseen_images(self) -> list[int]:
        return [self._unseen]

    @cached_property
    def test_sets(self) -> list[EvaluationSet]:
        return [self.parts["test"]]

    def _set(self, whole: EvaluationSet, rows: Tensor, name: str) -> EvaluationSet:
        assert whole.clean is not None
        images = self._drawn(whole.images, whole.clean, rows, name)
        return EvaluationSet(images, images.view(), self._view(whole.attacked, rows, f"{name}, attacked"))

    def _drawn(self, whole: ImageSet, clean: View, rows: Tensor, name: str) -> ImageSet:
        view, keys = self._view(clean, rows, name), tuple(whole.keys[row] for row in rows.tolist())
        return ImageSet(name, view.images, view.labels, keys, whole.class_names, whole.templates, view.digest)

    def _view(self, whole: View, rows: Tensor, name: str) -> View:
        self.drawn[name] = self.pool.reference.embeddings(whole)[rows]
        written = None if whole.written is None else whole.written[rows]
        return View(torch.empty(len(rows), 0), whole.labels[rows], written, name)


class DrawnReference(ReferenceCache):
    """The pool's embeddings of the images that were drawn."""

    def __init__(self, clip: Clip, data: DrawnData, store: Store, *, bf16: bool) -> None:
        super().__init__(clip, store, bf16=bf16)
        self._data = data

    def embeddings(self, view: View) -> Tensor:
        return self._data.drawn[view.digest]

"""A large pool of embedded images of the generated world, of which each sweep of ``calibration`` draws its own."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.trial_context import EvaluationSet, PreferencePairs, TrialContext, View

POOL = {"train": 12000, "validation": 20, "test": 24000}
PAIRS, VALIDATION, TEST = 256, 500, 1000


class Draw(TrialContext):
    """The pool, of which one sweep sees some images. Embeddings are those of the pool."""

    def __init__(self, pool: TrialContext, cache: Path, seed: int) -> None:
        super().__init__(pool.task, data_seed=seed, cache=cache, device=pool.device)
        self._pool, self._rows = pool, np.random.default_rng([seed, 7])
        self._drawn: dict[str, Tensor] = {}

    @cached_property
    def pairs(self) -> PreferencePairs:
        whole = self._pool.pairs
        rows = torch.from_numpy(self._rows.permutation(len(whole.clean.labels))[:PAIRS])
        clean, attacked = self._view(whole.clean, rows, "train"), self._view(whole.attacked, rows, "train, attacked")
        return PreferencePairs(clean, attacked, whole.class_names, whole.templates)

    @cached_property
    def parts(self) -> dict[str, EvaluationSet]:
        """``validation``, ``test`` and ``fresh``: disjoint, together the pool's test images."""
        whole = self._pool.test_sets[0]
        order = torch.from_numpy(self._rows.permutation(len(whole.keys)))
        rows = torch.tensor_split(order, [VALIDATION, VALIDATION + TEST])
        return {
            name: self._set(whole, own, name) for name, own in zip(("validation", "test", "fresh"), rows, strict=True)
        }

    @cached_property
    def search_sets(self) -> list[EvaluationSet]:
        return [self.parts["validation"]]

    @cached_property
    def test_sets(self) -> list[EvaluationSet]:
        return [self.parts["test"]]

    def embeddings(self, view: View) -> Tensor:
        return self._drawn[view.digest]

    def _set(self, whole: EvaluationSet, rows: Tensor, name: str) -> EvaluationSet:
        assert whole.clean is not None
        keys = tuple(whole.keys[row] for row in rows.tolist())
        clean, attacked = self._view(whole.clean, rows, name), self._view(whole.attacked, rows, f"{name}, attacked")
        return EvaluationSet(name, keys, clean, attacked, whole.class_names, whole.templates)

    def _view(self, whole: View, rows: Tensor, name: str) -> View:
        self._drawn[name] = self._pool.embeddings(whole)[rows]
        written = None if whole.written is None else whole.written[rows]
        return View(torch.empty(len(rows), 0), whole.labels[rows], written, name)  # no pixels: a transform sees none

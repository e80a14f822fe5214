"""Trains one scattered setting after the other on the embedded world, with the answers of each trial image by image."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.search.scattered_file import Conditions, Goals, Sizes, Training, Untouched
from benchmarks.search.scattered_space import setting
from trainables.context.batch_sizes import EVALUATION_BATCH
from trainables.context.task import Validation
from trainables.context.trial_context import TrialContext
from trainables.data.typographic import EvaluationSet
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import means, untouched_policy
from trainables.evaluation.typographic import TypographicMeasures, data_of, goal_scores
from trainables.models.policy import Policy
from trainables.numerics import flushed_denormals
from trainables.records import Point, Report
from trainables.settings.parameters import Parameters
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.typographic import TypographicKind
from trainables.training.hooks import Hooks
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

RUNGS = (1 / 9, 1 / 3)
STRENGTHS = [0.25, 0.5, 0.75, 1.0]


def world_task(sizes: Sizes) -> TypographicSettings:
    """Return the task of the trainings: preference pairs of ten classes, goals over all twenty."""
    images = {"train": sizes.train, "validation": sizes.validation, "test": sizes.test[-1]}
    return TypographicSettings.model_validate(
        {
            "sets": {"world": {"kind": "world", **images}},
            "train": {"set": "world", "classes": 0.5, "copies": 1},
            "attack": {"recipe": "sign"},
            "evaluate": {
                "search": {"sets": ["world"]},
                "front": {"strengths": STRENGTHS},
                "test": {"sets": ["world"], "variants": False},
            },
            "training": {
                "epochs": sizes.epochs,
                "global_batch_size": sizes.batch,
                "warmup_share": 0.1,
                "precision": "bf16",
            },
        }
    )


class KeptAnswers(TypographicMeasures):
    """Measures a trial as every typographic trial is measured, and keeps its answers to the validation images."""

    def __init__(self) -> None:
        self.measured: list[np.ndarray] = []
        """Per evaluation (2, V / 8) uint8, as a row of ``Training.answers``; whoever trains clears it before."""

    def validation(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> Validation:
        scores = goal_scores(context, policy, data_of(context).search_sets, group)
        self.measured.append(np.packbits([scores["clean_accuracy"][0], scores["robust_accuracy"][0]], axis=-1))
        return Validation(values=means(scores), hits={})


class Recorder:
    """Trains trials of one scope in one process."""

    def __init__(self, conditions: Conditions, cache: Path) -> None:
        """``cache``: folder of prepared images, shared by processes."""
        self._scope, self._sizes = conditions.scope, conditions.sizes
        self._measures = KeptAnswers()
        self._context = TrialContext(
            world_task(conditions.sizes),
            TypographicKind().load,
            self._measures,
            data_seed=conditions.data_seed,
            cache=cache,
            device=torch.device("cpu"),
        )
        self._group = WorkerGroup(device=self._context.device)
        self._test_set = data_of(self._context).test_sets[0]
        self._prepare()

    def untouched(self) -> Untouched:
        self._measures.measured.clear()
        policy = untouched_policy(self._context)
        self._measures.validation(self._context, policy, self._group)
        return Untouched(self._measures.measured[0], self._tested(policy))

    def train(self, number: int, seed: int) -> Training:
        """Train a setting with a seed for the order of its batches.

        A trial whose loss or weights become infinite is recorded as failed.
        """
        point = setting(self._scope, number)
        parameters = Parameters.model_validate(point)
        reports: list[Report] = []
        measured = self._measures.measured
        measured.clear()
        result, test, failure = None, (), None
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
            folder = TrialFolder(Path(name))
            try:
                result = run_trial(
                    self._context,
                    parameters,
                    seed=seed,
                    folder=folder,
                    group=self._group,
                    hooks=Hooks(report=reports.append),
                    rungs=RUNGS,
                )
                test = self._tested_points(parameters, folder, result.points)
            # The powers of a W that is no longer finite do not exist.
            except (ArithmeticError, torch.linalg.LinAlgError) as error:
                failure = str(error).splitlines()[0]
        rows = [i for i, report in enumerate(reports) if report.rung]
        if result is not None:
            rows += range(len(reports) - 1, len(measured))  # the last report is the first point
        answers = np.array([measured[row] for row in rows], np.uint8).reshape(len(rows), 2, self._row_bytes)
        return Training(number, seed, point, tuple(reports), result, failure, answers, test)

    @property
    def _row_bytes(self) -> int:
        return math.ceil(self._sizes.validation / 8)

    def _prepare(self) -> None:
        """Compute what all trials share, so that no trial is timed with it."""
        policy = self._context.policy(Parameters.model_validate(setting(self._scope, 0)))
        with flushed_denormals():
            for view in (*self._context.data.searched_views(), *self._test_set.views()):
                self._context.inputs.whole_view(policy, view)
        self._context.release(policy)

    def _tested_points(
        self, parameters: Parameters, folder: TrialFolder, points: Sequence[Point]
    ) -> tuple[tuple[Goals, ...], ...]:
        """Goals on test of a finished trial: per point and size."""
        policy = self._context.policy(parameters)
        tested = []
        try:
            for point in points:
                policy.set_weights(folder.weights(point.weights), point.strength)
                tested.append(self._tested(policy))
        finally:
            self._context.release(policy)
        return tuple(tested)

    def _tested(self, policy: Policy) -> tuple[Goals, ...]:
        """Goals over the first images of the test set, per size."""
        with flushed_denormals():
            right = right_answers(self._context, policy, self._test_set)
        means_of = [right[:, :size].mean(axis=1) for size in self._sizes.test]
        return tuple((float(clean), float(robust)) for clean, robust in means_of)


@torch.no_grad()
def right_answers(context: TrialContext, policy: Policy, images: EvaluationSet) -> np.ndarray:
    """Return whether each image is answered right, clean and attacked: (2, N) bool.

    As ``trainables.evaluation.predictions``, but what the policy takes for the images is kept: they are measured again
    and again. No two classes of the world have the same name.
    """
    prompts = context.inputs.prompts(policy, images.images.class_names, images.images.templates)
    text = policy.text_embeddings(prompts)
    right = []
    for view in images.views():
        batches = context.inputs.whole_view(policy, view).split(EVALUATION_BATCH)
        answers = torch.cat([policy.logits(policy.image_embeddings(batch), text).argmax(-1) for batch in batches])
        right.append((answers.cpu() == view.labels).numpy())
    return np.array(right)

"""A small third task: images that are upside down are to be recognised, those that are not as well as before.

A test puts this file into a copy of ``trainables/tasks`` and its kind into the list of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.context.task import Validation
from trainables.context.task_images import TaskImages
from trainables.context.trial_context import TrialContext
from trainables.data.cache import digest_of
from trainables.data.image_set import ImageSet, View
from trainables.data.preferences import Preferences, Prompts
from trainables.distributed import WorkerGroup
from trainables.evaluation.answers import CLEAN, Answers, write_answers
from trainables.evaluation.measure import means, measurement
from trainables.evaluation.predictions import accuracy, answers_from_indices, predict
from trainables.models.policy import Policy
from trainables.records import Goal, Goals, Measurement
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings
from trainables.tasks.kind import Baseline, CardText, Metric, TestedValues

TURNED = "turned"


class TurnedSettings(TaskSettings):
    task: Literal["turned"]
    quarters: int = 2


class TurnedData:
    def __init__(self, task: TurnedSettings, images: TaskImages) -> None:
        self._task, self._images = task, images

    @cached_property
    def preferences(self) -> Preferences:
        images = self._images.load(f"{self._task.train.set}/train", "train")
        prompts = Prompts(images.class_names, images.templates)
        others = (images.labels + 1) % len(images.class_names)
        return Preferences(self.turned(images), prompts, images.labels, others, images.view(), prompts)

    def turned(self, images: ImageSet) -> View:
        pixels = torch.rot90(images.images, self._task.quarters, (1, 2)).contiguous()
        return View(pixels, images.labels, None, digest_of(["turned", self._task.quarters, images.digest]))

    def preference_rows(self, parameters: Parameters) -> Tensor:
        return self._images.rows_of_trial(parameters, self.preferences.images)

    @cached_property
    def searched(self) -> list[ImageSet]:
        search = self._task.evaluate.search
        return [self._images.subset(name, "validation", search.images) for name in search.sets]

    @cached_property
    def unseen(self) -> list[ImageSet]:
        of_sets = [self._images.unseen(name) for name in self._task.evaluate.search.sets]
        return [images for images in of_sets if images is not None]

    @cached_property
    def tested(self) -> list[ImageSet]:
        test = self._task.evaluate.test
        return [self._images.subset(name, "test", test.images) for name in test.sets]

    def searched_prompts(self) -> Sequence[Prompts]:
        return [Prompts(images.class_names, images.templates) for images in self.searched]

    def searched_views(self) -> Sequence[View]:
        return [view for images in self.searched for view in (images.view(), self.turned(images))]

    def validation_images(self) -> list[int]:
        return [len(images.keys) for images in self.searched]

    def unseen_images(self) -> list[int]:
        return self._images.unseen_counts()

    def chance(self) -> float:
        return 1 / len(self.searched[0].class_names)

    def described(self) -> list[str]:
        return [f"training: {self.preferences.images} images, turned"]

    def broken(self) -> dict[str, list[str]]:
        return self._images.broken()

    def digest(self) -> str:
        return digest_of([self.preferences.shown.digest, self.validation_digest()])

    def validation_digest(self) -> str:
        return digest_of([view.digest for view in self.searched_views()])


class TurnedMeasures:
    def findings(self, context: TrialContext) -> list[str]:
        return []

    def validation(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> Validation:
        scores = self._scores(context, policy, self._data(context).searched, group)
        return Validation(values=means(scores), hits=scores)

    def kept(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        return {}

    def second_look(self, context: TrialContext, policy: Policy, group: WorkerGroup) -> dict[str, float]:
        return means(self._scores(context, policy, self._data(context).unseen, group))

    def solved_strength(self, context: TrialContext, policy: Policy, weights: Mapping[str, Tensor]) -> float | None:
        return None

    def test(
        self, context: TrialContext, policy: Policy, group: WorkerGroup, *, variants: bool, answers: Path | None = None
    ) -> Measurement:
        data = self._data(context)
        told: list[Answers] = []
        for images in data.tested:
            for name, view in ((CLEAN, images.view()), (TURNED, data.turned(images))):
                told.append(answers_from_indices(images, view, name, predict(context, policy, images, view, group)))
        if answers is not None and group.is_first:
            write_answers(answers, told)
        scores = self._scores(context, policy, data.tested, group)
        return measurement(scores, data.broken(), images="upright_accuracy")

    def _data(self, context: TrialContext) -> TurnedData:
        assert isinstance(context.data, TurnedData)
        return context.data

    def _scores(
        self, context: TrialContext, policy: Policy, sets: Sequence[ImageSet], group: WorkerGroup
    ) -> dict[str, list[Any]]:
        scores: dict[str, list[Any]] = {"upright_accuracy": [], "turned_error": []}
        for images in sets:
            upright, turned = images.view(), self._data(context).turned(images)
            answers = predict(context, policy, images, upright, group), predict(context, policy, images, turned, group)
            scores["upright_accuracy"].append(accuracy(answers[0], images, upright))
            scores["turned_error"].append(~accuracy(answers[1], images, turned))
        return scores


class TurnedKind:
    name = "turned"
    settings: type[TaskSettings] = TurnedSettings

    def goals(self, settings: TaskSettings) -> Goals:
        upright = Goal(
            metric="upright_accuracy", direction="maximize", short="upright", title="upright accuracy",
            best="most upright", view=CLEAN,
        )  # fmt: skip
        error = Goal(
            metric="turned_error", direction="minimize", short="error", title="error upside down",
            best="best turned", view=None,
        )  # fmt: skip
        return upright, error

    def metrics(self, settings: TaskSettings) -> Mapping[str, Metric]:
        return {
            "upright_accuracy": Metric(direction="maximize", about="right answers on images as they are"),
            "turned_error": Metric(direction="minimize", about="wrong answers on images upside down"),
        }

    def curves(self, settings: TaskSettings) -> Sequence[str]:
        return "upright_accuracy", "turned_error"

    def about(self, metric: str) -> str | None:
        return None

    def unused_parameters(self) -> frozenset[str]:
        return frozenset({"target", "start", "copies"})

    def refuses(self, parameters: Parameters) -> tuple[str, str] | None:
        return None

    def baselines(self, settings: TaskSettings) -> Sequence[Baseline]:
        parameters = {"objective": "cross_entropy", "tune": "transform", "learning_rate": 0.01}
        return [Baseline(name="plain", title="plain cross-entropy", parameters=parameters)]

    def baseline_titles(self) -> Mapping[str, str]:
        return {"plain": "plain cross-entropy"}

    def goal_sets(self, settings: TaskSettings) -> list[str]:
        return [f"{name}/test" for name in settings.evaluate.test.sets]

    def card(self, settings: TaskSettings, values: TestedValues) -> CardText:
        return CardText(summary="A CLIP that recognises what is upside down.", data={}, limits=["For acrobats."])

    def load(self, settings: TaskSettings, images: TaskImages) -> TurnedData:
        assert isinstance(settings, TurnedSettings)
        return TurnedData(settings, images)

    def measures(self) -> TurnedMeasures:
        return TurnedMeasures()

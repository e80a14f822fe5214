"""The images of the attribute task: for training, for the search and for tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trainables.attack.rendering import generator
from trainables.context.task_images import TaskImages
from trainables.data.cache import digest_of
from trainables.data.image_set import ImageSet, View, preference_images, without_images
from trainables.data.preferences import Preferences, Prompts
from trainables.records import ValueOfContent
from trainables.settings.attribute import AttributeSection, AttributeSettings
from trainables.settings.parameters import Parameters
from trainables.settings.sets import Split


@dataclass(frozen=True)
class LabelledSet:
    """Images with a content and a value of the attribute, and the prompts that they are measured with."""

    images: ImageSet
    neutral: Prompts
    """C prompts that name the contents alone."""
    of_values: Prompts
    """V * C prompts: row ``value * C + content``."""
    queries: Prompts
    """Q prompts of retrievals."""

    @property
    def values(self) -> Tensor:
        """Return the value of each image: (N,) int64."""
        assert self.images.values is not None, "the settings allow only sets with an attribute"
        return self.images.values

    @property
    def prompts(self) -> tuple[Prompts, Prompts, Prompts]:
        return self.neutral, self.of_values, self.queries


def labelled_set(images: ImageSet, section: AttributeSection) -> LabelledSet:
    """Return a set with its prompts; ``images`` have values."""
    templates = tuple(
        template.replace("{value}", "{0.value}").replace("{content}", "{0.content}") for template in section.prompts
    )
    names = tuple(ValueOfContent(value, content) for value in images.value_names for content in images.class_names)
    neutral = Prompts(images.class_names, images.templates)
    queries = neutral if section.queries is None else Prompts(tuple(section.queries), ("{}",))
    return LabelledSet(images, neutral, Prompts(names, templates), queries)


class AttributeData:
    """Implements ``TaskData``."""

    def __init__(self, task: AttributeSettings, images: TaskImages) -> None:
        self._task, self._images = task, images

    @cached_property
    def preferences(self) -> Preferences:
        """Return the preference data of the attribute.

        Another value is preferred to the true one; if there are more than two values, it is drawn for each image. On
        the same images the policy must keep the content's classification.
        """
        train, seed, store = self._task.train, self._images.seed, self._images.store
        loaded = self._images.load(f"{train.set}/train", "train")
        images = preference_images(loaded, train, seed=seed, store=store)
        labelled, view = self._labelled(images), images.view()
        contents, count_v = len(images.class_names), len(images.value_names)
        labels, values = images.labels, labelled.values
        candidates = torch.arange(count_v) * contents + labels[:, None]
        return Preferences(
            shown=view,
            prompts=labelled.of_values,
            chosen=candidates.gather(1, self._other_values(images, values)[:, None])[:, 0],
            rejected=candidates.gather(1, values[:, None])[:, 0],
            kept=view,
            kept_prompts=labelled.neutral,
            values=values,
            candidates=candidates,
        )

    def preference_rows(self, parameters: Parameters) -> Tensor:
        """Return the rows (M,) of the training images that a trial trains on."""
        return self._images.rows_of_trial(parameters, self.preferences.images)

    @cached_property
    def search_sets(self) -> list[LabelledSet]:
        """Return the validation sets on which a trial is evaluated after each epoch; the goals are measured on them."""
        search = self._task.evaluate.search
        return [self._labelled(self._images.subset(name, "validation", search.images)) for name in search.sets]

    @cached_property
    def unseen_sets(self) -> list[LabelledSet]:
        """Return the validation images that the search does not see, for the sets of ``search_sets`` that have some."""
        of_sets = [self._images.unseen(name) for name in self._task.evaluate.search.sets]
        return [self._labelled(images) for images in of_sets if images is not None]

    @cached_property
    def test_sets(self) -> list[LabelledSet]:
        """Return the test sets: images on which no decision was based."""
        test = self._task.evaluate.test
        return [self._labelled(self._images.subset(name, "test", test.images)) for name in test.sets]

    def retention(self, name: str, split: Split) -> ImageSet:
        """Return the images of a further labelled set."""
        return self._images.subset(f"{name}/{split}", split, self._task.evaluate.test.images)

    def searched_prompts(self) -> list[Prompts]:
        return [prompts for searched in self.search_sets for prompts in (searched.neutral, searched.of_values)]

    def searched_views(self) -> list[View]:
        return [searched.images.view() for searched in self.search_sets]

    def validation_images(self) -> list[int]:
        return [len(searched.images.keys) for searched in self.search_sets]

    def unseen_images(self) -> list[int]:
        return self._images.unseen_counts()

    def chance(self) -> float:
        chances = [1 / len(searched.images.class_names) for searched in self.search_sets]
        return sum(chances) / len(chances)

    def described(self) -> list[str]:
        train = self._task.train
        loaded = preference_images(
            self._images.load(f"{train.set}/train", "train"), train, seed=self._images.seed, store=self._images.store
        )
        lines = [f"training: {_about(loaded)}"]
        lines += [f"validation: {searched.images.name}, {_about(searched.images)}" for searched in self.search_sets]
        return lines + [f"test: {tested.images.name}, {_about(tested.images)}" for tested in self.test_sets]

    def broken(self) -> dict[str, list[str]]:
        return self._images.broken()

    def digest(self) -> str:
        preferences = self.preferences
        told = [preferences.values.tolist() if preferences.values is not None else [], preferences.chosen.tolist()]
        return digest_of([preferences.shown.digest, preferences.prompts.names, *told, self.validation_digest()])

    def validation_digest(self) -> str:
        return digest_of(
            [
                (of_set.images.digest, of_set.values.tolist(), [p.names for p in of_set.prompts])
                for of_set in self.search_sets
            ]
        )

    def _labelled(self, images: ImageSet) -> LabelledSet:
        return labelled_set(images, self._task.attribute)

    def _other_values(self, images: ImageSet, values: Tensor) -> Tensor:
        """Return another value for each image (N,): the other one, or one of several, drawn for the image's key."""
        count = len(images.value_names)
        if count == 2:
            return 1 - values
        steps = [int(generator(self._images.seed, "other value", key).integers(1, count)) for key in images.keys]
        return (values + torch.tensor(steps)) % count


def _about(images: ImageSet) -> str:
    values = images.values
    assert values is not None, "the settings allow only sets with an attribute"
    shares = [f"{name} {int((values == value).sum())}" for value, name in enumerate(images.value_names)]
    without = without_images(images.labels, images.class_names)
    return f"{len(images.keys)} images, {len(images.class_names)} contents{without}; {', '.join(shares)}"

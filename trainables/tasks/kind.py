"""What a task is: it decides what preference data are, what the goals are, what is measured and what stands beside it.

``known.KINDS`` lists the tasks. A further one is a module with a ``TaskKind`` and a line in that list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trainables.records import Direction, Goals
from trainables.settings.parameters import Parameters
from trainables.settings.task import TaskSettings

if TYPE_CHECKING:
    from trainables.context.task import Measures, TaskData
    from trainables.context.task_images import TaskImages


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Something that is measured."""

    direction: Direction
    """Which way is better: a bound on it is a floor where it is maximised, else a ceiling."""
    about: str
    """In a few words, for people."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A trial that every sweep of the task begins with, and that its front always shows."""

    name: str
    """For records and ``--pick``: ``paint``."""
    title: str
    """For people: ``PAINT``."""
    parameters: dict[str, Any]
    """Of its trial. Without a learning rate where the usual one is to be taken."""


@dataclass(frozen=True, kw_only=True)
class CardText:
    """What the model card of an exported model says because of its task, in Markdown."""

    summary: str
    """A sentence: what the model was tuned for."""
    data: Mapping[str, str]
    """Rows about the preference data."""
    limits: Sequence[str]
    """What the model is for and what it must not be used for."""
    licence: str = ""
    """What its training data add to the licences of weights and images."""


@dataclass(frozen=True, kw_only=True)
class TestedValues:
    """What a model card is written from."""

    parameters: Mapping[str, Any]
    test: Mapping[str, float]
    untouched: Mapping[str, float]
    """The untouched model on test."""


class TaskKind(Protocol):
    """A task. Nothing here imports torch before ``load`` or ``measures`` is called."""

    @property
    def name(self) -> str:
        """The value of ``task`` in a spec."""

    @property
    def settings(self) -> type[TaskSettings]:
        """The settings that the task reads from a spec."""

    def goals(self, settings: TaskSettings) -> Goals:
        """Return the goals: what is to be kept, then what is to be improved."""

    def metrics(self, settings: TaskSettings) -> Mapping[str, Metric]:
        """Return what can be measured on validation, the goals among it: ``keep`` may name any of these."""

    def curves(self, settings: TaskSettings) -> Sequence[str]:
        """Return the metrics on validation whose course over the strength is drawn."""

    def about(self, metric: str) -> str | None:
        """Return in a few words what a metric on test is; None where its name says it."""

    def unused_parameters(self) -> frozenset[str]:
        """Return the parameters that do not apply to the task."""

    def refuses(self, parameters: Parameters) -> tuple[str, str] | None:
        """Return a parameter and why the task cannot be trained with it; None where it can."""

    def tried_first(self, settings: TaskSettings) -> Mapping[str, Sequence[str]]:
        """Return, for parameters of choices, the values in the order in which a search tries them: what has given the
        strongest trials first."""

    def baselines(self, settings: TaskSettings) -> Sequence[Baseline]:
        """Return the trials that a sweep begins with."""

    def baseline_titles(self) -> Mapping[str, str]:
        """Return what people call the baselines that the task may have, by name."""

    def goal_sets(self, settings: TaskSettings) -> list[str]:
        """Return the test sets that the goals are measured on, as answers name them: ``in100/test``."""

    def card(self, settings: TaskSettings, values: TestedValues) -> CardText:
        """Return what the model card of an exported point says."""

    def load(self, settings: TaskSettings, images: TaskImages) -> TaskData:
        """Return the training data and the images to measure on, which are loaded when they are first asked for."""

    def measures(self) -> Measures:
        """Return what measures a policy."""

"""The interface of a task, which defines preference data, goals, measurements and baselines.

``known.KINDS`` lists the tasks. A further task is a module with a ``TaskKind`` and a line in that list.
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
    """A quantity that is measured."""

    direction: Direction
    """The better direction: a bound on a maximised metric is a floor, else a ceiling."""
    about: str
    """Description in a few words, for people."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A trial that every sweep of the task begins with, and that its front always shows."""

    name: str
    """Name for records and ``--pick``: ``paint``."""
    title: str
    """Title for people: ``PAINT``."""
    parameters: dict[str, Any]
    """Parameters of its trial. Without a learning rate, the usual one is used."""


@dataclass(frozen=True, kw_only=True)
class CardText:
    """The task's part of an exported model's card, in Markdown."""

    summary: str
    """A sentence on the purpose of the tuning."""
    data: Mapping[str, str]
    """Rows about the preference data."""
    limits: Sequence[str]
    """Intended uses and uses to avoid."""
    licence: str = ""
    """Additions of the training data to the licences of weights and images."""


@dataclass(frozen=True, kw_only=True)
class TestedValues:
    """Measurements for a model card."""

    parameters: Mapping[str, Any]
    test: Mapping[str, float]
    untouched: Mapping[str, float]
    """Metrics of the untouched model on test."""


class TaskKind(Protocol):
    """A task. Methods do not import torch, except ``load`` and ``measures``."""

    @property
    def name(self) -> str:
        """Return the value of ``task`` in a spec."""

    @property
    def settings(self) -> type[TaskSettings]:
        """Return the type of the settings that the task reads from a spec."""

    def goals(self, settings: TaskSettings) -> Goals:
        """Return the goals: the one to be kept, then the one to be improved."""

    def metrics(self, settings: TaskSettings) -> Mapping[str, Metric]:
        """Return the metrics that can be measured on validation, including the goals: ``keep`` may name any of them."""

    def curves(self, settings: TaskSettings) -> Sequence[str]:
        """Return the metrics on validation that are drawn over the strength."""

    def about(self, metric: str) -> str | None:
        """Return a short description of a test metric; None if its name is clear."""

    def unused_parameters(self) -> frozenset[str]:
        """Return the parameters that do not apply to the task."""

    def refuses(self, parameters: Parameters) -> tuple[str, str] | None:
        """Return a parameter and why the task cannot be trained with it; None if it can."""

    def tried_first(self, settings: TaskSettings) -> Mapping[str, Sequence[str]]:
        """Return for parameters of choices the values in the order in which a search tries them, strongest first."""

    def baselines(self, settings: TaskSettings) -> Sequence[Baseline]:
        """Return the trials that a sweep begins with."""

    def baseline_titles(self) -> Mapping[str, str]:
        """Return baseline name -> title for people, for all baselines that the task may have."""

    def goal_sets(self, settings: TaskSettings) -> list[str]:
        """Return the test sets on which the goals are measured, as answers name them: ``in100/test``."""

    def card(self, settings: TaskSettings, values: TestedValues) -> CardText:
        """Return the task's part of the model card of an exported point."""

    def load(self, settings: TaskSettings, images: TaskImages) -> TaskData:
        """Return the training data and the images to measure on, which are loaded on first use."""

    def measures(self) -> Measures:
        """Return the task's measures of a policy."""

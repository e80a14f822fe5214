"""The goals of the typographic task, for tests of what every task has."""

from __future__ import annotations

from sweeper.spec.bounds import Bound as BoundOfMetric
from sweeper.spec.bounds import Bounds
from trainables.records import Direction, Goals
from trainables.tasks.typographic import CLEAN_ACCURACY, ROBUST_ACCURACY

TYPOGRAPHIC: Goals = (CLEAN_ACCURACY, ROBUST_ACCURACY)
GOALS = (CLEAN_ACCURACY.metric, ROBUST_ACCURACY.metric)
DIRECTIONS: dict[str, Direction] = {goal.metric: goal.direction for goal in TYPOGRAPHIC}


def floors(**values: float) -> Bounds:
    """``floors(clean_accuracy=0.8)``."""
    return tuple(BoundOfMetric(metric=metric, direction="maximize", value=value) for metric, value in values.items())

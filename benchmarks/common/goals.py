"""The goals that all benchmarks search over: those of the typographic task."""

from __future__ import annotations

from trainables.records import Direction, Goals
from trainables.tasks.typographic import CLEAN_ACCURACY, ROBUST_ACCURACY

TYPOGRAPHIC: Goals = (CLEAN_ACCURACY, ROBUST_ACCURACY)
GOALS = (CLEAN_ACCURACY.metric, ROBUST_ACCURACY.metric)
DIRECTIONS: dict[str, Direction] = {goal.metric: goal.direction for goal in TYPOGRAPHIC}

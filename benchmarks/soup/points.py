"""Points of strategies and sweeps, with their cost: what the soup benchmark compares."""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks.soup.mixing import Cost, Value


@dataclass(frozen=True)
class Point:
    validation: Value
    test: Value


@dataclass(frozen=True)
class StrategyResult:
    """Front and cost of one strategy with one seed."""

    seed: int
    cost: Cost
    validation: float
    """Hypervolume."""
    test: float
    front: list[Point]

    @classmethod
    def from_json(cls, text: str) -> StrategyResult:
        record = json.loads(text)
        front = [Point(tuple(point["validation"]), tuple(point["test"])) for point in record.pop("front")]
        cost = Cost(**record.pop("cost" if "cost" in record else "bill"))  # "bill" in caches of earlier versions
        return cls(cost=cost, front=front, **record)


@dataclass(frozen=True)
class SweepCourse:
    """A sweep with one seed: cost so far and hypervolume after each trial."""

    costs: list[int]
    validation: list[float]
    test: list[float]
    front: list[Point]

    def at_cost(self, cost: float) -> float:
        """Return the hypervolume on test after as many whole trials as ``cost`` (in images) pays for."""
        count = sum(spent <= cost for spent in self.costs)
        return self.test[count - 1] if count else 0.0


@dataclass(frozen=True)
class Comparison:
    """All results of one scope."""

    strategies: dict[str, list[StrategyResult]]
    """Name of a strategy -> its results, one per seed."""
    full: list[SweepCourse]
    cross_entropy: list[SweepCourse]
    """TPE over cross-entropy only, the best objective here."""
    after_middle: list[SweepCourse]
    """TPE whose first trial is cross-entropy in the middle of its ranges."""
    untouched: Point
    everything: float
    """Hypervolume on test of the front of the whole grid."""
    grid: int
    """Trials of the whole grid."""

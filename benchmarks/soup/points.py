"""What the soup benchmark compares: points, and what each way of making them cost."""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks.soup.mixing import Usage, Value


@dataclass(frozen=True)
class Point:
    validation: Value
    test: Value


@dataclass(frozen=True)
class Served:
    """What one recipe came to with one seed."""

    seed: int
    bill: Usage
    validation: float
    """Hypervolume."""
    test: float
    front: list[Point]

    @classmethod
    def loaded(cls, text: str) -> Served:
        found = json.loads(text)
        front = [Point(tuple(one["validation"]), tuple(one["test"])) for one in found.pop("front")]
        return cls(bill=Usage(**found.pop("bill")), front=front, **found)


@dataclass(frozen=True)
class Swept:
    """A full sweep with one seed: after each trial the cost so far and the hypervolume."""

    costs: list[int]
    validation: list[float]
    test: list[float]
    front: list[Point]

    def at_cost(self, cost: float) -> float:
        """Hypervolume on test of as many whole trials as this pays for."""
        count = sum(one <= cost for one in self.costs)
        return self.test[count - 1] if count else 0.0


@dataclass(frozen=True)
class Compared:
    """All that was measured in one scope."""

    served: dict[str, list[Served]]
    """By recipe, one per seed."""
    full: list[Swept]
    cross_entropy: list[Swept]
    """TPE that is told which objective is best here."""
    after_middle: list[Swept]
    """TPE whose first trial is cross-entropy in the middle of its ranges."""
    untouched: Point
    everything: float
    """Hypervolume on test where every point of the grid was trained."""
    grid: int

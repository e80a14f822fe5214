"""The rule that stops trials early: multi-objective ASHA, a pure decision from the reports of trials.

Stopping variant of multi-objective asynchronous successive halving (Schmucker et al. 2021, arXiv 2106.12639), trials
ranked by non-dominated layers and, inside a layer, by an epsilon-net (Salinas et al. 2021).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sweeper.spec.spec import Spec
from trainables.records import Direction

Cost = tuple[float, ...]
"""Goals of a point, all minimised."""

_ROUNDING = 1e-9
"""A rung counts as reached this little below it: rung and progress are quotients with different rounding."""


class MultiObjectiveAsha:
    """Decides at each report of a trial whether to stop it; at each rung the best 1 / ``reduction_factor`` go on.

    A trial that reaches a rung is ranked among all trials that have reached it so far, including itself. It is stopped
    if more than that share of them rank before it: the first trial at a rung always goes on, and a decision is never
    reversed. Decisions depend only on the reports so far and their order: a new rule with the same reports makes the
    same decisions.

    A rung is a share of each trial's own steps. If trials differ in length (``epochs``, ``copies``, ``images``), trials
    at a rung are at the same place of their learning-rate schedules, but the longer ones have trained more steps: a
    short trial is compared after less training than a long one, while the published rule compares after equal numbers
    of steps. In return every trial has all rungs, and stopped trials have used the same share of their own cost.
    """

    def __init__(
        self,
        *,
        rungs: Sequence[float],
        reduction_factor: float,
        directions: Sequence[Direction],
        floors: Sequence[float | None],
    ) -> None:
        """Make a rule without reports.

        A trial that misses a floor (for a minimised goal: exceeds it) ranks behind all trials that keep them, and among
        such trials by the sum of the shortfalls. If all floors are None, this is the published rule.

        Args:
            rungs: rising fractions of a trial.
            directions, floors: one for each goal, floors in the goal's own units.

        Raises:
            ValueError: rungs are not rising fractions in (0, 1), the reduction factor is 1 or less, or the number of
                floors differs from that of goals.
        """
        rising = all(low < high for low, high in zip(rungs, rungs[1:], strict=False))
        if not (rungs and rising and rungs[0] > 0 and rungs[-1] < 1):
            raise ValueError(f"rungs must be rising fractions of a trial between 0 and 1, got {list(rungs)}")
        if not (math.isfinite(reduction_factor) and reduction_factor > 1):
            raise ValueError(f"the reduction factor must be above 1, got {reduction_factor}")
        if not directions or len(floors) != len(directions):
            raise ValueError(f"each goal needs a direction and a floor or None, got {list(directions)}, {list(floors)}")
        self.rungs = tuple(float(rung) for rung in rungs)
        self._signs = _signs(directions)
        self._share = 1 / reduction_factor
        # As costs: all goals minimised.
        self._limits = [math.inf if f is None else s * f for s, f in zip(self._signs, floors, strict=True)]
        self._recorded = [_Rung() for _ in self.rungs]

    def report(self, trial: int, progress: float, values: Sequence[float]) -> bool:
        """Take a trial's report and return whether to stop the trial.

        A report counts for the highest rung that it has reached. If the trial has been recorded there before (later in
        the trial, or again after a resume), the first decision is repeated. A rung that a trial has passed without a
        report is skipped: at a later report the trial would be compared with trials that had done a smaller share. A
        finished trial (progress 1) is never stopped.

        Args:
            progress: share of the trial's steps that are done.

        Raises:
            ValueError: the number of values differs from that of goals, or values or progress are not finite.
        """
        if len(values) != len(self._signs) or not all(map(math.isfinite, [*values, progress])):
            raise ValueError(
                f"trial {trial} must report {len(self._signs)} finite values at a finite progress, "
                f"got {list(values)} at {progress}"
            )
        reached = sum(progress + _ROUNDING >= rung for rung in self.rungs)
        if reached == 0 or progress >= 1:
            return False
        rung = self._recorded[reached - 1]
        if trial not in rung.decisions:
            cost = tuple(sign * float(value) for sign, value in zip(self._signs, values, strict=True))
            shortfall = sum(max(0.0, c - limit) for c, limit in zip(cost, self._limits, strict=True))
            ahead = self._share * (len(rung.decisions) + 1)
            rung.decisions[trial] = not rung.add(cost, shortfall, ahead)
        return rung.decisions[trial]


def stopping_rule(spec: Spec, untouched: Mapping[str, float]) -> MultiObjectiveAsha | None:
    """Return a new rule for the spec, given the untouched model's goals; None if every trial is trained to its end."""
    if not spec.stops:
        return None
    goals, limits = spec.task_goals(), {bound.metric: bound.value for bound in spec.goal_bounds(untouched)}
    return MultiObjectiveAsha(
        rungs=spec.stopping.shares(),
        reduction_factor=spec.stopping.reduction_factor,
        directions=[goal.direction for goal in goals],
        floors=[limits.get(goal.metric) for goal in goals],
    )


class _Rung:
    """The reports of trials at one rung, all goals minimised."""

    def __init__(self) -> None:
        self.decisions: dict[int, bool] = {}
        self._shortfalls: list[float] = []
        """Shortfalls of the trials below a floor, rising."""
        self._layers: list[list[tuple[int, Cost]]] = []
        """Layers of the other trials with their order of arrival: the non-dominated ones, those that only these
        dominate, and so on.
        """
        self._feasible = 0

    def add(self, cost: Cost, shortfall: float, most_ahead: float) -> bool:
        """Add a trial; return whether at most ``most_ahead`` earlier trials rank before it (see ``priorities``)."""
        if shortfall > 0:
            position = bisect_right(self._shortfalls, shortfall)
            self._shortfalls.insert(position, shortfall)
            return self._feasible + position <= most_ahead
        layers = self._layers
        # A point that is dominated in a layer is dominated in all layers before it.
        level = bisect_left(
            range(len(layers)), True, key=lambda i: not any(_dominates(other, cost) for _, other in layers[i])
        )
        self._insert(level, (self._feasible, cost))
        self._feasible += 1
        before = sum(map(len, layers[:level]))
        if before > most_ahead or before + len(layers[level]) - 1 <= most_ahead:
            return before <= most_ahead  # at any place in its layer
        layer = sorted(layers[level])
        own = next(i for i, (number, _) in enumerate(layer) if number == self._feasible - 1)
        order = _epsilon_net(np.array([c for _, c in layer]))
        return before + order.index(own) <= most_ahead

    def _insert(self, level: int, newcomer: tuple[int, Cost]) -> None:
        """Insert a point; the points it dominates move one layer on, and so do the points that these dominate there."""
        arriving = [newcomer]
        while arriving:
            if level == len(self._layers):
                self._layers.append([])
            stays: list[tuple[int, Cost]] = []
            leaves: list[tuple[int, Cost]] = []
            for member in self._layers[level]:
                (leaves if any(_dominates(cost, member[1]) for _, cost in arriving) else stays).append(member)
            self._layers[level] = stays + arriving
            arriving, level = leaves, level + 1


def priorities(values: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[int]:
    """Return the position of each point in the order in which points are kept, 0 the best.

    First come the points that no other dominates, then those that only these dominate, and so on. Inside such a layer
    the first is the best in the first goal; each further one is the farthest from those before it (Euclidean, in the
    goals' own units), so that any number of first points is spread over the layer. Of equal points, and of points
    equally far, the first in ``values`` comes first.

    Args:
        values: [points, goals].

    Raises:
        ValueError: values are not finite, or their number differs from that of goals.
    """
    signs = _signs(directions)
    if not all(len(value) == len(signs) and all(map(math.isfinite, value)) for value in values):
        raise ValueError(f"each point needs {len(signs)} finite values, got {[list(value) for value in values]}")
    costs = np.array(values, dtype=float).reshape(len(values), len(signs)) * signs
    in_order = [int(index) for layer in _layers(costs) for index in layer[_epsilon_net(costs[layer])]]
    positions = [0] * len(values)
    for position, index in enumerate(in_order):
        positions[index] = position
    return positions


def _dominates(first: Cost, second: Cost) -> bool:
    if first == second:
        return False
    for a, b in zip(first, second, strict=True):  # noqa: SIM110  three times as fast as all()
        if a > b:
            return False
    return True


def _signs(directions: Sequence[Direction]) -> list[float]:
    unknown = [direction for direction in directions if direction not in ("maximize", "minimize")]
    if unknown:
        raise ValueError(f"a goal's direction is maximize or minimize, got {unknown[0]!r}")
    return [1.0 if direction == "minimize" else -1.0 for direction in directions]


def _layers(costs: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Return the indices of the non-dominated points, of those non-dominated without them, and so on; each rising.
    O(n^2).
    """
    no_worse = np.logical_and.reduce([goal[:, None] <= goal for goal in costs.T])
    dominates = no_worse & ~no_worse.T
    dominated_by = dominates.sum(axis=0)
    left = np.ones(len(costs), dtype=bool)
    layers = []
    while left.any():
        layer = np.flatnonzero(left & (dominated_by == 0))
        layers.append(layer)
        left[layer] = False
        dominated_by -= dominates[layer].sum(axis=0)
    return layers


def _epsilon_net(costs: NDArray[np.float64]) -> list[int]:
    """Return indices of points [points, goals], farthest first (Clarkson 2005, page 17), from the lowest in the first
    goal.
    """
    order = [int(np.argmin(costs[:, 0]))]
    distances = np.full(len(costs), np.inf)
    while len(order) < len(costs):
        distances = np.minimum(distances, np.sqrt(((costs - costs[order[-1]]) ** 2).sum(axis=1)))
        distances[order] = -1.0  # Duplicates of a chosen point have distance 0 and are still to come.
        order.append(int(np.argmax(distances)))
    return order

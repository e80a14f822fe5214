"""Makes ``moasha.json``: random streams of reports and what Syne Tune 0.16.0's MOASHA decides on each.

Needs an environment of its own: ``pip install --no-deps syne-tune==0.16.0 numpy pandas python-dateutil dill``, then
``python tests/golden/make_moasha.py``.

``decisions`` come from Syne Tune's scheduler, rungs, domination test and epsilon-net, put together as published.
``unrepaired`` are those of the scheduler as released, over the same reports: there ``nondominated_sort`` hands over the
indices of the trials in order where the scheduler expects the position of each trial, and takes the positions inside a
layer for such indices. The newest trial is then judged by the number of the trial that came last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import MOPriority, NonDominatedPriority
from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import compute_epsilon_net, pareto_efficient

RUNGS = {  # (max_t, grace_period, reduction_factor): milestones below max_t
    (27, 3, 3.0): (3, 9),
    (16, 1, 2.0): (1, 2, 4, 8),
    (64, 4, 4.0): (4, 16),
    (100, 16, 2.5): (16, 40),
    (5, 1, 3.0): (1, 3),
}
SLOTS = 7


class AsPublished(MOPriority):
    """Position of each trial, from Syne Tune's own two functions."""

    def priority_unsafe(self, objectives: np.ndarray) -> np.ndarray:
        positions = np.empty(len(objectives), dtype=int)
        left, taken = np.arange(len(objectives)), 0
        while left.size:
            efficient = pareto_efficient(objectives[left])
            layer = left[efficient]
            positions[layer] = taken + compute_epsilon_net(objectives[layer], dim=0)
            taken += len(layer)
            left = left[~efficient]
        return positions


def scheduler(setting: tuple[int, int, float], goals: int, minimize: bool, priority: MOPriority) -> MOASHA:
    max_t, grace_period, factor = setting
    made = MOASHA(
        config_space={},
        metrics=[f"goal-{goal}" for goal in range(goals)],
        do_minimize=minimize,
        time_attr="t",
        multiobjective_priority=priority,
        max_t=max_t,
        grace_period=grace_period,
        reduction_factor=factor,
        random_seed=0,
    )
    assert tuple(t for t, _ in reversed(made.brackets[0].rungs) if t < max_t) == RUNGS[setting]
    return made


def values(rng: np.random.Generator, kind: str, goals: int, progress: float, quality: np.ndarray) -> list[float]:
    """``curve``: a trade-off, learned with noise; ``noise``: nothing to learn; ``grid``: ties and equal points."""
    if kind == "noise":
        return [round(float(value), 4) for value in rng.normal(size=goals)]
    learned = quality * (1 - np.exp(-3 * progress)) + rng.normal(scale=0.03, size=goals)
    digits = 1 if kind == "grid" else 4
    return [round(float(value), digits) for value in learned]


def reports(setting: tuple[int, int, float], how: str, rng: np.random.Generator) -> list[int]:
    """When a trial reports: ``each`` step, at ``rungs``, at ``every_other`` step, at ``some`` of the rungs."""
    max_t, milestones = setting[0], RUNGS[setting]
    if how == "each":
        return list(range(1, max_t))
    if how == "every_other":
        return list(range(2, max_t, 2))
    if how == "some":
        return [t for t in milestones if rng.random() < 0.7]
    return list(milestones)


def stream(
    seed: int, setting: tuple[int, int, float], goals: int, minimize: bool, kind: str, how: str, trials: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    names = [f"goal-{goal}" for goal in range(goals)]
    published = scheduler(setting, goals, minimize, AsPublished())
    released = scheduler(setting, goals, minimize, NonDominatedPriority())
    events: list[list[Any]] = []
    decisions, unrepaired = "", ""
    waiting = iter(range(trials))
    running: dict[int, tuple[np.ndarray, Iterator[int]]] = {}
    while True:
        while len(running) < SLOTS and (number := next(waiting, None)) is not None:
            trade = rng.dirichlet(np.ones(goals)) * rng.uniform(0.5, 1.0)
            running[number] = (trade, iter(reports(setting, how, rng)))
            for made in (published, released):
                made.on_trial_add(SimpleNamespace(trial_id=number))
        if not running:
            break
        number = int(rng.choice(list(running)))
        quality, times = running[number]
        t = next(times, None)
        if t is None:
            del running[number]
            continue
        reported = values(rng, kind, goals, t / setting[0], quality)
        result = {"t": t, **dict(zip(names, reported, strict=True))}
        stop = published.on_trial_result(SimpleNamespace(trial_id=number), dict(result)) == "STOP"
        events.append([number, t, *reported])
        decisions += str(int(stop))
        unrepaired += str(int(released.on_trial_result(SimpleNamespace(trial_id=number), dict(result)) == "STOP"))
        if stop:
            del running[number]
    return {
        "max_t": setting[0],
        "milestones": RUNGS[setting],
        "reduction_factor": setting[2],
        "direction": "minimize" if minimize else "maximize",
        "kind": kind,
        "reports": how,
        "events": events,
        "decisions": decisions,
        "unrepaired": unrepaired,
    }


def main() -> None:
    cubes, doubling, fours, decimal, short = RUNGS
    streams = [
        stream(0, cubes, 2, False, "curve", "rungs", 150),
        stream(1, cubes, 2, False, "grid", "rungs", 150),
        stream(2, cubes, 3, False, "curve", "rungs", 150),
        stream(3, cubes, 2, True, "noise", "each", 40),
        stream(4, doubling, 2, True, "curve", "rungs", 100),
        stream(5, doubling, 3, True, "grid", "each", 60),
        stream(6, doubling, 3, False, "noise", "some", 100),
        stream(7, fours, 2, False, "curve", "rungs", 120),
        stream(8, fours, 3, True, "grid", "rungs", 120),
        stream(9, decimal, 2, False, "noise", "rungs", 120),
        stream(10, decimal, 3, False, "curve", "some", 120),
        stream(11, short, 2, True, "grid", "every_other", 120),
        stream(12, short, 2, False, "noise", "each", 100),
        stream(13, cubes, 1, False, "curve", "rungs", 80),
    ]
    source = f"syne-tune {version('syne-tune')}, numpy {version('numpy')}, made by tests/golden/make_moasha.py"
    lines = ",\n".join(json.dumps(made, separators=(",", ":")) for made in streams)
    path = Path(__file__).with_name("moasha.json")
    path.write_text(f'{{"source": "{source}", "streams": [\n{lines}\n]}}\n', encoding="ascii")


if __name__ == "__main__":
    main()

"""Importance: how much each searched parameter, by itself, decides the rank of a trial in a goal.

It is an analysis of variance of ranks (Kruskal and Wallis 1952) in one factor, with the unbiased share of variance
omega squared (Hays 1963) instead of a test: the values of a parameter form groups, and its importance is the share of
the variance of ranks that the group means explain, less the share that chance alone would explain.

Optuna's PED-ANOVA, which needs no scikit-learn either, is not used: with 30 trials of a space like
search_spaces/reduced it ranks a parameter without any effect first in 14 of 20 studies, because few trials have a
branch of it. This measure does so in none (tests/sweeper/search/test_importance.py has the space).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from sweeper.records import TrialRecord
from sweeper.spec.branches import Branch, all_branches
from sweeper.spec.domains import Choices, Fixed, Value
from sweeper.spec.space import Space

FEWEST_TRIALS = 10
"""Least number of complete trials for importance."""
_MOST_GROUPS = 4
_FEWEST_OF_GROUP = 3


def placed_trials(space: Space, trials: Sequence[TrialRecord]) -> list[tuple[TrialRecord, Mapping[str, Value]]]:
    """Return the complete trials of the search that lie in the space, each with its values by name in the study."""
    placed: list[tuple[TrialRecord, Mapping[str, Value]]] = []
    for trial in trials:
        if trial.state != "complete" or trial.confirms is not None:
            continue
        try:
            located = space.place(trial.parameters).located
        except ValueError:  # a baseline outside the space
            continue
        if located:
            placed.append((trial, located))
    return placed


def importance(space: Space, trials: Sequence[TrialRecord], metric: str) -> dict[str, float]:
    """Return for each searched parameter the share of the variance of ranks in a goal that it explains, highest first.

    Shares are from 0 to 1 and need not sum to 1: the rest is chance and joint effects of parameters. A parameter that
    only some trials have is judged among these trials, each branch by itself, weighted with their share of the variance
    of all. The result is empty for fewer than ``FEWEST_TRIALS`` trials and if all have the same value.
    """
    placed = placed_trials(space, trials)
    if len(placed) < FEWEST_TRIALS:
        return {}
    ranks = _ranks([(trial.values or {})[metric] for trial, _ in placed])
    total = _squares(ranks)
    if total == 0:
        return {}
    shares: dict[str, float] = {}
    for branch in all_branches(space.branches):
        if isinstance(branch.domain, Fixed):
            continue
        pairs = [
            (located[branch.name], rank)
            for (_, located), rank in zip(placed, ranks, strict=True)
            if branch.name in located
        ]
        explained = _explained(_groups(branch, pairs)) / total
        shares[branch.parameter] = shares.get(branch.parameter, 0.0) + explained
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


def _groups(branch: Branch, pairs: Sequence[tuple[Value, float]]) -> list[list[float]]:
    """Return ranks by choice; for a range, in up to four parts with the same number of trials."""
    if isinstance(branch.domain, Choices):
        values = dict.fromkeys(value for value, _ in pairs)
        return [[rank for value, rank in pairs if value == choice] for choice in values]
    count = min(_MOST_GROUPS, len(pairs) // _FEWEST_OF_GROUP)
    ordered = [rank for _, rank in sorted(pairs, key=lambda pair: pair[0])]
    return [ordered[len(pairs) * part // count : len(pairs) * (part + 1) // count] for part in range(count)]


def _explained(groups: Sequence[Sequence[float]]) -> float:
    """Return the sum of squares between groups, less the sum expected from chance alone; at least 0."""
    count = sum(len(group) for group in groups)
    if len(groups) < 2 or count <= len(groups):
        return 0.0
    within = sum(_squares(group) for group in groups)
    between = _squares([rank for group in groups for rank in group]) - within
    return max(0.0, between - (len(groups) - 1) * within / (count - len(groups)))


def _squares(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return sum((value - mean) ** 2 for value in values)


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value in rising order; equal values get the mean of their ranks."""
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    return [statistics.fmean(places[value]) for value in values]

"""The comparison of objectives: equal settings, and intervals that cover what they say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.objectives.compare import CASES, OBJECTIVES, difference, difference_of_values, settings
from trainables.settings.parameters import Parameters


def test_every_objective_tries_the_same_learning_rates_and_lambdas() -> None:
    case = CASES[-1]
    tried = {name: settings(name, case, seed=3) for name in OBJECTIVES}
    shared = {name: [(one["learning_rate"], one["lambda_reg"]) for one in of] for name, of in tried.items()}
    assert all(of == shared["cross_entropy"] and len(set(of)) == case.settings for of in shared.values())
    for name, of in tried.items():
        for one in of:
            parameters = Parameters.model_validate(one)
            assert parameters.objective == name and all(
                low.low <= one[key] <= low.high for key, low in OBJECTIVES[name].items()
            )
    assert settings("dpo", case, seed=4) != tried["dpo"]


def test_the_interval_of_a_difference_covers_it_over_fresh_seeds_and_images() -> None:
    """Two recipes with equal accuracy, whose seeds differ by a normal amount; every seed answers the same images."""
    draw, covered, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        difficulty = draw.normal(size=400)
        first, second = (
            difficulty + draw.normal(scale=0.15, size=(6, 1)) + draw.normal(scale=0.7, size=(6, 400)) > 0 for _ in "ab"
        )
        mean, half = difference(first, second, 0.95)
        covered += abs(mean) <= half
    assert 0.93 <= covered / runs <= 1.0


def test_a_difference_is_told_where_there_is_one() -> None:
    draw = np.random.default_rng(1)
    difficulty = draw.uniform(size=1000)
    first, second = (difficulty + draw.normal(scale=0.05, size=(5, 1000)) > at for at in (0.4, 0.5))
    mean, half = difference(first, second, 0.95)
    assert mean == pytest.approx(0.1, abs=0.03) and 0 < half < 0.03
    assert difference(first, first, 0.95) == (0.0, 0.0)
    mean, half = difference_of_values(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]), 0.95)
    assert (mean, half) == (1.0, 0.0)

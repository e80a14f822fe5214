"""Importance of searched parameters."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from sweeper.records import TrialRecord
from sweeper.search.importance import FEWEST_TRIALS, importance
from sweeper.search.study import Study
from tests.helpers.goals import DIRECTIONS
from tests.helpers.pages import PAINT, SPACE


def trials(count: int, seed: int) -> list[TrialRecord]:
    """Return trials whose robust accuracy follows the learning rate, and whose clean accuracy follows ``tune``, then
    ``lambda_reg``."""
    study = Study.in_memory(SPACE, seed=seed, startup_trials=count, sampler="random", goals=DIRECTIONS)
    chance = random.Random(seed)
    for number in range(count):
        drawn = study.ask().parameters
        robust = -abs(math.log10(float(drawn["learning_rate"])) + 2.5)
        clean = (drawn["tune"] == "transform") - 0.3 * abs(math.log10(float(drawn["lambda_reg"])))
        values = {"clean_accuracy": clean, "robust_accuracy": robust}
        study.tell(number, {name: value + chance.gauss(0, 0.05) for name, value in values.items()}, (), 1.0, None)
    return study.trials()


@pytest.mark.parametrize("seed", range(20))
def test_what_decides_a_goal_comes_first_in_a_space_with_rare_branches(seed: int) -> None:
    of_trials = trials(30, seed)
    assert next(iter(importance(SPACE, of_trials, "robust_accuracy"))) == "learning_rate"
    assert next(iter(importance(SPACE, of_trials, "clean_accuracy"))) == "tune"


def test_parameters_without_effect_explain_next_to_nothing() -> None:
    of_trials = trials(300, 0)
    shares = importance(SPACE, of_trials, "robust_accuracy")
    assert shares.keys() == {"objective", "beta", "lambda_reg", "tune", "blocks", "penalty", "rank", "learning_rate"}
    assert shares["learning_rate"] > 0.7
    assert all(share < 0.05 for name, share in shares.items() if name != "learning_rate")


def test_a_parameter_of_few_trials_counts_by_their_part_of_all() -> None:
    """``rank`` decides everything among the trials that have it, and these are a third."""
    of_trials = [
        replace(trial, values={"clean_accuracy": float(trial.parameters.get("rank", 40)), "robust_accuracy": 0.0})
        for trial in trials(300, 1)
    ]
    share = importance(SPACE, of_trials, "clean_accuracy")["rank"]
    assert 0.5 < share <= 1.0
    assert importance(SPACE, of_trials, "robust_accuracy") == {}  # all equal


def test_too_few_trials_and_trials_outside_the_search_count_for_nothing() -> None:
    enough = trials(FEWEST_TRIALS, 2)
    assert importance(SPACE, enough, "robust_accuracy")
    assert importance(SPACE, enough[:-1], "robust_accuracy") == {}
    again = replace(enough[-1], confirms=0)
    baseline = replace(enough[-1], parameters=PAINT)
    failed = replace(enough[-1], state="failed", values=None)
    assert importance(SPACE, [*enough[:-1], again, baseline, failed], "robust_accuracy") == {}

"""The simulated searches that ``benchmarks.search.run`` compares: the same clock and the same costs for all of them."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from benchmarks.search.methods import clean, robust, run_optuna, run_sweep
from benchmarks.search.peers import cost_epochs
from benchmarks.search.problems import EPOCHS, SEARCHED, analytic
from sweeper.search.pareto import hypervolume

BUDGET_EPOCHS = 60.0


@pytest.mark.parametrize("problem", analytic(), ids=lambda problem: problem.name)
def test_the_attainable_hypervolume_is_that_of_the_front(problem) -> None:  # type: ignore[no-untyped-def]
    front = []
    for place in np.linspace(0, 1, 2001):
        coordinates = np.array([place, *([0.4] * (len(SEARCHED) - 1))])
        front.append(problem.final(coordinates))
    assert hypervolume(front, problem.reference) == pytest.approx(problem.attainable, rel=1e-3)


def test_a_trial_costs_its_epochs_and_its_evaluations() -> None:
    problem = analytic()[0]
    parameters = dict.fromkeys(SEARCHED, 0.1)
    evaluation = problem.evaluation_epochs(parameters)
    rungs = (1 / 9, 1 / 3)
    assert cost_epochs(problem, parameters, (), 1.0) == (EPOCHS, pytest.approx(EPOCHS * evaluation))
    assert cost_epochs(problem, parameters, rungs, 1 / 9) == (pytest.approx(EPOCHS / 9), pytest.approx(evaluation))
    assert cost_epochs(problem, parameters, rungs, 1 / 3)[1] == pytest.approx(2 * evaluation), "an epoch ends here too"
    assert cost_epochs(problem, parameters, rungs, 1.0)[1] == pytest.approx((EPOCHS + 1) * evaluation)


def test_sweeps_and_peers_have_the_same_costs() -> None:
    problem = analytic()[0]
    sweep = run_sweep(problem, 0, 4, BUDGET_EPOCHS, sampler="random", stopping=False)
    sampler = optuna.samplers.RandomSampler(seed=0)
    peer = run_optuna(problem, 0, 4, BUDGET_EPOCHS, sampler=sampler, merits=[clean, robust])
    trial_epochs = sum(cost_epochs(problem, {}, (), 1.0))
    whole = 4 * math.floor(BUDGET_EPOCHS / 4 / trial_epochs)
    assert [trial.spent_epochs for trial in sweep] == pytest.approx([trial.spent_epochs for trial in peer])
    assert len(sweep) == len(peer) == whole


def test_a_search_that_stops_begins_more_trials_and_finishes_fewer_for_the_same_epochs() -> None:
    problem = analytic()[0]
    stopped = run_sweep(problem, 0, 4, BUDGET_EPOCHS, sampler="random")
    whole = run_sweep(problem, 0, 4, BUDGET_EPOCHS, sampler="random", stopping=False)
    assert 0 < len(stopped) < len(whole)
    assert all(trial.spent_epochs <= BUDGET_EPOCHS * (1 + 1e-6) for trial in stopped)

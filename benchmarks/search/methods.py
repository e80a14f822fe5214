"""The searches that ``benchmarks.search.run`` compares, under a virtual clock.

Sweeps use sweeper's own study and stopping rule. Peers are Optuna's samplers alone, with ASHA on a single number where
Optuna's users have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import optuna

from benchmarks.common.goals import DIRECTIONS, GOALS
from benchmarks.search.peers import (
    MANY_TRIALS,
    RUNGS,
    FinishedTrial,
    FinishedTrials,
    OptunaPeer,
    PrimoPeer,
    SyneTunePeer,
    cost_epochs,
    noise_seed_of,
    run_peer,
)
from benchmarks.search.problems import EPOCHS, Goals, Problem
from sweeper.records import TrialRecord
from sweeper.search.first_points import FirstPoints, worth_of
from sweeper.search.sampler import STOPPED_TRIAL_POLICY, StoppedTrialPolicy
from sweeper.search.simulator import SimulatedTrial, Simulation
from sweeper.search.study import Study
from sweeper.spec.spec import Spec, spec_type
from trainables.records import Point, Report, TrialResult

FACTOR = 2.0
SYNE_TUNE_FACTOR = 3.0
"""Default of Syne Tune."""
STARTUP_TRIALS = 8
"""Random trials before a sampler learns."""
POPULATION = 16
"""Population of NSGA-II."""

STEPS = 1_000_000
"""Of a simulated trial: fine enough that no two reports are at the same step."""

Run = Callable[[Problem, int, int, float], FinishedTrials]
"""(problem, seed, slots, budget in epochs) -> finished trials. Trials that run when the budget is spent are lost."""


def run_sweep(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    trials: int = MANY_TRIALS,
    sampler: Literal["tpe", "random"] = "tpe",
    stopping: bool = True,
    factor: float = FACTOR,
    stopped_trial_policy: StoppedTrialPolicy = STOPPED_TRIAL_POLICY,
    first_points_for: int | None = None,
) -> FinishedTrials:
    """Run a sweep under a virtual clock on which an epoch takes a second.

    ``first_points_for``: begin with the first points of a sweep of so many trials.
    """
    rule = {"kind": "moasha", "rungs": ["1/9", "1/3"], "reduction_factor": factor} if stopping else {"kind": "none"}
    search = {"trials": trials, "sampler": sampler, "seed": seed}
    search |= {"startup_trials": STARTUP_TRIALS} if sampler == "tpe" else {}
    spec = _spec(problem, search, rule)
    study = Study.in_memory(
        problem.space,
        goals=DIRECTIONS,
        seed=seed,
        startup_trials=STARTUP_TRIALS,
        sampler=sampler,
        stopped_trial_policy=stopped_trial_policy,
        learned_at=problem.learned_at,
    )

    def simulate(trial: TrialRecord, rungs: Sequence[float]) -> SimulatedTrial:
        noise_seed = noise_seed_of(seed, trial.number)

        def report(progress: float) -> Report:
            trained, evaluated = cost_epochs(problem, trial.parameters, rungs, progress)
            return Report(
                step=round(STEPS * progress),
                steps=STEPS,
                epoch=EPOCHS * progress,
                epochs=EPOCHS,
                progress=progress,
                values=dict(zip(GOALS, problem.at(trial.parameters, progress, noise_seed), strict=True)),
                train_s=trained,
                evaluation_s=evaluated,
                time_s=0.0,
            )

        end = report(1.0)
        points = tuple(
            Point(weights="last", strength=1.0, values=dict(zip(GOALS, goals, strict=True)))
            for goals in problem.front_points(trial.parameters, noise_seed)
        )
        result = TrialResult(
            values=end.values, points=points, epochs=EPOCHS, train_s=end.train_s, evaluation_s=end.evaluation_s
        )
        return SimulatedTrial(reports=[report(rung) for rung in rungs], result=result)

    untouched_goals = dict(zip(GOALS, problem.reference, strict=True))
    first_points = None if first_points_for is None else _first_points(problem, spec, first_points_for)
    simulation = Simulation(
        spec, study, simulate, untouched_goals=untouched_goals, slots=slots, first_points=first_points
    )
    ended = simulation.run(until_s=budget_epochs / slots * (1 + 1e-9))
    return [
        FinishedTrial(
            end.now_s * slots,
            end.trial.parameters,
            [(point.values[GOALS[0]], point.values[GOALS[1]]) for point in end.trial.points],
        )
        for end in ended
        if end.trial.state == "complete"
    ]


def first_points_of(problem: Problem, trials: int) -> FirstPoints:
    """Return the first points of a sweep of so many trials."""
    spec = _spec(problem, {"trials": trials, "sampler": "random"}, {"kind": "none"})
    return _first_points(problem, spec, trials)


def _points_if_any(problem: Problem, trials: int | None) -> FirstPoints | None:
    return None if trials is None else first_points_of(problem, trials)


def _spec(problem: Problem, search: Mapping[str, Any], stopping: Mapping[str, Any]) -> Spec:
    return spec_type("typographic").model_validate(
        {
            "name": "simulated",
            "sets": {"world": {"kind": "world"}},
            "train": {"set": "world"},
            "attack": {"recipe": "sign"},
            "evaluate": {"search": {"sets": ["world"]}, "test": {"sets": ["world"]}},
            "goals": {goal: {"floor": floor} for goal, floor in zip(GOALS, problem.floors, strict=True)},
            "parameters": problem.space,
            "paint": None,
            "points": [dict(point) for point in problem.points],
            "search": search,
            "stopping": stopping,
        }
    )


def _first_points(problem: Problem, spec: Spec, trials: int) -> FirstPoints:
    untouched_goals = dict(zip(GOALS, problem.reference, strict=True))
    return FirstPoints(
        problem.space,
        trials=trials,
        order=spec.kind.tried_first(spec),
        usual=lambda point: 1.0,  # for `auto`, which no problem's learning rate is
        worth=worth_of(spec.task_goals(), spec.bounds(untouched_goals), untouched_goals, chance=0.0),
    )


@dataclass(frozen=True)
class Method:
    name: str
    run: Run


def clean(goals: Goals) -> float:
    return goals[0]


def robust(goals: Goals) -> float:
    return goals[1]


def mean(goals: Goals) -> float:
    return 0.5 * goals[0] + 0.5 * goals[1]


def run_optuna(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    sampler: optuna.samplers.BaseSampler,
    merits: Sequence[Callable[[Goals], float]] = (clean, robust),
    rungs: Sequence[float] = (),
    trials: int = MANY_TRIALS,
    first_points_for: int | None = None,
) -> FinishedTrials:
    """Run a search of Optuna alone. ``first_points_for``: as for ``run_sweep``."""
    peer = OptunaPeer(problem, sampler, merits, rungs, FACTOR)
    points = _points_if_any(problem, first_points_for)
    return run_peer(problem, seed, slots, budget_epochs, peer, trials=trials, first_points=points)


def run_asha(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    merit: Callable[[Goals], float],
    trials: int = MANY_TRIALS,
    first_points_for: int | None = None,
) -> FinishedTrials:
    """TPE with ASHA on a single number."""
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
    )
    return run_optuna(
        problem,
        seed,
        slots,
        budget_epochs,
        sampler=sampler,
        merits=[merit],
        rungs=RUNGS,
        trials=trials,
        first_points_for=first_points_for,
    )


def run_default_tpe(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    trials: int = MANY_TRIALS,
    first_points_for: int | None = None,
) -> FinishedTrials:
    """Optuna's TPE on both goals, with the settings that Optuna gives it."""
    sampler = optuna.samplers.TPESampler(seed=seed)
    return run_optuna(
        problem, seed, slots, budget_epochs, sampler=sampler, trials=trials, first_points_for=first_points_for
    )


def run_nsga2(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    trials: int = MANY_TRIALS,
    first_points_for: int | None = None,
) -> FinishedTrials:
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    return run_optuna(
        problem, seed, slots, budget_epochs, sampler=sampler, trials=trials, first_points_for=first_points_for
    )


def run_gp(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    trials: int = MANY_TRIALS,
    first_points_for: int | None = None,
) -> FinishedTrials:
    """Optuna's Gaussian process with expected hypervolume gain; parameters that not all trials have are drawn at
    random."""
    sampler = optuna.samplers.GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed, warn_independent_sampling=False)
    return run_optuna(
        problem, seed, slots, budget_epochs, sampler=sampler, trials=trials, first_points_for=first_points_for
    )


def run_syne_tune(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    trials: int = MANY_TRIALS,
    first_points_for: int | None = None,
) -> FinishedTrials:
    """Syne Tune's random search with MO-ASHA; needs the package."""
    peer, points = SyneTunePeer(problem, seed), _points_if_any(problem, first_points_for)
    return run_peer(problem, seed, slots, budget_epochs, peer, trials=trials, first_points=points)


def run_primo(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    trials: int = MANY_TRIALS,
    first_points_for: int | None = None,
) -> FinishedTrials:
    """NePS's PriMO, whose prior for each goal is the middle point of ours; needs the package.

    ``trials`` counts each promotion as a trial.
    """
    middle = first_points_of(problem, 1).next([])
    assert middle is not None, "no trial has begun"
    peer, points = PrimoPeer(problem, seed, middle.parameters), _points_if_any(problem, first_points_for)
    return run_peer(problem, seed, slots, budget_epochs, peer, trials=trials, first_points=points)


SWEEPER = Method("TPE, MO-ASHA (ours)", run_sweep)
UNSTOPPED = Method("TPE, no stopping (ours)", partial(run_sweep, stopping=False))
METHODS = (
    SWEEPER,
    UNSTOPPED,
    Method("random, MO-ASHA (Syne Tune)", partial(run_sweep, sampler="random", factor=SYNE_TUNE_FACTOR)),
    Method("random", partial(run_sweep, sampler="random", stopping=False)),
    Method("NSGA-II (Optuna)", run_nsga2),
    Method("TPE, ASHA on clean accuracy", partial(run_asha, merit=clean)),
    Method("TPE, ASHA on robust accuracy", partial(run_asha, merit=robust)),
    Method("TPE, ASHA on their mean", partial(run_asha, merit=mean)),
)
OTHER_POLICIES = tuple(
    Method(policy, partial(run_sweep, stopped_trial_policy=policy))
    for policy in get_args(StoppedTrialPolicy)
    if policy != STOPPED_TRIAL_POLICY
)
"""``SWEEPER`` with the policies for stopped trials that are not the default."""

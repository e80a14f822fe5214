"""The searches that ``benchmarks.search.run`` compares, under a virtual clock.

Sweeps use sweeper's own study and stopping rule. Peers are Optuna's samplers alone, with ASHA on a single number where
Optuna's users have it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal, get_args

import optuna

from benchmarks.common.goals import DIRECTIONS, GOALS
from benchmarks.common.optuna_space import suggest
from benchmarks.search.problems import EPOCHS, Goals, Parameters, Problem
from sweeper.records import TrialRecord
from sweeper.search.first_points import FirstPoints, worth_of
from sweeper.search.sampler import STOPPED_TRIAL_POLICY, StoppedTrialPolicy, distributions
from sweeper.search.simulator import SimulatedTrial, Simulation
from sweeper.search.stopping import MultiObjectiveAsha
from sweeper.search.study import Study
from sweeper.spec.domains import Value
from sweeper.spec.spec import spec_type
from trainables.records import Point, Report, TrialResult

RUNGS = (1 / 9, 1 / 3)
FACTOR = 2.0
SYNE_TUNE_FACTOR = 3.0
"""Default of Syne Tune."""
STARTUP_TRIALS = 8
"""Random trials before a sampler learns."""
POPULATION = 16
"""Population of NSGA-II."""

STEPS = 1_000_000
"""Of a simulated trial: fine enough that no two reports are at the same step."""
MANY_TRIALS = 100_000
"""More than any budget here allows."""


@dataclass(frozen=True)
class FinishedTrial:
    spent_epochs: float
    """By all slots until its end."""
    parameters: Parameters
    """As they were asked for."""
    points: list[Goals]
    """Goals of its points."""


FinishedTrials = list[FinishedTrial]
"""In order of time."""
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
    spec = spec_type("typographic").model_validate(
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
            "search": search | ({"startup_trials": STARTUP_TRIALS} if sampler == "tpe" else {}),
            "stopping": rule,
        }
    )
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
        noise_seed = _noise_seed(seed, trial.number)

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
    first_points = None
    if first_points_for is not None:
        first_points = FirstPoints(
            problem.space,
            trials=first_points_for,
            order=spec.kind.tried_first(spec),
            usual=lambda point: 1.0,  # for `auto`, which no problem's learning rate is
            worth=worth_of(spec.task_goals(), spec.bounds(untouched_goals), untouched_goals, chance=0.0),
        )
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


def cost_epochs(
    problem: Problem, parameters: Parameters, rungs: Sequence[float], progress: float
) -> tuple[float, float]:
    """Return (epochs trained, epochs that the evaluations took) of a trial up to ``progress``.

    A trial is evaluated at rungs, after each epoch, and at its end also at further strengths and averaged weights.
    """
    places = {*rungs, *((epoch + 1) / EPOCHS for epoch in range(EPOCHS))}
    evaluations = sum(place <= progress for place in places)
    if progress == 1:
        evaluations += problem.final_evaluations - 1
    return progress * EPOCHS, evaluations * problem.evaluation_epochs(parameters)


class Peer:
    """An Optuna study. With a single merit to maximise, ASHA stops trials by it and reports them to Optuna as PRUNED.

    Optuna's multi-objective studies support no pruning.
    """

    def __init__(
        self,
        problem: Problem,
        sampler: optuna.samplers.BaseSampler,
        merits: Sequence[Callable[[Goals], float]],
        rungs: Sequence[float],
    ) -> None:
        assert len(merits) == 1 or not rungs
        self._problem, self._space, self._floors, self._merits = problem, problem.space, problem.floors, merits
        self._rule = None
        if rungs:
            self._rule = MultiObjectiveAsha(
                rungs=rungs, reduction_factor=FACTOR, directions=["maximize"], floors=[None]
            )
        self._study = optuna.create_study(directions=["maximize"] * len(merits), sampler=sampler)
        self._trials: dict[int, optuna.trial.Trial] = {}
        self._asked: dict[int, Parameters] = {}
        for point in problem.points:
            self._study.enqueue_trial(dict(point))

    def ask(self) -> tuple[int, dict[str, Value]]:
        trial = self._study.ask()
        self._trials[trial.number] = trial
        self._asked[trial.number] = parameters = self._space.draw(partial(suggest, trial))
        return trial.number, parameters

    def stops(self, number: int, progress: float, goals: Goals) -> bool:
        """Return whether ASHA stops a trial; a stopped trial is reported to Optuna as pruned."""
        assert self._rule is not None
        merit = self._merits[0](goals)
        self._trials[number].report(merit, step=round(1000 * progress))
        stop = self._rule.report(number, progress, [merit])
        if stop:
            self._end(number, optuna.trial.TrialState.PRUNED, None)
        return stop

    def tell(self, number: int, goals: Goals) -> None:
        trial = self._trials[number]
        if len(self._merits) > 1:
            missed = sum(max(0.0, f - goal) for f, goal in zip(self._floors, goals, strict=True) if f is not None)
            trial.set_constraint("floor", missed)
        self._end(number, optuna.trial.TrialState.COMPLETE, [merit(goals) for merit in self._merits])

    def _end(self, number: int, state: optuna.trial.TrialState, values: list[float] | None) -> None:
        """Tell Optuna a trial's end, at the point that stands for it."""
        asked = self._asked[number]
        learned = self._problem.learned_at(asked)
        if learned == asked:
            self._study.tell(self._trials[number], values, state=state)
            return
        frozen = self._study.get_trials(deepcopy=False)[number]
        located = self._space.place(learned).located
        ended = optuna.trial.create_trial(
            state=state,
            values=values,
            params=dict(located),
            distributions=distributions(self._space, located),
            system_attrs=dict(frozen.system_attrs),  # NSGA-II's generation, and the constraint
            intermediate_values=dict(frozen.intermediate_values),
        )
        self._study.tell(self._trials[number], state=optuna.trial.TrialState.FAIL)
        self._study.add_trial(ended)


def run_peer(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    sampler: optuna.samplers.BaseSampler,
    merits: Sequence[Callable[[Goals], float]],
    rungs: Sequence[float] = (),
    trials: int = MANY_TRIALS,
) -> FinishedTrials:
    """Run a search of Optuna alone, with the clock and the costs of ``run_sweep``."""
    peer, finished, turn = Peer(problem, sampler, merits, rungs), FinishedTrials(), count()
    places = (*rungs, 1.0)
    queue: list[tuple[float, int, int, dict[str, Any], int]] = []
    """(time, turn, trial, its parameters, index into ``places`` of its evaluation at that time)."""

    def schedule(now: float, number: int, parameters: dict[str, Any], index: int) -> None:
        spent = [sum(cost_epochs(problem, parameters, rungs, places[i])) if i >= 0 else 0.0 for i in (index - 1, index)]
        heapq.heappush(queue, (now + spent[1] - spent[0], next(turn), number, parameters, index))

    begun = min(slots, trials)
    for _ in range(begun):
        schedule(0.0, *peer.ask(), 0)
    while queue and queue[0][0] * slots <= budget_epochs * (1 + 1e-9):
        now, _, number, parameters, index = heapq.heappop(queue)
        goals = problem.at(parameters, places[index], _noise_seed(seed, number))
        if places[index] == 1:
            peer.tell(number, goals)
            points = list(problem.front_points(parameters, _noise_seed(seed, number)))
            finished.append(FinishedTrial(now * slots, parameters, points))
        elif not peer.stops(number, places[index], goals):
            schedule(now, number, parameters, index + 1)
            continue
        if begun < trials:
            begun += 1
            schedule(now, *peer.ask(), 0)
    return finished


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


def run_asha(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    merit: Callable[[Goals], float],
    trials: int = MANY_TRIALS,
) -> FinishedTrials:
    """TPE with ASHA on a single number."""
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
    )
    return run_peer(problem, seed, slots, budget_epochs, sampler=sampler, merits=[merit], rungs=RUNGS, trials=trials)


def run_nsga2(
    problem: Problem, seed: int, slots: int, budget_epochs: float, *, trials: int = MANY_TRIALS
) -> FinishedTrials:
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    return run_peer(problem, seed, slots, budget_epochs, sampler=sampler, merits=[clean, robust], trials=trials)


def run_gp(
    problem: Problem, seed: int, slots: int, budget_epochs: float, *, trials: int = MANY_TRIALS
) -> FinishedTrials:
    """Optuna's Gaussian process with expected hypervolume gain; parameters that not all trials have are drawn at
    random."""
    sampler = optuna.samplers.GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed, warn_independent_sampling=False)
    return run_peer(problem, seed, slots, budget_epochs, sampler=sampler, merits=[clean, robust], trials=trials)


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


def _noise_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's noise."""
    return 1_000_000 * seed + number

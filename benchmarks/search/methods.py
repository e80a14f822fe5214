"""The searches that ``search.py`` compares, and the virtual clock that runs them.

Ours asks the study and the stopping rule that sweeps use. The others are Optuna's samplers by themselves, with ASHA on
one number where their users have it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal, get_args

import optuna

from benchmarks.search.problems import EPOCHS, Goals, Parameters, Problem
from sweeper.records import GOALS, TrialRecord
from sweeper.search.sampler import STOPPED_TRIAL_POLICY, StoppedTrialPolicy
from sweeper.search.simulator import SimulatedTrial, Simulation
from sweeper.search.stopping import MultiObjectiveAsha
from sweeper.search.study import Study
from sweeper.spec.domains import Choices, Range, Value
from sweeper.spec.spec import Spec

RUNGS = (1 / 9, 1 / 3)
FACTOR = 2.0
SYNE_TUNE_FACTOR = 3.0
"""Its default."""
STARTUP_TRIALS = 8
"""Drawn at random before a sampler learns."""
POPULATION = 16
"""Of NSGA-II."""

MANY_TRIALS = 100_000
"""More than any budget here allows."""

Found = list[tuple[float, list[Goals]]]
"""(epochs spent by then, points for the front) per finished trial, by time."""
Run = Callable[[Problem, int, int, float], Found]
"""From a problem, a seed, slots and a budget in epochs; what is running when it is spent is lost."""


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
) -> Found:
    """A sweep as it is run, under a virtual clock that counts epochs as seconds."""
    rule = {"kind": "moasha", "rungs": ["1/9", "1/3"], "reduction_factor": factor} if stopping else {"kind": "none"}
    search = {"trials": trials, "sampler": sampler, "seed": seed}
    spec = Spec.model_validate(
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
        seed=seed,
        startup_trials=STARTUP_TRIALS,
        sampler=sampler,
        stopped_trial_policy=stopped_trial_policy,
    )

    def course(trial: TrialRecord, rungs: Sequence[float]) -> SimulatedTrial:
        draw = _draw(seed, trial.number)

        def line(progress: float) -> dict[str, Any]:
            trained, evaluated = cost_epochs(problem, trial.parameters, rungs, progress)
            goals = dict(zip(GOALS, problem.at(trial.parameters, progress, draw), strict=True))
            return {
                "step": round(1e6 * progress),
                "progress": progress,
                "train_s": trained,
                "evaluation_s": evaluated,
            } | goals

        end = line(1.0)
        points = [
            {"weights": "last", "strength": 1.0, "values": dict(zip(GOALS, goals, strict=True))}
            for goals in problem.front_points(trial.parameters, draw)
        ]
        result = {"values": {goal: end[goal] for goal in GOALS}, "points": points}
        result |= {"train_s": end["train_s"], "evaluation_s": end["evaluation_s"]}
        return SimulatedTrial(reports=[line(rung) for rung in rungs], result=result)

    untouched = dict(zip(GOALS, problem.reference, strict=True))
    simulation = Simulation(spec, study, course, untouched=untouched, slots=slots)
    ended = simulation.run(until_s=budget_epochs / slots * (1 + 1e-9))
    return [
        (one.now_s * slots, [(point.values[GOALS[0]], point.values[GOALS[1]]) for point in one.trial.points])
        for one in ended
        if one.trial.state == "complete"
    ]


def cost_epochs(
    problem: Problem, parameters: Parameters, rungs: Sequence[float], progress: float
) -> tuple[float, float]:
    """(epochs trained, epochs that the evaluations took) of a trial by then: it is evaluated at rungs and after each
    epoch, and at its end at further strengths and averaged weights."""
    looks = {*rungs, *((epoch + 1) / EPOCHS for epoch in range(EPOCHS))}
    evaluations = sum(look <= progress for look in looks)
    if progress == 1:
        evaluations += problem.final_evaluations - 1
    return progress * EPOCHS, evaluations * problem.evaluation_epochs(parameters)


class Peer:
    """An Optuna study of its own. With one number to maximise, ASHA stops by it and Optuna is told PRUNED, the way its
    pruners do; Optuna's multi-objective studies refuse to prune."""

    def __init__(
        self,
        problem: Problem,
        sampler: optuna.samplers.BaseSampler,
        merits: Sequence[Callable[[Goals], float]],
        rungs: Sequence[float],
    ) -> None:
        assert len(merits) == 1 or not rungs
        self._space, self._floors, self._merits = problem.space, problem.floors, merits
        self._rule = None
        if rungs:
            self._rule = MultiObjectiveAsha(
                rungs=rungs, reduction_factor=FACTOR, directions=["maximize"], floors=[None]
            )
        self._study = optuna.create_study(directions=["maximize"] * len(merits), sampler=sampler)
        self._trials: dict[int, optuna.trial.Trial] = {}
        for point in problem.points:
            self._study.enqueue_trial(dict(point))

    def ask(self) -> tuple[int, dict[str, Value]]:
        trial = self._study.ask()
        self._trials[trial.number] = trial
        return trial.number, self._space.draw(lambda name, domain: _suggest(trial, name, domain))

    def judge(self, number: int, progress: float, goals: Goals) -> bool:
        """Whether to stop a trial; where it is, Optuna has been told."""
        assert self._rule is not None
        merit = self._merits[0](goals)
        self._trials[number].report(merit, step=round(1000 * progress))
        stop = self._rule.report(number, progress, [merit])
        if stop:
            self._study.tell(self._trials[number], state=optuna.trial.TrialState.PRUNED)
        return stop

    def tell(self, number: int, goals: Goals) -> None:
        trial = self._trials[number]
        if len(self._merits) > 1:
            missed = sum(max(0.0, f - goal) for f, goal in zip(self._floors, goals, strict=True) if f is not None)
            trial.set_constraint("floor", missed)
        self._study.tell(trial, [merit(goals) for merit in self._merits])


def run_peer(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    *,
    sampler: optuna.samplers.BaseSampler,
    merits: Sequence[Callable[[Goals], float]],
    rungs: Sequence[float] = (),
) -> Found:
    """The same clock and costs as ``run_sweep``."""
    peer, found, turn = Peer(problem, sampler, merits, rungs), Found(), count()
    looks = (*rungs, 1.0)
    queue: list[tuple[float, int, int, dict[str, Any], int]] = []
    """(time, turn, trial, its parameters, which of ``looks`` comes then)."""

    def go_on(now: float, number: int, parameters: dict[str, Any], look: int) -> None:
        spent = [sum(cost_epochs(problem, parameters, rungs, looks[i])) if i >= 0 else 0.0 for i in (look - 1, look)]
        heapq.heappush(queue, (now + spent[1] - spent[0], next(turn), number, parameters, look))

    for _ in range(slots):
        go_on(0.0, *peer.ask(), 0)
    while queue[0][0] * slots <= budget_epochs * (1 + 1e-9):
        now, _, number, parameters, look = heapq.heappop(queue)
        goals = problem.at(parameters, looks[look], _draw(seed, number))
        if looks[look] == 1:
            peer.tell(number, goals)
            found.append((now * slots, list(problem.front_points(parameters, _draw(seed, number)))))
        elif not peer.judge(number, looks[look], goals):
            go_on(now, number, parameters, look + 1)
            continue
        go_on(now, *peer.ask(), 0)
    return found


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


def _asha_on(merit: Callable[[Goals], float]) -> Run:
    def run(problem: Problem, seed: int, slots: int, budget_epochs: float) -> Found:
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )
        return run_peer(problem, seed, slots, budget_epochs, sampler=sampler, merits=[merit], rungs=RUNGS)

    return run


def _nsga2(problem: Problem, seed: int, slots: int, budget_epochs: float) -> Found:
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    return run_peer(problem, seed, slots, budget_epochs, sampler=sampler, merits=[clean, robust])


OURS = Method("TPE, MO-ASHA (ours)", run_sweep)
UNSTOPPED = Method("TPE, no stopping (ours)", partial(run_sweep, stopping=False))
METHODS = (
    OURS,
    UNSTOPPED,
    Method("random, MO-ASHA (Syne Tune)", partial(run_sweep, sampler="random", factor=SYNE_TUNE_FACTOR)),
    Method("random", partial(run_sweep, sampler="random", stopping=False)),
    Method("NSGA-II (Optuna)", _nsga2),
    Method("TPE, ASHA on clean accuracy", _asha_on(clean)),
    Method("TPE, ASHA on robust accuracy", _asha_on(robust)),
    Method("TPE, ASHA on their mean", _asha_on(mean)),
)
TOLD = tuple(
    Method(way, partial(run_sweep, stopped_trial_policy=way))
    for way in get_args(StoppedTrialPolicy)
    if way != STOPPED_TRIAL_POLICY
)
"""Ours, stopped trials being told to the sampler in other ways."""


def _draw(seed: int, number: int) -> int:
    """What the noise of a trial is drawn from."""
    return 1_000_000 * seed + number


def _suggest(trial: optuna.trial.Trial, name: str, domain: Choices | Range) -> Value:
    if isinstance(domain, Choices):
        value: Value = trial.suggest_categorical(name, domain.values)
        return value
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)

"""Searches of other packages, under the virtual clock and with the costs of ``methods.run_sweep``.

Each may be given the first points of ours: they come before its own suggestions and are trained to their end, as ours
are. Syne Tune and NePS are imported where they are used: they live in an environment of their own
(``benchmarks/peers.txt``).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any, Protocol

import numpy as np
import optuna

from benchmarks.common.goals import GOALS
from benchmarks.common.optuna_space import suggest
from benchmarks.search.problems import EPOCHS, Goals, Parameters, Problem
from sweeper.records import TrialRecord
from sweeper.search.first_points import FirstPoint, FirstPoints
from sweeper.search.sampler import distributions
from sweeper.search.stopping import MultiObjectiveAsha
from sweeper.spec.domains import Choices, Fixed, Range, Value
from sweeper.spec.space import Space
from trainables.records import Point

RUNGS = (1 / 9, 1 / 3)
PEER_FACTOR = 3
"""Default reduction factor of Syne Tune and of PriMO, with rungs at 1/9 and 1/3."""
PRIOR_CONFIDENCE = 0.75
"""Of PriMO's priors: NePS's "high"."""
MANY_TRIALS = 100_000
"""More than any budget here allows."""

_NINTHS = {1 / 9: 1, 1 / 3: 3, 1.0: 9}
"""Progress -> fidelity, for packages that count it in whole numbers."""
_AT_END = "2"
"""NePS's number of the rung at a trial's end."""


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


@dataclass(frozen=True)
class Leg:
    """A part of a trial that ends with an evaluation."""

    number: int
    parameters: Parameters
    rungs: tuple[float, ...]
    """At which the trial is evaluated before its end."""
    since: float
    """Share of the trial's steps that were done before."""
    until: float


class Peer(Protocol):
    def ask(self, point: Parameters | None) -> Leg:
        """Return what a free slot is to do. ``point``: a first point, to be trained to its end."""

    def goes_on(self, leg: Leg, goals: Goals) -> bool:
        """Take what a trial reports at a rung; return whether it goes on in its slot."""

    def tell(self, leg: Leg, goals: Goals) -> None:
        """Take the goals of a trial that has come to its end."""


def run_peer(
    problem: Problem,
    seed: int,
    slots: int,
    budget_epochs: float,
    peer: Peer,
    *,
    trials: int = MANY_TRIALS,
    first_points: FirstPoints | None = None,
) -> FinishedTrials:
    """Run a search; ``trials``: so many times a free slot asks it what to do."""
    finished, turn, chosen = FinishedTrials(), count(), _ChosenPoints(problem, first_points)
    queue: list[tuple[float, int, Leg]] = []
    """(time of its end, turn, leg)."""

    def schedule(now: float, leg: Leg) -> None:
        before, after = (sum(cost_epochs(problem, leg.parameters, leg.rungs, at)) for at in (leg.since, leg.until))
        heapq.heappush(queue, (now + after - before, next(turn), leg))

    def begin(now: float) -> None:
        point = chosen.next()
        leg = peer.ask(None if point is None else point.parameters)
        if point is not None:
            chosen.began(leg.number, point)
        schedule(now, leg)

    begun = min(slots, trials)
    for _ in range(begun):
        begin(0.0)
    while queue and queue[0][0] * slots <= budget_epochs * (1 + 1e-9):
        now, _, leg = heapq.heappop(queue)
        noise_seed = noise_seed_of(seed, leg.number)
        goals = problem.at(leg.parameters, leg.until, noise_seed)
        if leg.until == 1:
            peer.tell(leg, goals)
            points = list(problem.front_points(leg.parameters, noise_seed))
            chosen.ended(leg.number, goals, points)
            finished.append(FinishedTrial(now * slots, leg.parameters, points))
        elif peer.goes_on(leg, goals):
            schedule(now, replace(leg, since=leg.until, until=_next_place(leg)))
            continue
        if begun < trials:
            begun += 1
            begin(now)
    return finished


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


def noise_seed_of(seed: int, number: int) -> int:
    """Return the seed of a trial's noise."""
    return 1_000_000 * seed + number


def _next_place(leg: Leg) -> float:
    return next(place for place in (*leg.rungs, 1.0) if place > leg.until)


class _ChosenPoints:
    """The problem's own points, then the first points: which comes next depends on how those before it ended."""

    def __init__(self, problem: Problem, first_points: FirstPoints | None) -> None:
        self._left = [FirstPoint(f"point {number}", dict(point)) for number, point in enumerate(problem.points)]
        self._first_points = first_points
        self._records: dict[int, TrialRecord] = {}

    def next(self) -> FirstPoint | None:
        if self._left:
            return self._left.pop(0)
        return None if self._first_points is None else self._first_points.next(list(self._records.values()))

    def began(self, number: int, point: FirstPoint) -> None:
        self._records[number] = TrialRecord(
            number=number, state="running", parameters=dict(point.parameters), seed=0, first_point=point.name
        )

    def ended(self, number: int, goals: Goals, points: Sequence[Goals]) -> None:
        if number in self._records:
            values = dict(zip(GOALS, goals, strict=True))
            of_points = tuple(
                Point(weights="last", strength=1.0, values=dict(zip(GOALS, one, strict=True))) for one in points
            )
            self._records[number] = replace(self._records[number], state="complete", values=values, points=of_points)


class OptunaPeer:
    """An Optuna study. With a single merit to maximise, ASHA stops trials by it and reports them to Optuna as PRUNED.

    Optuna's multi-objective studies support no pruning.
    """

    def __init__(
        self,
        problem: Problem,
        sampler: optuna.samplers.BaseSampler,
        merits: Sequence[Callable[[Goals], float]],
        rungs: Sequence[float],
        factor: float,
    ) -> None:
        assert len(merits) == 1 or not rungs
        self._problem, self._space, self._floors, self._merits = problem, problem.space, problem.floors, merits
        self._rungs, self._rule = tuple(rungs), None
        if rungs:
            self._rule = MultiObjectiveAsha(
                rungs=rungs, reduction_factor=factor, directions=["maximize"], floors=[None]
            )
        self._study = optuna.create_study(directions=["maximize"] * len(merits), sampler=sampler)
        self._trials: dict[int, optuna.trial.Trial] = {}

    def ask(self, point: Parameters | None) -> Leg:
        if point is not None:
            self._study.enqueue_trial(self._space.place(point).located)
        trial = self._study.ask()
        self._trials[trial.number] = trial
        parameters = self._space.draw(partial(suggest, trial))
        return _new_leg(trial.number, parameters, self._rungs if point is None else ())

    def goes_on(self, leg: Leg, goals: Goals) -> bool:
        assert self._rule is not None
        merit = self._merits[0](goals)
        self._trials[leg.number].report(merit, step=round(1000 * leg.until))
        stop = self._rule.report(leg.number, leg.until, [merit])
        if stop:
            self._end(leg, optuna.trial.TrialState.PRUNED, None)
        return not stop

    def tell(self, leg: Leg, goals: Goals) -> None:
        if len(self._merits) > 1:
            missed = sum(max(0.0, f - goal) for f, goal in zip(self._floors, goals, strict=True) if f is not None)
            self._trials[leg.number].set_constraint("floor", missed)
        self._end(leg, optuna.trial.TrialState.COMPLETE, [merit(goals) for merit in self._merits])

    def _end(self, leg: Leg, state: optuna.trial.TrialState, values: list[float] | None) -> None:
        """Tell Optuna a trial's end, at the point that stands for it."""
        trial, learned = self._trials[leg.number], self._problem.learned_at(leg.parameters)
        if learned == leg.parameters:
            self._study.tell(trial, values, state=state)
            return
        frozen = self._study.get_trials(deepcopy=False)[leg.number]
        located = self._space.place(learned).located
        ended = optuna.trial.create_trial(
            state=state,
            values=values,
            params=dict(located),
            distributions=distributions(self._space, located),
            system_attrs=dict(frozen.system_attrs),  # NSGA-II's generation, and the constraint
            intermediate_values=dict(frozen.intermediate_values),
        )
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._study.add_trial(ended)


class SyneTunePeer:
    """Syne Tune's MO-ASHA, which draws at random. First points are trained beside it: it neither learns nor compares
    them.

    Release 0.16 takes the order of the trials for their ranks (``NonDominatedPriority`` returns indices, best first),
    so that it often stops or keeps another trial than the rule it cites.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        from syne_tune import config_space
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        def domain_of(domain: Choices | Range) -> Any:
            if isinstance(domain, Choices):
                return config_space.choice(list(domain.values))
            if domain.integer:
                draw = config_space.lograndint if domain.log else config_space.randint
            else:
                draw = config_space.loguniform if domain.log else config_space.uniform
            return draw(domain.low, domain.high)

        np.random.seed(seed)  # it draws from NumPy's global generator, whatever seed it is given
        self._space, self._numbers = problem.space, count()
        self._scheduler = MOASHA(
            {name: domain_of(domain) for name, domain in flat(problem.space).items()},
            metrics=list(GOALS),
            do_minimize=False,
            time_attr="ninths",
            max_t=9,
            grace_period=1,
            reduction_factor=PEER_FACTOR,
            random_seed=seed,
        )
        self._trials: dict[int, Any] = {}

    def ask(self, point: Parameters | None) -> Leg:
        from syne_tune.backend.trial_status import Trial

        number = next(self._numbers)
        if point is not None:
            return _new_leg(number, point, ())
        config = self._scheduler.suggest().config
        self._trials[number] = Trial(number, config, datetime.now())
        self._scheduler.on_trial_add(self._trials[number])
        return _new_leg(number, self._space.draw(lambda name, domain: _inside(domain, config[name])), RUNGS)

    def goes_on(self, leg: Leg, goals: Goals) -> bool:
        from syne_tune.optimizer.scheduler import SchedulerDecision

        decision = self._scheduler.on_trial_result(self._trials[leg.number], self._result(leg, goals))
        if decision == SchedulerDecision.STOP:
            self._scheduler.on_trial_remove(self._trials[leg.number])
        return bool(decision == SchedulerDecision.CONTINUE)

    def tell(self, leg: Leg, goals: Goals) -> None:
        if leg.number in self._trials:
            self._scheduler.on_trial_complete(self._trials[leg.number], self._result(leg, goals))

    @staticmethod
    def _result(leg: Leg, goals: Goals) -> dict[str, float]:
        return {"ninths": _NINTHS[leg.until], **dict(zip(GOALS, goals, strict=True))}


class PrimoPeer:
    """NePS's PriMO: MO-ASHA with promotion until as many whole trials as there are parameters were paid for, then a
    Gaussian process on one random weighting of the goals, each trial trained to its end.

    Each goal has the same prior: the middle point. First points are given trials at full fidelity. A promoted trial
    goes on from its last rung. PriMO knows no conditions, so that each branch of a parameter is one of its own.
    """

    def __init__(self, problem: Problem, seed: int, prior: Parameters) -> None:
        import torch
        from neps import AskAndTell
        from neps.optimizers.algorithms import primo
        from neps.space import HPOCategorical, HPOFloat, HPOInteger, SearchSpace

        def domain_of(domain: Choices | Range) -> Any:
            if isinstance(domain, Choices):
                return HPOCategorical(list(domain.values))
            if domain.integer:
                return HPOInteger(int(domain.low), int(domain.high), log=domain.log)
            return HPOFloat(domain.low, domain.high, log=domain.log)

        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self._problem, self._space, self._number = problem, problem.space, count()
        self._domains = {
            name: domain
            for name, domain in flat(problem.space).items()
            if not isinstance(domain, Choices) or len(domain.values) > 1
        }
        elements = {name: domain_of(domain) for name, domain in self._domains.items()}
        centre = {name: value for name, value in self._space.place(prior).located.items() if name in self._domains}
        self._neps = AskAndTell(
            primo(
                SearchSpace({**elements, "ninths": HPOInteger(1, 9, is_fidelity=True)}),
                eta=PEER_FACTOR,
                prior_centers=dict.fromkeys(GOALS, centre),
                prior_confidences={goal: dict.fromkeys(centre, PRIOR_CONFIDENCE) for goal in GOALS},
            )
        )
        self._promoted: dict[str, Leg] = {}
        """By NePS's number of the configuration: its last leg."""
        self._keys: dict[int, str] = {}
        """By trial of the bracket: NePS's name of its running leg."""
        self._configs: dict[int, Mapping[str, Any]] = {}
        """By trial: a value of each of NePS's parameters, also of those that do not apply."""

    def ask(self, point: Parameters | None) -> Leg:
        if point is not None:
            number = next(self._number)
            self._configs[number] = {
                name: domain.at(0.5) if isinstance(domain, Range) else domain.values[0]
                for name, domain in self._domains.items()
            }
            return _new_leg(number, point, ())
        asked = self._neps.ask()
        if "_rung_" not in asked.id:
            # Its Gaussian process skips pending trials and may give the next one the same name.
            del self._neps.trials[asked.id]
            return self._begin(asked.config, ())
        config, rung = asked.id.split("_rung_")
        if config in self._promoted:
            last = self._promoted[config]
            leg = replace(last, since=last.until, until=_next_place(last))
        else:
            leg = self._begin(asked.config, RUNGS)
        assert leg.until == (*RUNGS, 1.0)[int(rung)], "a promoted trial goes on at the next rung"
        self._promoted[config], self._keys[leg.number] = leg, asked.id
        return leg

    def goes_on(self, leg: Leg, goals: Goals) -> bool:
        self._tell_bracket(leg, goals)
        return False

    def tell(self, leg: Leg, goals: Goals) -> None:
        if leg.number in self._keys:
            self._tell_bracket(leg, goals)
            return
        number = 1 + max((int(key.split("_")[0]) for key in self._neps.trials), default=0)
        self._neps.tell_custom(
            config_id=f"{number}_rung_{_AT_END}", config=self._learned(leg), result=_minimised(goals)
        )

    def _begin(self, config: Mapping[str, Any], rungs: tuple[float, ...]) -> Leg:
        number = next(self._number)
        self._configs[number] = config
        only = {
            name: domain.values[0]
            for name, domain in flat(self._space).items()
            if isinstance(domain, Choices) and len(domain.values) == 1
        }
        return _new_leg(number, self._space.draw(lambda name, domain: _inside(domain, {**only, **config}[name])), rungs)

    def _tell_bracket(self, leg: Leg, goals: Goals) -> None:
        key = self._keys[leg.number]
        self._neps.trials[key].config = self._learned(leg)
        self._neps.tell(key, _minimised(goals))

    def _learned(self, leg: Leg) -> dict[str, Any]:
        """Return the parameters of a trial as NePS is to learn them: of the training that stands for it."""
        located = self._space.place(self._problem.learned_at(leg.parameters)).located
        config = {name: located.get(name, self._configs[leg.number][name]) for name in self._domains}
        return config | {"ninths": _NINTHS[leg.until]}


def flat(space: Space) -> dict[str, Choices | Range]:
    """Return what each name in the study is drawn from, for packages that know no conditions."""
    branches = [branch for own in space.branches.values() for branch in own]
    return {branch.name: branch.domain for branch in branches if not isinstance(branch.domain, Fixed)}


def _new_leg(number: int, parameters: Parameters, rungs: tuple[float, ...]) -> Leg:
    return Leg(number, parameters, rungs, since=0.0, until=(*rungs, 1.0)[0])


def _minimised(goals: Goals) -> list[float]:
    return [-goal for goal in goals]


def _inside(domain: Choices | Range, value: Any) -> Value:
    """Return a value as Python's own type; one that rounding (NePS: to float32) moved out of its range, at its end."""
    plain: Value = value.item() if isinstance(value, np.generic) else value
    return plain if isinstance(domain, Choices) else min(max(plain, domain.low), domain.high)

"""The sampler, on a study in memory, so that a kill during a suggestion leaves nothing in the study's file.

A suggestion depends on its seed and on the observed trials, in the order of their numbers: a new suggester with the
same trials makes the same suggestions.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.records import TrialRecord
from sweeper.records import TrialState as State
from sweeper.spec.domains import Choices, Range, Value
from sweeper.spec.space import Placed, Space
from trainables.records import Direction

Sampler = Literal["tpe", "random"]
_STATES: dict[State, TrialState] = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
StoppedTrialPolicy = Literal["avoided", "bad", "ignored", "partial", "infeasible"]
"""Treatment by the sampler of a trial that the stopping rule stopped:

- ``avoided``: as running;
- ``bad``: as pruned;
- ``ignored``: as hidden;
- ``partial``: as complete with its last values;
- ``infeasible``: as ranked below all complete trials, further below the earlier it was stopped.

TPE takes a tenth of all ended trials as good. ``bad`` and ``infeasible`` trials count as ended, so with many stopped
trials most complete ones are taken as good; ``avoided`` trials count neither as ended nor as start-up trials. Measured:
benchmarks/results/search.md.
"""
STOPPED_TRIAL_POLICY: StoppedTrialPolicy = "avoided"


@dataclass(frozen=True, kw_only=True)
class PriorTrial:
    """A finished trial of an earlier sweep, as a point of this sweep's space."""

    parameters: dict[str, Value]
    values: tuple[float, ...]
    violation: float


class Suggester:
    """Suggests points of a space: first at random, then from the goals that trials reported."""

    def __init__(
        self,
        space: Space,
        *,
        directions: Sequence[Direction],
        sampler: Sampler,
        startup_trials: int,
        stopped_trial_policy: StoppedTrialPolicy = STOPPED_TRIAL_POLICY,
    ) -> None:
        """Make a suggester without trials.

        Args:
            directions: of the goals.
            sampler: ``random`` never learns; ``tpe`` draws at random until ``startup_trials`` are complete.
        """
        self._space, self._sampler, self._startup_trials = space, sampler, startup_trials
        self._stopped_as = stopped_trial_policy
        with silence_optuna():
            self._memory = optuna.create_study(directions=list(directions))
        self._memory_numbers: dict[int, int] = {}
        self._entered = 0

    def add_prior_trials(self, known: Sequence[PriorTrial]) -> None:
        """Add trials of an earlier sweep. Must be called before any ``observe``."""
        assert not self._memory_numbers, "earlier sweeps come first, so that a new suggester has the same trials"
        for prior in known:
            try:
                located = self._space.place(prior.parameters).located
            except ValueError:
                continue  # outside the part of a range that is searched
            self._add(
                create_trial(
                    values=list(prior.values),
                    params=dict(located),
                    distributions=distributions(self._space, located),
                    constraints={"floor": prior.violation},
                )
            )

    def observe(self, trial: TrialRecord, located: Mapping[str, Value], violation: float = 0.0) -> None:
        """Update a trial, running or ended, in memory.

        A failed trial is ignored, and so is one outside the part of a range that ``Space.narrowed`` has left.

        Args:
            located: the trial's searched parameters by name in the study.
            violation: amount by which a complete trial misses the floors.
        """
        if self._sampler == "random" or not self._space.holds(located):
            return
        state, values = _STATES[trial.state], None if trial.values is None else list(trial.values.values())
        constraints = {"floor": violation} if trial.state == "complete" else {}
        if trial.state == "stopped":
            state, values, constraints = self._stopped(trial)
        known = self._memory_numbers.get(trial.number)
        with silence_optuna():
            if known is not None and state is TrialState.RUNNING:
                pass  # unchanged
            elif known is not None:
                for name, value in constraints.items():
                    optuna.trial.Trial(self._memory, known).set_constraint(name, value)
                self._memory.tell(known, values, state=state)
            elif state is not TrialState.FAIL:
                self._memory_numbers[trial.number] = self._add(
                    create_trial(
                        state=state,
                        values=values,
                        params=dict(located),
                        distributions=distributions(self._space, located),
                        constraints=constraints if state.is_finished() else None,
                    )
                )

    def suggest(self, seed: int) -> Placed:
        """Return the point of a new trial."""
        if self._sampler == "random":
            return self._at_random(seed)
        with silence_optuna():
            self._memory.sampler = optuna.samplers.TPESampler(
                n_startup_trials=self._startup_trials, multivariate=True, group=True, constant_liar=True, seed=seed
            )
            asked = self._memory.ask()
            self._entered += 1
            parameters = self._space.draw(lambda name, domain: _draw(asked, name, domain))
            # The sampler ignores a failed trial. The study enters the suggestion as a trial of its own, without the
            # attributes that TPE leaves in a trial it suggested and that a new study would lack.
            self._memory.tell(asked, state=TrialState.FAIL)
        return Placed(parameters, dict(asked.params))

    def _at_random(self, seed: int) -> Placed:
        """Draw a point without entering it; earlier trials do not matter."""
        sampler, located = optuna.samplers.RandomSampler(seed=seed), dict[str, Value]()

        def draw(name: str, domain: Choices | Range) -> Value:
            located[name] = sampler.sample_independent(self._memory, None, name, _distribution(domain))
            return located[name]

        return Placed(self._space.draw(draw), located)

    def _add(self, trial: FrozenTrial) -> int:
        """Add a trial to the study in memory and return its number there."""
        self._memory.add_trial(trial)
        self._entered += 1
        return self._entered - 1

    def _stopped(self, trial: TrialRecord) -> tuple[TrialState, list[float] | None, dict[str, float]]:
        assert trial.stopped_at is not None and trial.values_then is not None
        values = list(trial.values_then.values())
        if self._stopped_as == "avoided":
            return TrialState.RUNNING, None, {}
        if self._stopped_as == "ignored":
            return TrialState.FAIL, None, {}
        if self._stopped_as == "bad":
            return TrialState.PRUNED, None, {}
        if self._stopped_as == "partial":
            return TrialState.COMPLETE, values, {"floor": 0.0}
        # Above any shortfall in accuracy, so that all complete trials come first.
        return TrialState.COMPLETE, values, {"floor": 10.0 - trial.stopped_at}


def distributions(space: Space, names: Iterable[str]) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution for each name in the study."""
    return {name: _distribution(domain) for name, domain in space.domains(names).items()}


@contextlib.contextmanager
def silence_optuna() -> Iterator[None]:
    """Silence Optuna's line for each study, and its warning that `group` is experimental (since Optuna 2.8)."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)


def _draw(trial: optuna.trial.Trial, name: str, domain: Choices | Range) -> Value:
    if isinstance(domain, Choices):
        value: Value = trial.suggest_categorical(name, domain.values)
        return value
    if domain.integer:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)


def _distribution(domain: Choices | Range) -> BaseDistribution:
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)

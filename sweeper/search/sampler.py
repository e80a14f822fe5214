"""What the sampler knows of a sweep, in memory: asking there never leaves a half-asked trial in the study's file.

A suggestion depends on its seed and on what was reflected here, in the order of the trials' numbers: a suggester made
anew from the same trials suggests the same.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.records import TrialRecord
from sweeper.records import TrialState as State
from sweeper.spec.domains import Choices, Range, Value
from sweeper.spec.space import Space

Sampler = Literal["tpe", "random"]
_STATES: dict[State, TrialState] = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
StoppedTrialPolicy = Literal["avoided", "bad", "ignored", "partial", "infeasible"]
"""What the sampler hears of a trial that the stopping rule ended: to keep away from it as from one that is running,
that it was bad, nothing, the values it had then as if it were complete, or these values below every complete trial, the
earlier it was stopped the further below.

TPE takes a tenth of all ended trials for good ones. ``bad`` and ``infeasible`` count among all, so that with many
stopped ones most of the complete ones are taken for good; ``avoided`` counts neither there nor as a start-up trial.
Measured: benchmarks/results/search.md."""
STOPPED_TRIAL_POLICY: StoppedTrialPolicy = "avoided"


@dataclass(frozen=True, kw_only=True)
class PriorTrial:
    """A finished trial of an earlier sweep, as a point of this one's space."""

    parameters: dict[str, Value]
    values: tuple[float, ...]
    violation: float


class Suggester:
    """Draws points of a space, from what trials were told once there are enough of them."""

    def __init__(
        self,
        space: Space,
        *,
        goals: int,
        sampler: Sampler,
        startup_trials: int,
        stopped_trial_policy: StoppedTrialPolicy = STOPPED_TRIAL_POLICY,
    ) -> None:
        """All goals are maximised. ``random`` never learns; ``tpe`` draws at random until ``startup_trials`` are
        complete."""
        self._space, self._sampler, self._startup_trials = space, sampler, startup_trials
        self._stopped_as = stopped_trial_policy
        with silence_optuna():
            self._mirror = optuna.create_study(directions=["maximize"] * goals)
        self._mirrored: dict[int, int] = {}
        self._held = 0

    def learn(self, known: Sequence[PriorTrial]) -> None:
        """Takes trials of an earlier sweep; to be called before any ``reflect``."""
        assert not self._mirrored, "earlier sweeps come first, so that a suggester made anew knows the same"
        for one in known:
            self._add(
                create_trial(
                    values=list(one.values),
                    params=self._space.locate(one.parameters),
                    distributions=distributions(self._space, one.parameters),
                    constraints={"floor": one.violation},
                )
            )

    def reflect(self, trial: TrialRecord, located: Mapping[str, Value], violation: float = 0.0) -> None:
        """Brings one trial up to date: running or ended. A failed one is ignored.

        ``located``: its searched parameters by name in the study; ``violation``: by how much a complete one misses the
        floors.
        """
        if self._sampler == "random":
            return
        state, values = _STATES[trial.state], None if trial.values is None else list(trial.values.values())
        constraints = {"floor": violation} if trial.state == "complete" else {}
        if trial.state == "stopped":
            state, values, constraints = self._stopped(trial)
        known = self._mirrored.get(trial.number)
        with silence_optuna():
            if known is not None and state is TrialState.RUNNING:
                pass  # as it was
            elif known is not None:
                for name, value in constraints.items():
                    optuna.trial.Trial(self._mirror, known).set_constraint(name, value)
                self._mirror.tell(known, values, state=state)
            elif state is not TrialState.FAIL:
                self._mirrored[trial.number] = self._add(
                    create_trial(
                        state=state,
                        values=values,
                        params=dict(located),
                        distributions=distributions(self._space, trial.parameters),
                        constraints=constraints if state.is_finished() else None,
                    )
                )

    def suggest(self, seed: int) -> tuple[dict[str, Value], dict[str, Value]]:
        """Parameters of a new trial and, by name in the study, the searched ones among them."""
        if self._sampler == "random":
            return self._at_random(seed)
        with silence_optuna():
            self._mirror.sampler = optuna.samplers.TPESampler(
                n_startup_trials=self._startup_trials, multivariate=True, group=True, constant_liar=True, seed=seed
            )
            asked = self._mirror.ask()
            self._held += 1
            parameters = self._space.draw(lambda name, domain: _draw(asked, name, domain))
            # As a failed trial the sampler ignores it; the study enters the suggestion as a trial of its own, without
            # the notes that TPE leaves in one it has asked for and that a mirror made anew would not have.
            self._mirror.tell(asked, state=TrialState.FAIL)
        return parameters, dict(asked.params)

    def _at_random(self, seed: int) -> tuple[dict[str, Value], dict[str, Value]]:
        """Without entering anything: what is known does not matter."""
        sampler, located = optuna.samplers.RandomSampler(seed=seed), dict[str, Value]()

        def draw(name: str, domain: Choices | Range) -> Value:
            located[name] = sampler.sample_independent(self._mirror, None, name, _distribution(domain))
            return located[name]

        return self._space.draw(draw), located

    def _add(self, trial: FrozenTrial) -> int:
        """Returns its number in the mirror."""
        self._mirror.add_trial(trial)
        self._held += 1
        return self._held - 1

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
        # Above any shortfall in accuracy, so that whatever is complete comes first.
        return TrialState.COMPLETE, values, {"floor": 10.0 - trial.stopped_at}


def distributions(space: Space, parameters: Mapping[str, Value]) -> dict[str, BaseDistribution]:
    """Of the searched ones among a point's parameters, by name in the study."""
    return {name: _distribution(domain) for name, domain in space.domains(parameters).items()}


@contextlib.contextmanager
def silence_optuna() -> Iterator[None]:
    """No lines for every study made; `group` has been marked experimental since Optuna 2.8."""
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

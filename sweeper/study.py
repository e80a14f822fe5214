"""The durable record of a sweep: an Optuna study in SQLite with this module as its only writer.

A suggestion depends on nothing but the sweep's seed, the trial's number and what the study holds: a study opened again
after a kill suggests what the unkilled one would have.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.domains import Choices, Range, Value
from sweeper.records import GOALS, Point, TrialRecord, UserError
from sweeper.records import TrialState as State
from sweeper.space import Space

Sampler = Literal["tpe", "random"]

_NAME = "sweep"
_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


class Study:
    """Ask and tell. A trial enters in one transaction; a kill while it is told leaves it running, to be told again.

    For one thread of one process at a time.
    """

    def __init__(self, study: optuna.Study, space: Space) -> None:
        """For ``create`` and ``open``."""
        self._study = study
        self._space = space
        settings = study.user_attrs["settings"]
        self.seed: int = settings["seed"]
        self.startup_trials: int = settings["startup_trials"]
        self.sampler: Sampler = settings.get("sampler", "tpe")  # sweeps of earlier versions knew no other
        self.goals: tuple[str, ...] = tuple(settings["goals"])
        # What the sampler may know, in memory: asking there never leaves a half-asked trial in the file.
        with _quiet():
            self._mirror = optuna.create_study(directions=study.directions)
        self._mirrored: dict[int, int] = {}
        for frozen in self._frozen():
            self._reflect(frozen)

    @classmethod
    def create(
        cls,
        path: Path,
        space: Space,
        *,
        seed: int,
        startup_trials: int,
        sampler: Sampler = "tpe",
        goals: Sequence[str] = GOALS,
    ) -> Study:
        """A new study in a file that must not exist.

        ``random`` never learns; ``tpe`` draws at random until ``startup_trials`` are finished.

        Raises UserError where the file exists.
        """
        if path.exists():
            raise UserError(f"{path} exists already; resume its sweep or take another name")
        unfinished = path.with_name(path.name + ".new")
        unfinished.unlink(missing_ok=True)
        with _storage(unfinished) as storage:
            study = optuna.create_study(storage=storage, study_name=_NAME, directions=["maximize"] * len(goals))
            study.set_metric_names(list(goals))
            settings = {"seed": seed, "startup_trials": startup_trials, "sampler": sampler, "goals": list(goals)}
            study.set_user_attr("settings", settings)
        os.replace(unfinished, path)
        return cls.open(path, space)

    @classmethod
    def open(cls, path: Path, space: Space) -> Study:
        """The study in a file that ``create`` made. Raises UserError where there is none."""
        if not path.is_file():
            raise UserError(f"there is no study at {path}")
        try:
            with _quiet():
                return cls(optuna.load_study(storage=optuna.storages.RDBStorage(_url(path)), study_name=_NAME), space)
        except Exception as error:
            # SQLAlchemy, Alembic and Optuna each have exceptions of their own for a file that is not theirs.
            raise UserError(f"{path} holds no study of a sweep: {error}") from error

    def close(self) -> None:
        """Lets the file go."""
        self._study._storage.remove_session()

    def ask(self) -> TrialRecord:
        """Suggests a trial and enters it as running. Raises nothing of its own."""
        number = len(self._frozen())
        parameters, located = self._suggest(_seed("suggestion", self.seed, number))
        return self._enter(number, parameters, located, baseline=None)

    def add(self, parameters: Mapping[str, Any], baseline: str | None = None) -> TrialRecord:
        """Enters a chosen point as a running trial.

        A baseline may lie outside the space: the sampler then never sees it. Raises ValueError for any other point
        outside.
        """
        if baseline is not None and not self._space.contains(parameters):
            return self._enter(len(self._frozen()), dict(parameters), {}, baseline)
        located = self._space.locate(parameters)
        return self._enter(len(self._frozen()), self._space.complete(parameters), located, baseline)

    def tell(
        self,
        number: int,
        values: Mapping[str, float],
        points: Sequence[Point],
        duration_s: float,
        slot: int | None,
        violation: float = 0.0,
    ) -> None:
        """Ends a running trial with its values on validation.

        ``violation`` is by how much it misses the goals' floors, 0 where it does not; the sampler prefers any trial
        above the floors to it. Raises ValueError for values that are missing or not finite, and for a trial that is not
        running.
        """
        told = [float(values[goal]) if goal in values else math.nan for goal in self.goals]
        if not all(math.isfinite(value) for value in [*told, violation]):
            raise ValueError(f"trial {number} can only be told finite values of {', '.join(self.goals)}, got {values}")
        trial = self._running(number)
        trial.set_user_attr(
            "result", {"points": [asdict(point) for point in points], "duration_s": duration_s, "slot": slot}
        )
        if not trial.constraints:  # A kill between this line and the next leaves it set; the earlier record wins.
            trial.set_constraint("floor", max(0.0, violation))
        self._study.tell(number, told)
        self._reflect(self._frozen()[number])

    def fail(self, number: int, reason: str, *, duration_s: float | None = None, slot: int | None = None) -> None:
        """Ends a running trial that failed; the sampler ignores it. Raises ValueError for a trial not running."""
        self._end(number, TrialState.FAIL, reason, duration_s, slot)

    def stop(self, number: int, reason: str, *, duration_s: float | None = None, slot: int | None = None) -> None:
        """Ends a running trial that the stopping rule ended, without values. Raises ValueError for one not running."""
        self._end(number, TrialState.PRUNED, reason, duration_s, slot)

    def trials(self) -> list[TrialRecord]:
        """All trials by number."""
        return [self._record(frozen) for frozen in self._frozen()]

    def _end(self, number: int, state: TrialState, reason: str, duration_s: float | None, slot: int | None) -> None:
        trial = self._running(number)
        trial.set_user_attr("result", {"points": [], "duration_s": duration_s, "slot": slot, "reason": reason})
        self._study.tell(number, state=state)
        self._reflect(self._frozen()[number])

    def _running(self, number: int) -> optuna.trial.Trial:
        trials = self._frozen()
        if not 0 <= number < len(trials):
            raise ValueError(f"there is no trial {number}; the study has {len(trials)}")
        if trials[number].state is not TrialState.RUNNING:
            raise ValueError(f"trial {number} is {_STATES[trials[number].state]} already")
        return optuna.trial.Trial(self._study, trials[number]._trial_id)

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _enter(
        self, number: int, parameters: dict[str, Value], located: Mapping[str, Value], baseline: str | None
    ) -> TrialRecord:
        distributions = {}
        if located:
            distributions = {name: _distribution(d) for name, d in self._space.domains(parameters).items()}
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(located),
            distributions=distributions,
            user_attrs={
                "parameters": parameters,
                "seed": _seed("trial", self.seed, number),
                "baseline": baseline,
                "in_space": bool(located),
            },
        )
        self._study.add_trial(trial)
        entered = self._frozen()[number]
        assert entered.user_attrs["parameters"] == parameters, "somebody else writes into this study"
        self._reflect(entered)
        return self._record(entered)

    def _record(self, frozen: FrozenTrial) -> TrialRecord:
        entered = frozen.user_attrs
        ended = entered.get("result", {}) if frozen.state.is_finished() else {}
        return TrialRecord(
            number=frozen.number,
            state=_STATES[frozen.state],
            parameters=dict(entered["parameters"]),
            seed=entered["seed"],
            values=dict(zip(self.goals, frozen.values, strict=True)) if frozen.values is not None else None,
            points=tuple(Point(**point) for point in ended.get("points", ())),
            reason=ended.get("reason"),
            baseline=entered["baseline"],
            duration_s=ended.get("duration_s"),
            slot=ended.get("slot"),
        )

    def _reflect(self, frozen: FrozenTrial) -> None:
        """Brings one trial of the mirror up to date; order and content are the same however often the file was opened.

        Not reflected: what the sampler would ignore (failed trials) or cannot place (baselines outside the space).
        """
        known = self._mirrored.get(frozen.number)
        with _quiet():
            if known is not None:
                for name, value in frozen.constraints.items():
                    optuna.trial.Trial(self._mirror, known).set_constraint(name, value)
                self._mirror.tell(known, frozen.values, state=frozen.state)
            elif frozen.state is not TrialState.FAIL and frozen.user_attrs["in_space"]:
                self._mirrored[frozen.number] = len(self._mirror.get_trials(deepcopy=False))
                copy = create_trial(
                    state=frozen.state,
                    values=frozen.values,
                    params=frozen.params,
                    distributions=frozen.distributions,
                    constraints=frozen.constraints if frozen.state.is_finished() else None,
                )
                self._mirror.add_trial(copy)

    def _suggest(self, seed: int) -> tuple[dict[str, Value], dict[str, Value]]:
        """Parameters of a new trial and, by name in the study, the searched ones among them."""
        with _quiet():
            self._mirror.sampler = self._make_sampler(seed)
            asked = self._mirror.ask()
            parameters = self._space.draw(lambda name, domain: _draw(asked, name, domain))
            # As a failed trial the sampler ignores it; `add` enters the suggestion as a trial of its own, without the
            # notes that TPE leaves in one it has asked for and that a mirror made anew would not have.
            self._mirror.tell(asked, state=TrialState.FAIL)
        return parameters, dict(asked.params)

    def _make_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            n_startup_trials=self.startup_trials, multivariate=True, group=True, constant_liar=True, seed=seed
        )


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


def _seed(purpose: str, seed: int, number: int) -> int:
    """A number below 2**31 that differs for each purpose, sweep seed and trial."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _url(path: Path) -> str:
    if "?" in str(path):
        raise UserError(f"{path}: a study's path must not hold a question mark")
    return f"sqlite:///{path.absolute()}"


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    with _quiet():
        storage = optuna.storages.RDBStorage(_url(path))
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No lines for every study made; `group` has been marked experimental since Optuna 2.8."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)

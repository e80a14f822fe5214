"""The durable record of a sweep: an Optuna study in SQLite with this module as its only writer.

A suggestion depends on nothing but the sweep's seed, the trial's number and what the study holds: a study opened again
after a kill suggests what the unkilled one would have.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.domains import Value
from sweeper.records import GOALS, Point, TrialRecord, UserError
from sweeper.records import TrialState as State
from sweeper.space import Space
from sweeper.suggester import STOPPED_AS, Known, Sampler, StoppedAs, Suggester, distributions, quiet

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

    def __init__(self, study: optuna.Study, space: Space, stopped_as: StoppedAs = STOPPED_AS) -> None:
        """For ``create``, ``open`` and ``in_memory``."""
        self._study = study
        self._space = space
        settings = study.user_attrs["settings"]
        self.seed: int = settings["seed"]
        self.startup_trials: int = settings["startup_trials"]
        self.sampler: Sampler = settings.get("sampler", "tpe")  # sweeps of earlier versions knew no other
        self.goals: tuple[str, ...] = tuple(settings["goals"])
        self._suggester = Suggester(
            space,
            goals=len(self.goals),
            sampler=self.sampler,
            startup_trials=self.startup_trials,
            stopped_as=stopped_as,
        )
        self._suggester.learn([Known(**known) for known in settings.get("known", ())])
        # Nobody else writes, so what the file holds is read once.
        self._ids: list[int] = []
        self._records: list[TrialRecord] = []
        for frozen in study.get_trials(deepcopy=False):
            self._take(frozen)

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
        known: Sequence[Known] = (),
    ) -> Study:
        """A new study in a file that must not exist.

        ``random`` never learns; ``tpe`` draws at random until ``startup_trials`` are finished. ``known``: finished
        trials of earlier sweeps, which the sampler learns from as from its own.

        Raises UserError where the file exists.
        """
        if path.exists():
            raise UserError(f"{path} exists already; resume its sweep or take another name")
        unfinished = path.with_name(path.name + ".new")
        unfinished.unlink(missing_ok=True)
        with _storage(unfinished) as storage:
            study = optuna.create_study(storage=storage, study_name=_NAME, directions=["maximize"] * len(goals))
            study.set_metric_names(list(goals))
            study.set_user_attr("settings", _settings(seed, startup_trials, sampler, goals, known))
        os.replace(unfinished, path)
        return cls.open(path, space)

    @classmethod
    def open(cls, path: Path, space: Space) -> Study:
        """The study in a file that ``create`` made. Raises UserError where there is none."""
        if not path.is_file():
            raise UserError(f"there is no study at {path}")
        try:
            with quiet():
                return cls(optuna.load_study(storage=optuna.storages.RDBStorage(_url(path)), study_name=_NAME), space)
        except Exception as error:
            # SQLAlchemy, Alembic and Optuna each have exceptions of their own for a file that is not theirs.
            raise UserError(f"{path} holds no study of a sweep: {error}") from error

    @classmethod
    def in_memory(
        cls,
        space: Space,
        *,
        seed: int,
        startup_trials: int,
        sampler: Sampler = "tpe",
        goals: Sequence[str] = GOALS,
        stopped_as: StoppedAs = STOPPED_AS,
    ) -> Study:
        """The same without a file, gone with the process: for simulations."""
        with quiet():
            study = optuna.create_study(directions=["maximize"] * len(goals))
        study.set_user_attr("settings", _settings(seed, startup_trials, sampler, goals, ()))
        return cls(study, space, stopped_as)

    def close(self) -> None:
        """Lets the file go."""
        self._study._storage.remove_session()

    def ask(self) -> TrialRecord:
        """Suggests a trial and enters it as running. Raises nothing of its own."""
        number = len(self._records)
        parameters, located = self._suggester.suggest(_seed("suggestion", self.seed, number))
        return self._enter(parameters, located)

    def add(self, parameters: Mapping[str, Any], baseline: str | None = None) -> TrialRecord:
        """Enters a chosen point as a running trial.

        A baseline may lie outside the space: the sampler then never sees it. Raises ValueError for any other point
        outside.
        """
        if baseline is not None and not self._space.contains(parameters):
            return self._enter(dict(parameters), {}, baseline=baseline)
        located = self._space.locate(parameters)
        return self._enter(self._space.complete(parameters), located, baseline=baseline)

    def retrain(self, number: int, seed: int) -> TrialRecord:
        """Enters a finished trial once more, with another seed, as a running trial that the sampler never sees."""
        return self._enter(self._records[number].parameters, {}, confirms=number, seed=seed)

    def tell(
        self,
        number: int,
        values: Mapping[str, float],
        points: Sequence[Point],
        duration_s: float,
        slot: int | None,
        violation: float = 0.0,
        cost_s: float | None = None,
    ) -> None:
        """Ends a running trial with its values on validation.

        ``violation`` is by how much it misses the goals' floors, 0 where it does not; the sampler prefers any trial
        above the floors to it. ``cost_s``: for how long it held a slot.

        Raises ValueError for values that are missing or not finite, and for a trial that is not running.
        """
        told = self._told(number, values)
        if not math.isfinite(violation):
            raise ValueError(f"trial {number} misses its floors by {violation}; a finite number is needed")
        trial = self._running(number)
        result = {"points": [asdict(point) for point in points], "duration_s": duration_s, "slot": slot}
        trial.set_user_attr("result", result | {"cost_s": cost_s})
        if not trial.constraints:  # A kill between this line and the next leaves it set; the earlier record wins.
            trial.set_constraint("floor", max(0.0, violation))
        self._study.tell(number, told)
        self._take(self._frozen(number))

    def fail(
        self,
        number: int,
        reason: str,
        *,
        duration_s: float | None = None,
        slot: int | None = None,
        cost_s: float | None = None,
    ) -> None:
        """Ends a running trial that failed; the sampler ignores it. Raises ValueError for a trial not running."""
        self._end(number, TrialState.FAIL, {"reason": reason, "duration_s": duration_s, "slot": slot, "cost_s": cost_s})

    def stop(
        self,
        number: int,
        reason: str,
        *,
        stopped_at: float,
        values: Mapping[str, float],
        duration_s: float | None = None,
        slot: int | None = None,
        cost_s: float | None = None,
    ) -> None:
        """Ends a running trial that the stopping rule ended at ``stopped_at``, the share of its steps done.

        ``values``, its goals at that time, are for the sampler alone (``StoppedAs``): they are no values of the trial.

        Raises ValueError for a trial that is not running, and for values that are missing or not finite.
        """
        about = {"stopped_at": stopped_at, "values": self._told(number, values)}
        about |= {"reason": reason, "duration_s": duration_s, "slot": slot, "cost_s": cost_s}
        self._end(number, TrialState.PRUNED, about)

    def trials(self) -> list[TrialRecord]:
        """All trials by number."""
        return list(self._records)

    def trial(self, number: int) -> TrialRecord:
        return self._records[number]

    def __len__(self) -> int:
        return len(self._records)

    def _told(self, number: int, values: Mapping[str, float]) -> list[float]:
        told = [float(values[goal]) if goal in values else math.nan for goal in self.goals]
        if not all(math.isfinite(value) for value in told):
            raise ValueError(f"trial {number} can only be told finite values of {', '.join(self.goals)}, got {values}")
        return told

    def _end(self, number: int, state: TrialState, result: dict[str, Any]) -> None:
        trial = self._running(number)
        trial.set_user_attr("result", {"points": [], **result})
        self._study.tell(number, state=state)
        self._take(self._frozen(number))

    def _running(self, number: int) -> optuna.trial.Trial:
        if not 0 <= number < len(self._records):
            raise ValueError(f"there is no trial {number}; the study has {len(self._records)}")
        if self._records[number].state != "running":
            raise ValueError(f"trial {number} is {self._records[number].state} already")
        return optuna.trial.Trial(self._study, self._ids[number])

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study._storage.get_trial(self._ids[number])

    def _enter(
        self,
        parameters: dict[str, Value],
        located: Mapping[str, Value],
        *,
        baseline: str | None = None,
        confirms: int | None = None,
        seed: int | None = None,
    ) -> TrialRecord:
        number = len(self._records)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(located),
            distributions=distributions(self._space, parameters) if located else {},
            user_attrs={
                "parameters": parameters,
                "seed": _seed("trial", self.seed, number) if seed is None else seed,
                "baseline": baseline,
                "confirms": confirms,
                "in_space": confirms is None and bool(located),
            },
        )
        self._study.add_trial(trial)
        storage = self._study._storage
        frozen = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number))
        assert frozen.user_attrs["parameters"] == parameters, "somebody else writes into this study"
        return self._take(frozen)

    def _take(self, frozen: FrozenTrial) -> TrialRecord:
        """Brings records and suggester up to date with one trial of the file."""
        record = self._record(frozen)
        if frozen.number == len(self._records):
            self._ids.append(frozen._trial_id)
            self._records.append(record)
        else:
            self._records[frozen.number] = record
        # What the sampler cannot place, a baseline outside the space, it does not see, nor what was trained again.
        if frozen.user_attrs["in_space"]:
            self._suggester.reflect(frozen)
        return record

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
            confirms=entered.get("confirms"),
            stopped_at=ended.get("stopped_at"),
            duration_s=ended.get("duration_s"),
            cost_s=ended.get("cost_s"),
            slot=ended.get("slot"),
        )


def _settings(
    seed: int, startup_trials: int, sampler: Sampler, goals: Sequence[str], known: Sequence[Known]
) -> dict[str, Any]:
    settings = {"seed": seed, "startup_trials": startup_trials, "sampler": sampler, "goals": list(goals)}
    return settings | {"known": [asdict(one) for one in known]}


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
    with quiet():
        storage = optuna.storages.RDBStorage(_url(path))
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()

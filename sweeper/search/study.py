"""The durable record of a sweep: an Optuna study in SQLite with this module as its only writer.

A suggestion depends only on the sweep's seed, the trial's number and the study's content: a study opened again after a
kill suggests the same as without the kill.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.errors import UnavailableError, UserError
from sweeper.records import TrialRecord
from sweeper.records import TrialState as State
from sweeper.search.sampler import (
    STOPPED_TRIAL_POLICY,
    PriorTrial,
    Sampler,
    StoppedTrialPolicy,
    Suggester,
    distributions,
    silence_optuna,
)
from sweeper.search.study_file import (
    ADVICE,
    StudyFile,
    disk_errors,
    new_storage,
    opened_storage,
    reason_of,
    release,
    remove_database,
)
from sweeper.spec.domains import Value
from sweeper.spec.space import Placed, Space
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.files import sync_folder
from trainables.records import Direction, Point

_NAME = "sweep"
_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}

LearnedAt = Callable[[Mapping[str, Value]], Mapping[str, Value]]


class Study:
    """The trials of a sweep, with suggestions and results.

    A trial is entered in one transaction. A kill while its result is written leaves it running; the result is then
    written again. For one thread of one process at a time: the file is read once. If the disk fails, methods that write
    raise UnavailableError and leave the trials unchanged, in memory and in the file.
    """

    def __init__(
        self,
        file: StudyFile | None,
        space: Space,
        settings: Mapping[str, Any],
        *,
        stopped_trial_policy: StoppedTrialPolicy = STOPPED_TRIAL_POLICY,
        learned_at: LearnedAt | None = None,
    ) -> None:
        """Called by ``create``, ``open`` and ``in_memory``."""
        self._file = file
        self._learned_at = learned_at
        self._space = space
        self.seed: int = settings["seed"]
        self.startup_trials: int = settings["startup_trials"]
        self.sampler: Sampler = settings.get("sampler", "tpe")  # sweeps of earlier versions had no other sampler
        self.goals: tuple[str, ...] = tuple(settings["goals"])
        # earlier versions had no other direction
        directions = settings.get("directions") or ["maximize"] * len(self.goals)
        self._new_suggester = partial(
            Suggester,
            directions=directions,
            sampler=self.sampler,
            startup_trials=self.startup_trials,
            stopped_trial_policy=stopped_trial_policy,
        )
        self._prior_trials = [PriorTrial(**prior) for prior in settings.get("known", ())]
        self._parts: dict[str, tuple[float, float]] = {}
        self._suggester = self._new_suggester(space)
        self._suggester.add_prior_trials(self._prior_trials)
        self._records: list[TrialRecord] = []
        self._located: list[Mapping[str, Value]] = []
        """Searched parameters by name in the study, indexed by trial number; empty if the sampler ignores the trial."""
        self._ids: list[int] = []
        """Optuna's trial id, indexed by trial number."""
        self._violations: dict[int, float] = {}
        """Trial number -> amount by which a complete trial misses the floors."""
        for frozen in [] if file is None else file.study.get_trials(deepcopy=False):
            self._ids.append(frozen._trial_id)
            in_space = frozen.user_attrs["in_space"]
            self._update(
                self._from_frozen(frozen), frozen.params if in_space else {}, frozen.constraints.get("floor", 0.0)
            )

    @classmethod
    def create(
        cls,
        path: Path,
        space: Space,
        *,
        seed: int,
        startup_trials: int,
        sampler: Sampler = "tpe",
        goals: Mapping[str, Direction],
        prior_trials: Sequence[PriorTrial] = (),
    ) -> Study:
        """Return a new study in a file that must not exist.

        Args:
            sampler: ``random`` never learns; ``tpe`` draws at random until ``startup_trials`` are complete.
            goals: metric -> direction.
            prior_trials: finished trials of earlier sweeps, from which the sampler learns as from its own.

        Raises:
            UserError: the file exists.
            UnavailableError: the disk fails; the file then does not exist.
        """
        if path.exists():
            raise UserError(f"{path} exists already; resume its sweep or take another name")
        unfinished = path.with_name(path.name + ".new")
        remove_database(unfinished)  # of a driver that was killed
        try:
            with disk_errors(path), opened_storage(unfinished) as storage:
                study = optuna.create_study(storage=storage, study_name=_NAME, directions=list(goals.values()))
                study.set_metric_names(list(goals))
                study.set_user_attr("settings", _settings(seed, startup_trials, sampler, goals, prior_trials))
            with disk_errors(path):
                os.replace(unfinished, path)
                sync_folder(path.parent)
        except BaseException:
            remove_database(unfinished)
            raise
        return cls.open(path, space)

    @classmethod
    def open(cls, path: Path, space: Space) -> Study:
        """Return the study in a file that ``create`` made.

        Raises:
            UserError: the file does not exist or holds no study.
            UnavailableError: the disk fails.
        """
        with disk_errors(path):
            if not path.is_file():
                raise UserError(f"there is no study at {path}")
            if path.stat().st_size == 0:
                raise UserError(f"{path} is empty; {ADVICE}")
        storage: RDBStorage | None = None
        try:
            with silence_optuna(), disk_errors(path):
                storage = new_storage(path, skip_table_creation=True)
                study = optuna.load_study(storage=storage, study_name=_NAME)
                return cls(StudyFile(path, storage, study), space, study.user_attrs["settings"])
        except Exception as error:
            if storage is not None:
                release(storage)
            if isinstance(error, (UserError, UnavailableError)):
                raise
            # SQLAlchemy, Alembic and Optuna each have exceptions of their own for a file of another format.
            raise UserError(f"{path} holds no study of a sweep: {reason_of(error)}; {ADVICE}") from error

    @classmethod
    def in_memory(
        cls,
        space: Space,
        *,
        seed: int,
        startup_trials: int,
        sampler: Sampler = "tpe",
        goals: Mapping[str, Direction],
        stopped_trial_policy: StoppedTrialPolicy = STOPPED_TRIAL_POLICY,
        learned_at: LearnedAt | None = None,
    ) -> Study:
        """Return a study without a file, for simulations.

        Args:
            learned_at: maps a trial's parameters to the point that the sampler learns from. A simulation may replace a
                suggested trial by a recorded one; the record keeps the suggested parameters.
        """
        return cls(
            None,
            space,
            _settings(seed, startup_trials, sampler, goals, ()),
            stopped_trial_policy=stopped_trial_policy,
            learned_at=learned_at,
        )

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            release(self._file.storage)

    @property
    def is_warm(self) -> bool:
        """Return whether the study has trials of earlier sweeps."""
        return bool(self._prior_trials)

    def ask(self, parts: Mapping[str, tuple[float, float]] | None = None) -> TrialRecord:
        """Suggest a trial and enter it as running.

        Args:
            parts: (low, high) within some ranges, by name in the study; the sampler draws from these parts and learns
                from the trials in them.

        Raises:
            UnavailableError: the disk fails.
        """
        self._narrow({} if parts is None else dict(parts))
        number = len(self._records)
        return self._add_trial(self._suggester.suggest(_seed("suggestion", self.seed, number)))

    def add(
        self, parameters: Mapping[str, Any], baseline: str | None = None, first_point: str | None = None
    ) -> TrialRecord:
        """Enter a chosen point as a running trial.

        A baseline may lie outside the space; the sampler then ignores it.

        Raises:
            ValueError: another point lies outside the space.
            UnavailableError: the disk fails.
        """
        try:
            placed = self._space.place(parameters)
        except ValueError:
            if baseline is None:
                raise
            placed = Placed(dict(parameters), {})
        return self._add_trial(placed, baseline=baseline, first_point=first_point)

    def retrain(self, number: int, seed: int) -> TrialRecord:
        """Enter a finished trial once more, with another seed, as a running trial that the sampler ignores.

        Raises:
            UnavailableError: the disk fails.
        """
        return self._add_trial(Placed(self._records[number].parameters, {}), confirms=number, seed=seed)

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
        """End a running trial with its goals on validation.

        Args:
            violation: amount by which the trial misses the goals' floors, 0 if it keeps them; the sampler prefers any
                trial above the floors.
            cost_s: seconds for which the trial held a slot.

        Raises:
            ValueError: values are missing or not finite, or the trial is not running.
            UnavailableError: the disk fails.
        """
        values_by_goal = self._checked_values(number, values)
        if not math.isfinite(violation):
            raise ValueError(f"trial {number} misses its floors by {violation}; a finite number is needed")
        record = self._running(number)
        result = {"points": [asdict(point) for point in points], "duration_s": duration_s, "slot": slot}
        self._write(
            number, TrialState.COMPLETE, result | {"cost_s": cost_s}, list(values_by_goal.values()), max(0.0, violation)
        )
        ended = replace(record, state="complete", values=values_by_goal, points=tuple(points))
        self._update(replace(ended, duration_s=duration_s, slot=slot, cost_s=cost_s), self._located[number], violation)

    def fail(
        self,
        number: int,
        reason: str,
        *,
        duration_s: float | None = None,
        slot: int | None = None,
        cost_s: float | None = None,
    ) -> None:
        """End a running trial that failed; the sampler ignores it.

        Raises:
            ValueError: the trial is not running.
            UnavailableError: the disk fails.
        """
        about: dict[str, Any] = {"reason": reason, "duration_s": duration_s, "slot": slot, "cost_s": cost_s}
        record = self._running(number)
        self._write(number, TrialState.FAIL, about)
        self._update(replace(record, state="failed", **about), self._located[number])

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
        """End a running trial that the stopping rule stopped.

        Args:
            stopped_at: share of the trial's steps that were done.
            values: the goals at that time. Only the sampler uses them (``StoppedTrialPolicy``).

        Raises:
            ValueError: the trial is not running, or values are missing or not finite.
            UnavailableError: the disk fails.
        """
        about: dict[str, Any] = {"stopped_at": stopped_at, "values_then": self._checked_values(number, values)}
        about |= {"reason": reason, "duration_s": duration_s, "slot": slot, "cost_s": cost_s}
        record = self._running(number)
        self._write(number, TrialState.PRUNED, about)
        self._update(replace(record, state="stopped", **about), self._located[number])

    def trials(self) -> list[TrialRecord]:
        """Return all trials, ordered by number."""
        return list(self._records)

    def trial(self, number: int) -> TrialRecord:
        return self._records[number]

    def __len__(self) -> int:
        return len(self._records)

    def _checked_values(self, number: int, values: Mapping[str, float]) -> dict[str, float]:
        values_by_goal = {goal: float(values[goal]) if goal in values else math.nan for goal in self.goals}
        if not all(math.isfinite(value) for value in values_by_goal.values()):
            raise ValueError(f"trial {number} can only be told finite values of {', '.join(self.goals)}, got {values}")
        return values_by_goal

    def _running(self, number: int) -> TrialRecord:
        if not 0 <= number < len(self._records):
            raise ValueError(f"there is no trial {number}; the study has {len(self._records)}")
        if self._records[number].state != "running":
            raise ValueError(f"trial {number} is {self._records[number].state} already")
        return self._records[number]

    def _write(
        self,
        number: int,
        state: TrialState,
        result: Mapping[str, Any],
        values: Sequence[float] | None = None,
        violation: float | None = None,
    ) -> None:
        """End a trial in the file."""
        if self._file is None:
            return
        with disk_errors(self._file.path):
            trial = optuna.trial.Trial(self._file.study, self._ids[number])
            trial.set_user_attr("result", dict(result))
            # A kill or an error between this line and the next leaves it set; the earlier record wins.
            if violation is not None and not trial.constraints:
                trial.set_constraint("floor", violation)
            self._file.study.tell(number, values, state=state)

    def _add_trial(
        self,
        placed: Placed,
        *,
        baseline: str | None = None,
        first_point: str | None = None,
        confirms: int | None = None,
        seed: int | None = None,
    ) -> TrialRecord:
        number = len(self._records)
        if self._learned_at is not None and placed.located:
            located = self._space.place(self._learned_at(placed.parameters)).located
            placed = Placed(placed.parameters, located)
        record = TrialRecord(
            number=number,
            state="running",
            parameters=placed.parameters,
            seed=_seed("trial", self.seed, number) if seed is None else seed,
            baseline=baseline,
            first_point=first_point,
            confirms=confirms,
        )
        if self._file is not None:
            about = {
                name: getattr(record, name) for name in ("parameters", "seed", "baseline", "first_point", "confirms")
            }
            frozen = create_trial(
                state=TrialState.RUNNING,
                params=dict(placed.located),
                distributions=distributions(self._space, placed.located),
                user_attrs=about | {"in_space": bool(placed.located)},
            )
            self._ids.append(self._file.enter(frozen, number))
        return self._update(record, placed.located)

    def _update(self, record: TrialRecord, located: Mapping[str, Value], violation: float = 0.0) -> TrialRecord:
        """Update a trial in the records in memory and in the sampler."""
        if record.number == len(self._records):
            self._records.append(record)
            self._located.append(located)
        else:
            self._records[record.number] = record
        self._violations[record.number] = violation
        # The sampler ignores a baseline outside the space, and retrainings.
        if located:
            self._suggester.observe(record, located, violation)
        return record

    def _narrow(self, parts: dict[str, tuple[float, float]]) -> None:
        """Draw from these parts of ranges from now on, with a new suggester that has observed all trials."""
        if parts == self._parts:
            return
        self._parts, self._suggester = parts, self._new_suggester(self._space.narrowed(parts))
        self._suggester.add_prior_trials(self._prior_trials)
        for record in self._records:
            if self._located[record.number]:
                self._suggester.observe(record, self._located[record.number], self._violations[record.number])

    def _from_frozen(self, frozen: FrozenTrial) -> TrialRecord:
        entered = frozen.user_attrs
        ended = dict(entered.get("result", {})) if frozen.state.is_finished() else {}
        return TrialRecord(
            number=frozen.number,
            state=_STATES[frozen.state],
            parameters=dict(entered["parameters"]),
            seed=entered["seed"],
            values=dict(zip(self.goals, frozen.values, strict=True)) if frozen.values is not None else None,
            points=tuple(Point(**point) for point in ended.pop("points", ())),
            baseline=entered["baseline"],
            first_point=entered.get("first_point"),
            confirms=entered.get("confirms"),
            **ended,
        )


def _settings(
    seed: int,
    startup_trials: int,
    sampler: Sampler,
    goals: Mapping[str, Direction],
    prior_trials: Sequence[PriorTrial],
) -> dict[str, Any]:
    settings: dict[str, Any] = {"seed": seed, "startup_trials": startup_trials, "sampler": sampler}
    settings |= {"goals": list(goals), "directions": list(goals.values())}
    return settings | {"known": [asdict(prior) for prior in prior_trials]}


def _seed(purpose: str, seed: int, number: int) -> int:
    """Return a number below 2**31 that differs for each purpose, sweep seed and trial."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def searched(trials: Sequence[TrialRecord]) -> int:
    """Return how many trials of the search have ended."""
    return sum(trial.state != "running" and trial.confirms is None for trial in trials)


def read_trials(folder: SweepFolder, spec: Spec) -> list[TrialRecord]:
    """Return all trials of a sweep; empty before its study was created."""
    if not folder.study_path.exists():
        return []
    study = Study.open(folder.study_path, spec.parameters)
    try:
        return study.trials()
    finally:
        study.close()

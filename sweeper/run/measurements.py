"""What warm slots measure for the driver: the untouched model on validation, and points on test, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

from sweeper.errors import UnavailableError
from sweeper.front.confirm import confirmations, read_hits, retrained
from sweeper.jobs import Job, JobResult, MeasureJob, Outcome, TrainedWeights, UntouchedJob
from sweeper.records import Front, PointName, TrialRecord, UntouchedModel
from sweeper.run.progress import Progress
from sweeper.run.signals import SessionInterrupted, StopSignal
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Measurement


class Measurements:
    """Has warm slots measure points, and records what they measured.

    Methods raise SessionInterrupted where the sweep was asked to stop meanwhile, UnavailableError where a file cannot
    be read or written, RuntimeError where something else cannot be measured.
    """

    def __init__(
        self,
        submit: Callable[[Job], Future[Outcome]],
        folder: SweepFolder,
        progress: Progress,
        *,
        stop: StopSignal,
        tick: Callable[[], None],
    ) -> None:
        """``submit``: of the slots; ``tick``: called several times a second while a measurement is under way."""
        self._submit_job, self._folder, self._progress = submit, folder, progress
        self._stop, self._tick = stop, tick
        self._submitted = 0
        self._untouched: Future[Outcome] | None = None
        self._broken_splits: set[str] = set()
        """Splits whose broken images the user has been told of."""

    def untouched(self) -> UntouchedModel | None:
        """Return the measured untouched model; None while it is being measured."""
        if self._untouched is None:
            self._untouched = self._submit_job(UntouchedJob(key=self._next_key()))
        if not self._done(self._untouched, within_s=0.0):
            return None
        untouched = self._result(self._untouched)
        assert isinstance(untouched, UntouchedModel)
        self._tell_broken(untouched.broken)
        return untouched

    def on_test(self, points: Mapping[PointName, Mapping[str, Any]], *, variants: bool) -> None:
        """Measure points on test, given the parameters of their trials; all are on disk when this returns.

        ``variants``: under unseen attacks too.
        """
        futures = {
            point: self._submit_job(self._measure_job(point, parameters, variants))
            for point, parameters in points.items()
        }
        broken: dict[str, list[str]] = {}
        for point, future in futures.items():
            measured = self._result(future)
            assert isinstance(measured, Measurement)
            broken |= measured.broken
            self._folder.append_measurement(point, measured)
        self._tell_broken(broken)

    def confirm(self, front: Front, trials: Sequence[TrialRecord], spec: Spec) -> None:
        """Measure the retrainings of the front's members on test, and record what they say of the members."""
        untouched, members = self._folder.untouched(), retrained(front, trials)
        if not members or untouched is None:
            return
        points: dict[PointName, dict[str, Any]] = {
            (trial.number, weights, strength): trial.parameters
            for (_, weights, strength), retrainings in members.items()
            for trial in retrainings
            if trial.state == "complete"
        }
        measured = self._folder.measurements()
        missing = {point: parameters for point, parameters in points.items() if point not in measured}
        if missing:
            self._progress.line(f"measuring on test: {len(missing)} points of what was trained again")
            self.on_test(missing, variants=False)
        sets, bounds = spec.kind.goal_sets(spec), spec.bounds(untouched.goals)
        hits = {point: read_hits(self._folder.answers_path(point), sets, front.goals) for point in points}
        confirmed = confirmations(
            front,
            trials,
            hits,
            bounds=bounds,
            untouched_goals=untouched.goals,
            measurements=self._folder.measurements(),
        )
        self._folder.write_confirmations(confirmed)
        staying = sum(confirmation.stays for confirmation in confirmed.values())
        self._progress.line(
            f"confirmed: {staying} of {len(confirmed)} members that were trained again stay on the front"
        )

    def _measure_job(self, point: PointName, parameters: Mapping[str, Any], variants: bool) -> MeasureJob:
        trial, weights, strength = point
        trained = None
        if trial is not None:
            folder = self._folder.trial(trial).path
            trained = TrainedWeights(folder=folder, parameters=dict(parameters), weights=weights, strength=strength)
        return MeasureJob(
            key=self._next_key(), point=trained, answers=self._folder.answers_path(point), variants=variants
        )

    def _tell_broken(self, broken: Mapping[str, list[str]]) -> None:
        for split, images in broken.items():
            if split not in self._broken_splits:
                named = "; ".join(images[:3]) + ("; ..." if len(images) > 3 else "")
                self._progress.line(f"{split}: {len(images)} images cannot be read and are left out: {named}")
                self._broken_splits.add(split)

    def _next_key(self) -> int:
        self._submitted += 1
        return self._submitted

    def _done(self, future: Future[Outcome], *, within_s: float) -> bool:
        if not wait([future], timeout=within_s).not_done:
            return True
        self._stop.check()
        self._tick()
        return False

    def _result(self, future: Future[Outcome]) -> JobResult | None:
        while not self._done(future, within_s=0.2):
            pass
        outcome = future.result()
        if outcome.kind == "interrupted":
            raise SessionInterrupted
        if outcome.kind == "storage":
            raise UnavailableError(outcome.reason or "the storage failed")
        if outcome.kind != "complete":
            raise RuntimeError(f"a measurement failed: {outcome.reason}\n{outcome.traceback or ''}".rstrip())
        return outcome.result

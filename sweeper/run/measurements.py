"""Measurements on warm slots: the untouched model on validation, the second look, and points on test."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from sweeper.errors import UnavailableError
from sweeper.front.confirm import confirmations, read_hits, retrained
from sweeper.front.load import load_front, missing_looks
from sweeper.front.second_look import (
    UNTOUCHED,
    about_text,
    complete_trials,
    covers,
    is_possible,
    new_text,
    pooled,
    with_second_looks,
)
from sweeper.jobs import Job, JobResult, MeasureJob, MemoryJob, Outcome, SecondLookJob, TrainedWeights, UntouchedJob
from sweeper.records import Front, PointName, TrialRecord, UntouchedModel
from sweeper.run.expected_cost import MeasuringPace
from sweeper.run.progress import Progress
from sweeper.run.signals import SessionInterrupted, StopSignal
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Measurement, MemoryNeed, SecondLook


class Measurements:
    """Has warm slots measure points, and records the results.

    Methods raise SessionInterrupted if the sweep was asked to stop meanwhile, UnavailableError if a file cannot be read
    or written, and RuntimeError if a measurement fails otherwise.
    """

    def __init__(
        self,
        submit: Callable[[Job], Future[Outcome]],
        folder: SweepFolder,
        progress: Progress,
        *,
        stop: StopSignal,
        tick: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to measure.

        Args:
            submit: submits a job to the slots.
            tick: called several times a second during a measurement.
        """
        self._submit_job, self._folder, self._progress = submit, folder, progress
        self._stop, self._tick, self._clock = stop, tick, clock
        self.looks: MeasuringPace | None = None
        """Pace of the second look, then of measuring on test; None before these have begun."""
        self.tests: MeasuringPace | None = None
        self._submitted = 0
        self._untouched: Future[Outcome] | None = None
        self._broken_splits: set[str] = set()
        """Splits whose broken images were reported to the user."""
        self._looks: dict[PointName, Future[Outcome]] = {}
        """Jobs of the present second look by point, without those that are on disk."""
        self._looks_wanted = 0

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

    def measure_memory(self, parameters: Mapping[str, Any], folder: Path, tell: Callable[[MemoryNeed], None]) -> None:
        """Have a slot measure the memory of a trial of these parameters, while trials begin in the others.

        Args:
            folder: for the files of the measured trial; removed afterwards.
            tell: gets the result, on another thread; not called if the measurement fails, which ends no sweep.
        """

        def done(future: Future[Outcome]) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            outcome = None if future.exception() is not None else future.result()
            if outcome is not None and isinstance(outcome.result, MemoryNeed):
                tell(outcome.result)

        job = MemoryJob(key=self._next_key(), folder=folder, parameters=dict(parameters))
        self._submit_job(job).add_done_callback(done)

    @property
    def looking(self) -> bool:
        """Return whether a second look has begun and not ended."""
        return bool(self._looks)

    def look_again(self, trials: Sequence[TrialRecord], spec: Spec) -> bool:
        """Begin a second look at the points near the front that have none yet, or go on with it for 0.1 s.

        Args:
            trials: of the study, whose search has ended.

        Returns:
            Whether it has ended; its results are on disk then.
        """
        untouched = self._folder.untouched()
        assert untouched is not None, "the untouched model is measured before the first trial"
        if not self._looks:
            if spec.evaluate.second_look is None or not is_possible(untouched.unseen_images):
                return True
            missing = missing_looks(self._folder, spec, untouched, trials)
            if not missing:
                self._end_look(trials, spec)
                return True
            assert untouched.unseen_images is not None, "a second look is possible"
            self._begin_looks(missing, untouched.unseen_images)
        self._go_on_looking()
        return False

    def second_look(self, trials: Sequence[TrialRecord], spec: Spec) -> None:
        """Have the second look made, or its missing part; see ``look_again``."""
        while not self.look_again(trials, spec):
            self._stop.check()
            self._tick()

    def _begin_looks(self, points: Mapping[PointName, Mapping[str, Any]], images: Sequence[int]) -> None:
        self._looks_wanted = len(points.keys() - {UNTOUCHED})
        self._progress.line(f"second look: {about_text(self._looks_wanted, sum(images))}")
        self._progress.wait_for("second look", self._looks_wanted, "points")
        self.looks = MeasuringPace(self._looks_wanted, self._clock())
        self._looks = {
            point: self._submit_job(SecondLookJob(key=self._next_key(), point=self._weights(point, parameters)))
            for point, parameters in points.items()
        }

    def _go_on_looking(self) -> None:
        wait(self._looks.values(), timeout=0.1, return_when=FIRST_COMPLETED)
        for point in [point for point, future in self._looks.items() if future.done()]:
            looked = self._result(self._looks.pop(point))
            assert isinstance(looked, SecondLook)
            self._folder.append_second_look(point, looked)
        done = self._looks_wanted - len(self._looks.keys() - {UNTOUCHED})
        self._progress.step(done)
        if self.looks is not None:
            self.looks.done(done, self._clock())

    def _end_look(self, trials: Sequence[TrialRecord], spec: Spec) -> None:
        looks = self._folder.second_looks()
        if not looks.points or covers(looks, trials):
            return
        self._folder.end_second_look(complete_trials(trials))
        front = load_front(self._folder, spec, trials)
        assert front is not None and front.second_look is not None, "it has just ended"
        members = sum(point.member for point in front.points)
        self._progress.line(f"second look: {new_text(front.second_look, members)}")
        self._progress.front_updated(front)

    def on_test(self, points: Mapping[PointName, Mapping[str, Any]], *, variants: bool) -> None:
        """Measure points on test, given the parameters of their trials; all are on disk when this returns.

        Args:
            variants: whether to measure under unseen attacks too.
        """
        what = "the front, the untouched model and baselines" if variants else "the retrained points"
        self._progress.wait_for(f"measuring {what} on test", len(points), "points")
        self.tests = MeasuringPace(len(points), self._clock())
        futures = {
            point: self._submit_job(self._measure_job(point, parameters, variants))
            for point, parameters in points.items()
        }
        broken: dict[str, list[str]] = {}
        for number, (point, future) in enumerate(futures.items()):
            self._progress.step(number)
            self.tests.done(number, self._clock())
            measured = self._result(future)
            assert isinstance(measured, Measurement)
            broken |= measured.broken
            self._folder.append_measurement(point, measured)
        self._tell_broken(broken)

    def confirm(self, front: Front, trials: Sequence[TrialRecord], spec: Spec) -> None:
        """Measure the retrainings of the front's members on test, and record the confirmations of the members."""
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
            self.on_test(missing, variants=False)
        goals = untouched.goals
        if front.second_look is not None and untouched.unseen_images is not None:
            trials = self._looked_at(points, untouched, untouched.unseen_images, trials)
            goals = pooled(goals, untouched.validation_images, self._folder.second_looks().points[UNTOUCHED])
        sets, bounds = spec.kind.goal_sets(spec), spec.bounds(goals)
        hits = {point: read_hits(self._folder.answers_path(point), sets, front.goals) for point in points}
        confirmed = confirmations(
            front,
            trials,
            hits,
            bounds=bounds,
            untouched_goals=goals,
            measurements=self._folder.measurements(),
        )
        self._folder.write_confirmations(confirmed)
        staying = sum(confirmation.stays for confirmation in confirmed.values())
        self._progress.line(
            f"confirmed: {staying} of {len(confirmed)} members that were trained again stay on the front"
        )

    def _looked_at(
        self,
        points: Mapping[PointName, Mapping[str, Any]],
        untouched: UntouchedModel,
        images: Sequence[int],
        trials: Sequence[TrialRecord],
    ) -> list[TrialRecord]:
        """Measure points of retrainings like those of the search; return trials with values by both measurements."""
        looks = self._folder.second_looks().points
        missing = {point: parameters for point, parameters in points.items() if point not in looks}
        if missing:
            self._begin_looks(missing, images)
        while self._looks:
            self._stop.check()
            self._tick()
            self._go_on_looking()
        return with_second_looks(trials, untouched.validation_images, self._folder.second_looks().points)

    def _measure_job(self, point: PointName, parameters: Mapping[str, Any], variants: bool) -> MeasureJob:
        return MeasureJob(
            key=self._next_key(),
            point=self._weights(point, parameters),
            answers=self._folder.answers_path(point),
            variants=variants,
        )

    def _weights(self, point: PointName, parameters: Mapping[str, Any]) -> TrainedWeights | None:
        trial, weights, strength = point
        if trial is None:
            return None
        folder = self._folder.trial(trial).path
        return TrainedWeights(folder=folder, parameters=dict(parameters), weights=weights, strength=strength)

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
        if self._folder.remote is not None and isinstance(outcome.result, Measurement):
            self._folder.remote.answers.fetch_new()  # the worker may be on another machine
        if outcome.kind != "complete":
            raise RuntimeError(f"a measurement failed: {outcome.reason}\n{outcome.traceback or ''}".rstrip())
        return outcome.result

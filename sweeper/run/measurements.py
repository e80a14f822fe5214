"""What warm slots measure for the driver: the untouched model on validation, and points on test, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

from sweeper.front.confirm import confirmations, pasted_sets, read_hits, retrained
from sweeper.records import Front, Outcome, PointName, Task, TrialRecord
from sweeper.run.progress import Progress
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder


class Interrupted(Exception):
    """Asked to stop while nothing but waiting was under way."""


class Measurements:
    """Methods raise Interrupted, or RuntimeError where something cannot be measured."""

    def __init__(
        self,
        submit: Callable[[Task], Future[Outcome]],
        folder: SweepFolder,
        progress: Progress,
        *,
        interrupted: Callable[[], bool],
        tick: Callable[[], None],
    ) -> None:
        """``submit``: of warm slots; ``tick`` is called several times a second while a measurement is under way."""
        self._submit_task, self._folder, self._progress = submit, folder, progress
        self._interrupted, self._tick = interrupted, tick
        self._submitted = 0
        self._untouched: Future[Outcome] | None = None
        self._told_broken: set[str] = set()

    def untouched(self) -> dict[str, Any] | None:
        """See ``runner``; None: it is being measured, ask again."""
        if self._untouched is None:
            self._untouched = self._submit({"what": "untouched"})
        if not self._done(self._untouched, within_s=0.0):
            return None
        measured = self._result(self._untouched)
        self._tell_broken(measured["broken"])
        return measured

    def on_test(self, points: Mapping[PointName, Mapping[str, Any]], *, variants: bool) -> None:
        """Points that were not measured yet, with the parameters of their trials; what is measured is on disk when this
        returns. ``variants``: under unseen attacks too."""
        futures = {}
        for name, parameters in points.items():
            trial, weights, strength = name
            answers = str(self._folder.answers_path(name))
            payload: dict[str, Any] = {"what": "test", "trial": trial, "answers": answers, "variants": variants}
            if trial is not None:
                payload |= {"folder": str(self._folder.trial_path(trial)), "parameters": dict(parameters)}
                payload |= {"weights": weights, "strength": strength}
            futures[name] = self._submit(payload)
        broken: dict[str, list[str]] = {}
        for name, future in futures.items():
            measured = self._result(future)
            broken |= measured["broken"]
            self._folder.append_test(name, measured)
        self._tell_broken(broken)

    def confirm(self, front: Front, trials: Sequence[TrialRecord], spec: Spec) -> None:
        """What was trained again of the front's members, on test; then what that says of them is on disk."""
        untouched, members = self._folder.untouched(), retrained(front, trials)
        if not members or untouched is None:
            return
        points: dict[PointName, dict[str, Any]] = {
            (one.number, weights, strength): one.parameters
            for (_, weights, strength), trainings in members.items()
            for one in trainings
            if one.state == "complete"
        }
        known = self._folder.tests()
        missing = {name: parameters for name, parameters in points.items() if name not in known}
        if missing:
            self._progress.line(f"measuring on test: {len(missing)} points of what was trained again")
            self.on_test(missing, variants=False)
        sets = pasted_sets(spec)
        hits = {name: read_hits(self._folder.answers_path(name), sets) for name in points}
        found = confirmations(front, trials, hits, goals=spec.goals, untouched=untouched["validation"])
        self._folder.write_confirmations(found)
        stay = sum(one.stays for one in found.values())
        self._progress.line(f"confirmed: {stay} of {len(found)} members that were trained again stay on the front")

    def _tell_broken(self, broken: Mapping[str, list[str]]) -> None:
        for split, images in broken.items():
            if split not in self._told_broken:
                named = "; ".join(images[:3]) + ("; ..." if len(images) > 3 else "")
                self._progress.line(f"{split}: {len(images)} images cannot be read and are left out: {named}")
                self._told_broken.add(split)

    def _submit(self, payload: dict[str, Any]) -> Future[Outcome]:
        self._submitted += 1
        return self._submit_task(Task(kind="measure", key=self._submitted, attempt=1, payload=payload))

    def _done(self, future: Future[Outcome], *, within_s: float) -> bool:
        if not wait([future], timeout=within_s).not_done:
            return True
        if self._interrupted():
            raise Interrupted
        self._tick()
        return False

    def _result(self, future: Future[Outcome]) -> dict[str, Any]:
        while not self._done(future, within_s=0.2):
            pass
        outcome = future.result()
        if outcome.kind == "interrupted":
            raise Interrupted
        if outcome.kind != "complete":
            raise RuntimeError(f"a measurement failed: {outcome.reason}\n{outcome.traceback or ''}".rstrip())
        return outcome.result

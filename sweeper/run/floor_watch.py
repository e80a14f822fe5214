"""Computes the noise floor after each end of a trial, on its own thread, and ends the search there if the spec says so.

Its decisions depend only on the ended trials and on files, and are on disk before the scheduler uses them: a resumed
sweep decides the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sweeper.records import TrialRecord
from sweeper.search.floor_files import SearchEnd, UnknownFloor
from sweeper.search.noise_floor import NoiseFloor
from sweeper.spec.spec import Spec

Floor = NoiseFloor | UnknownFloor


class FloorWatch:
    """The noise floor while a sweep runs. All methods are for one thread, that of the scheduler."""

    def __init__(
        self,
        spec: Spec,
        floor: Callable[[Sequence[TrialRecord]], Floor],
        trials: Callable[[], Sequence[TrialRecord]],
        *,
        end: SearchEnd | None,
        ended: Callable[[SearchEnd], None],
    ) -> None:
        """Start without a computation.

        Args:
            floor: returns the floor of given trials (``FloorReader.floor``); called on the watch's thread.
            trials: returns the trials of the study.
            end: record of an earlier session.
            ended: called once when the search ends here; writes the record.
        """
        self._spec, self._floor, self._trials, self._ended = spec, floor, trials, ended
        self._over = end is not None and end.holds(spec)
        self._look_at = spec.search.trials // 2 if end is None else end.look_again_at()
        """Number of ended trials before which the search does not end here: the rule alone ends too early
        (docs/cost.md).
        """
        self._latest: Floor | None = None
        self._computing: Future[Floor] | None = None
        self._outdated = False
        """Whether a trial has ended since the computation began."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise-floor")
        if any(trial.confirms is None and trial.state != "running" for trial in trials()):
            self._compute()

    def trial_ended(self, trial: TrialRecord) -> None:
        if trial.confirms is None:
            self._poll()
            if self._computing is None:
                self._compute()
            else:
                self._outdated = True

    def latest(self) -> Floor | None:
        """Return the last computed floor; None before the first one. Does not wait."""
        self._poll()
        return self._latest

    def search_is_over(self) -> bool | None:
        """Return whether the search ends at its floor; None while the floor is being computed."""
        if self._over or self._spec.search.until != "noise_floor":
            return self._over
        self._poll()
        if self._computing is not None:
            return None
        floor = self._latest
        if isinstance(floor, NoiseFloor) and floor.reached and floor.trials >= self._look_at:
            planned = self._spec.search.trials
            self._ended(
                SearchEnd(planned=planned, trials=floor.trials, gain=floor.gain, standard_error=floor.standard_error)
            )
            self._over = True
        return self._over

    def metrics(self) -> dict[str, float]:
        """Return the last computed floor, by its names in MLflow; empty if not known."""
        floor = self.latest()
        if not isinstance(floor, NoiseFloor):
            return {}
        return {"noise_floor/gain": floor.gain, "noise_floor/standard_error": floor.standard_error}

    def close(self) -> None:
        """End the thread without waiting for a present computation; no further one begins."""
        self._outdated = False
        if self._computing is not None and self._computing.cancel():
            self._computing = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compute(self) -> None:
        self._outdated = False
        self._computing = self._thread.submit(self._floor, list(self._trials()))

    def _poll(self) -> None:
        if self._computing is None or not self._computing.done():
            return
        self._latest, self._computing = self._computing.result(), None
        if self._outdated:
            self._compute()

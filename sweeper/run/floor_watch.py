"""Looks at the noise floor whenever a trial has ended, on a thread of its own, and ends the search there if asked to.

What it decides depends on the trials that have ended and on files only, and is on disk before the scheduler acts on it:
a resumed sweep decides the same.
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
    """All methods are for one thread, the one that the scheduler is asked on."""

    def __init__(
        self,
        spec: Spec,
        floor: Callable[[Sequence[TrialRecord]], Floor],
        trials: Callable[[], Sequence[TrialRecord]],
        *,
        end: SearchEnd | None,
        ended: Callable[[SearchEnd], None],
    ) -> None:
        """
        Args:
            floor: of given trials (``FloorReader.floor``); called on the watch's thread.
            trials: of the study.
            end: what an earlier session recorded.
            ended: told once when the search ends here; it writes the record.
        """
        self._spec, self._floor, self._trials, self._ended = spec, floor, trials, ended
        self._over = end is not None and end.holds(spec)
        self._look_at = spec.search.trials // 2 if end is None else end.look_again_at()
        """Ended trials before which the search does not end here: the rule alone ends too early (docs/cost.md)."""
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
        """Return the floor as last computed; None before the first one. Does not wait."""
        self._poll()
        return self._latest

    def search_is_over(self) -> bool | None:
        """Return whether the search ends at its floor; None while that is being computed."""
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
        """Return the floor as last computed, by its names in MLflow; empty where it is not known."""
        floor = self.latest()
        if not isinstance(floor, NoiseFloor):
            return {}
        return {"noise_floor/gain": floor.gain, "noise_floor/standard_error": floor.standard_error}

    def close(self) -> None:
        """End the thread; a computation under way is not waited for, and none begins any more."""
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

"""Limits of one session for its scheduler: Ctrl-C, budget and time, and the start of the confirm phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.front.confirm import plan
from sweeper.front.load import load_front
from sweeper.records import Retraining, TrialRecord
from sweeper.run.measurements import Measurements
from sweeper.run.progress import Progress
from sweeper.run.signals import StopSignal
from sweeper.run.usage import UsageMeter
from sweeper.run.usage_text import limit_text
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from sweeper.execution.slots import SlotPool


CHECKPOINT_SHARE = 0.5
"""Share of the grace time after a signal for checkpoints. The rest is for the front, MLflow and releasing the slots."""


class SessionControl:
    """Implements ``scheduler.SweepControl``."""

    def __init__(
        self,
        folder: SweepFolder,
        spec: Spec,
        *,
        stop: StopSignal,
        usage: UsageMeter,
        slots: SlotPool,
        progress: Progress,
        measurements: Measurements,
    ) -> None:
        self._folder, self._spec = folder, spec
        self._stop, self._usage, self._slots, self._progress = stop, usage, slots, progress
        self._measurements = measurements

    def tick(self) -> None:
        self._usage.hold(self._slots.held)
        self._usage.tick()
        self._progress.tick()

    def stop_requested(self) -> bool:
        # Like measuring on test, the second look goes on when the budget is used up.
        return self._stop.asked or (self._usage.used_up() and not self._measurements.looking)

    def stop_running(self) -> None:
        if not self._stop.asked:
            self._progress.line(f"{limit_text(self._usage.limit())} is used up: running trials write a checkpoint")
            self._slots.interrupt()
        else:
            self._slots.interrupt(grace_s=CHECKPOINT_SHARE * self._stop.left_s())

    def may_start(self, confirming: bool) -> bool:
        confirm = self._spec.confirm
        return self._usage.may_start(1.0 if confirming or confirm is None else 1.0 - confirm.share)

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining] | None:
        confirm, search = self._spec.confirm, self._spec.search
        if confirm is None:
            return ()
        if not self._measurements.look_again(trials, self._spec):
            return None
        front = load_front(self._folder, self._spec, trials)
        if front is None:
            return ()
        most = confirm.most_trainings(search.trials) if self._spec.limits.budget is None else None
        planned = plan(front, trials, confirm, seed=search.seed, most=most)
        self._progress.line(planned.note)
        if planned.missing:
            self._progress.wait_for("training members of the front again", len(planned.missing), "trainings")
        else:
            self._progress.searching()
        self._usage.confirming = len(planned.missing) + sum(trial.confirms is not None for trial in trials)
        return planned.missing

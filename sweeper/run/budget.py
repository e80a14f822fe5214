"""Use of devices by a sweep: so far, still allowed, and expected. Pure: callers pass the time.

A sweep is charged for its slots from the request until they are given back, warm-up and idle slots included: its user
pays for these too. Slots whose node has left are not charged until they have resources again. A trial costs the seconds
for which it held a slot.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeper.records import TrialRecord
from sweeper.spec.quantities import HOUR_S, Budget, Device, Price

POINT = 0.01 * 0.01
"""Hypervolume of a square of one percentage point in both accuracies."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One session of a sweep, from the request for slots until they are given back."""

    started_s: float
    """Seconds since 1970."""
    device: Device
    slots: int
    """Slots that are held now, or were at the end."""
    devices_per_slot: float
    """GPUs of a trial, or its CPUs if the sweep runs on CPUs; 0.25 if four trials share a GPU."""
    wall_s: float
    slot_s: float | None = None
    """Seconds for which slots were held, summed over them; None: all slots all the time (earlier versions)."""

    @property
    def devices(self) -> str:
        """Return the devices that are held, such as ``2 CPUs``."""
        number = self.slots * self.devices_per_slot
        return f"{number:g} {self.device.upper()}" + ("" if number == 1 else "s")

    @property
    def device_s(self) -> float:
        slot_s = self.slots * self.wall_s if self.slot_s is None else self.slot_s
        return slot_s * self.devices_per_slot


def used_device_s(sessions: Iterable[Session], device: Device) -> float:
    """Return the device seconds of one kind of device over several sessions."""
    return sum(session.device_s for session in sessions if session.device == device)


@dataclass(frozen=True, kw_only=True)
class TrialCosts:
    """Costs of the ended trials of a sweep, in slot seconds."""

    trials_s: float
    saved_s: float
    """Time saved by early stopping (``time_saved_s``)."""
    mean_s: float | None
    """Mean cost of a trial, stopped and failed trials included; None if no trial has ended yet."""


def trial_costs(trials: Iterable[TrialRecord]) -> TrialCosts:
    """Return the sum over the trials whose cost is known."""
    known = [(trial.cost_s, trial) for trial in trials if trial.cost_s is not None]
    total_s = sum(cost_s for cost_s, _ in known)
    return TrialCosts(
        trials_s=total_s,
        saved_s=sum(time_saved_s(trial) for _, trial in known),
        mean_s=total_s / len(known) if known else None,
    )


def time_saved_s(trial: TrialRecord) -> float:
    """Return the slot seconds saved by stopping this trial: its cost times the remaining share over the completed
    share.
    """
    if trial.cost_s is None or not trial.stopped_at:
        return 0.0
    return trial.cost_s * (1 / min(1.0, trial.stopped_at) - 1)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Expected end and cost of a sweep, from the costs of its trials so far."""

    left_s: float
    """Wall-clock seconds until the last trial ends or the budget or the time is used up."""
    device_s: float
    """Device seconds at that time, over the whole life of the sweep."""
    all_trials: bool
    """Whether every planned trial can be done."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Use of devices by a sweep so far, as stored on disk."""

    sessions: tuple[Session, ...] = ()
    forecast: Forecast | None = None
    """The last forecast of a session that had trials to run."""
    updated_at_s: float = 0.0
    """Seconds since 1970."""
    price: Price | None = None
    """Price of a device hour, if the user has given one."""
    not_begun: int = 0
    """Number of trials of the search that its noise floor has saved."""

    @property
    def device(self) -> Device:
        """Return the kind of device that the sweep is charged in: that of its last session."""
        return self.sessions[-1].device if self.sessions else "cpu"

    @property
    def device_s(self) -> float:
        return used_device_s(self.sessions, self.device)

    def device_hours(self, trials: Iterable[TrialRecord]) -> dict[str, float]:
        """Return device hours by name, for scripts and MLflow; empty before the first session.

        Trials are charged at the last session's devices per slot.
        """
        if not self.sessions:
            return {}
        trials = list(trials)
        costs, slot_hour = trial_costs(trials), self.sessions[-1].devices_per_slot / HOUR_S
        device_hours = {
            "device_h": self.device_s / HOUR_S,
            "trials_device_h": costs.trials_s * slot_hour,
            "saved_device_h": costs.saved_s * slot_hour,
        }
        of_search = trial_costs(trial for trial in trials if trial.confirms is None)
        if self.not_begun and of_search.mean_s is not None:
            device_hours["saved_by_noise_floor_device_h"] = self.not_begun * of_search.mean_s * slot_hour
        return device_hours

    def device_hours_per_point(self, hypervolume: float | None) -> float | None:
        """Return the device hours so far per ``POINT`` of hypervolume; None if there is no hypervolume."""
        if not self.sessions or hypervolume is None or hypervolume <= 0:
            return None
        return self.device_s / HOUR_S / (hypervolume / POINT)


@dataclass(frozen=True, kw_only=True)
class UnfinishedWork:
    """Trials of the search that budget or time did not allow."""

    missing: int
    planned: int
    limit: Budget | float | None
    """The limit that ended the search: the budget, the seconds of this session, or None."""
    enough: Budget | None
    """A budget that should be enough for the missing trials; None if the budget is not the limit."""


@dataclass(frozen=True, kw_only=True)
class EndedTrial:
    """Cost and length of an ended trial, from which the cost of others is estimated."""

    cost_s: float
    """Slot seconds of the trial."""
    epochs: int
    """Epochs of the whole trial, whether or not it was stopped."""


class BudgetLedger:
    """Use of devices by one session in addition to earlier ones, and whether another trial may begin.

    Idle slots are charged like busy ones, so a running trial costs nothing more while another trial runs beside it: one
    more trial is allowed if the remaining budget covers the mean trial's time on all slots.

    Trials of few epochs end first and would make the mean too low. Therefore costs are compared per epoch, and the mean
    trial has the mean number of epochs of all trials that have begun.
    """

    def __init__(
        self,
        *,
        slots: int,
        devices_per_slot: float,
        now_s: float,
        before_device_s: float = 0.0,
        budget: Budget | None = None,
        time_s: float | None = None,
        ended: Sequence[EndedTrial] = (),
    ) -> None:
        """Begin the session at ``now_s``.

        Args:
            before_device_s: device seconds used by earlier sessions.
            time_s: seconds that this session may take.
            ended: the trials that ended in earlier sessions.
        """
        self._held, self._devices_per_slot = slots, devices_per_slot
        self._slot_s, self._counted_s = 0.0, now_s
        self._started_s, self._before_device_s = now_s, before_device_s
        self._budget, self._time_s = budget, time_s
        self._ended_s, self._ended_epochs = sum(trial.cost_s for trial in ended), sum(trial.epochs for trial in ended)
        self._ended = len(ended)
        self._running: dict[int, _RunningTrial] = {}

    def used_device_s(self, now_s: float) -> float:
        """Return the device seconds used over the whole life of the sweep."""
        return self._before_device_s + self._devices_per_slot * self.slot_s(now_s)

    @property
    def held(self) -> int:
        """Number of slots that are held now."""
        return self._held

    def hold(self, slots: int, now_s: float) -> None:
        """Note how many slots are held from now on: those of a node that has left are not."""
        self._slot_s, self._counted_s = self.slot_s(now_s), now_s
        self._held = slots

    def slot_s(self, now_s: float) -> float:
        """Return the seconds for which slots were held in this session, summed over them."""
        return self._slot_s + self._held * (now_s - self._counted_s)

    def left_s(self, now_s: float, share: float = 1.0) -> float:
        """Return for how many wall-clock seconds the slots may still be held; may be infinite.

        Args:
            share: share of the budget that counts.
        """
        left_s = self._left_of_budget_s(now_s, share)
        if self._time_s is not None:
            left_s = min(left_s, self._time_s - (now_s - self._started_s))
        return max(0.0, left_s)

    def budget_is_first(self, now_s: float) -> bool:
        """Return whether the budget ends before the time does."""
        without_time = self._left_of_budget_s(now_s, 1.0)
        return without_time < float("inf") and without_time <= self.left_s(now_s)

    def used_up(self, now_s: float) -> bool:
        """Return whether running trials must be interrupted."""
        return self.left_s(now_s) <= 0

    def may_start(self, now_s: float, share: float = 1.0) -> bool:
        """Return whether one more trial is expected to end within the limits; before the first end, whether any is
        left.

        Args:
            share: share of the budget that counts.
        """
        left_s = self.left_s(now_s, share)
        return left_s > 0 and left_s >= (self.mean_s or 0.0)

    @property
    def mean_s(self) -> float | None:
        """Return the expected cost of a further trial in slot seconds; None before the first end of a trial."""
        return self._ended_s / self._ended_epochs * self._mean_epochs() if self._ended else None

    def trial_started(self, number: int, now_s: float, epochs: int) -> None:
        """Note that a trial has begun.

        Args:
            epochs: of the whole trial.
        """
        self._running[number] = _RunningTrial(now_s, epochs)

    def trial_reported(self, number: int, progress: float, spent_s: float, now_s: float) -> None:
        """Note a report of a trial.

        Args:
            progress: share of its steps that are done.
            spent_s: seconds of training and evaluation so far, over all attempts.
        """
        if number in self._running and progress > 0:
            self._running[number].expect(spent_s / progress, spent_s, now_s)

    def trial_ended(self, number: int, cost_s: float | None, epochs: int) -> None:
        """Note that a trial has ended.

        Args:
            cost_s: None if the trial did not end but was interrupted.
        """
        self._running.pop(number, None)
        if cost_s is not None:
            self._ended_s, self._ended_epochs = self._ended_s + cost_s, self._ended_epochs + epochs
            self._ended += 1

    def forecast(
        self, now_s: float, waiting: int, *, waiting_s: Sequence[float] | None = None, after_s: float = 0.0
    ) -> Forecast | None:
        """Return the forecast of the sweep; None while the cost of a trial is unknown.

        Args:
            waiting: number of trials that have not begun.
            waiting_s: expected costs of these trials, if better known than from the mean of all others.
            after_s: seconds on all slots after the end of the last trial.
        """
        known = [(self._ended_s, self._ended_epochs)] if self._ended else []
        if not known:
            known = [(trial.whole_s, trial.epochs) for trial in self._running.values() if trial.whole_s is not None]
        if not known:
            return None
        epoch_s = sum(cost_s for cost_s, _ in known) / sum(epochs for _, epochs in known)
        mean_s = epoch_s * self._mean_epochs()
        rests_s = sorted((running.rest_s(now_s, epoch_s) for running in self._running.values()), reverse=True)
        free_s = [*rests_s, *[0.0] * (max(1, self._held) - len(rests_s))]
        heapq.heapify(free_s)
        for cost_s in [mean_s] * waiting if waiting_s is None else waiting_s:
            heapq.heapreplace(free_s, free_s[0] + cost_s)
        wanted_s, allowed_s = max(free_s, default=0.0) + after_s, self.left_s(now_s)
        left_s = min(wanted_s, allowed_s)
        return Forecast(
            left_s=left_s,
            device_s=self.used_device_s(now_s) + self._devices_per_slot * self._held * left_s,
            all_trials=wanted_s <= allowed_s,
        )

    def _mean_epochs(self) -> float:
        """Return the mean number of epochs of the trials that have begun, ended or not."""
        epochs = self._ended_epochs + sum(running.epochs for running in self._running.values())
        return epochs / (self._ended + len(self._running))

    def _left_of_budget_s(self, now_s: float, share: float) -> float:
        if self._budget is None:
            return float("inf")
        left_device_s = share * self._budget.hours * HOUR_S - self.used_device_s(now_s)
        return max(0.0, left_device_s / (self._devices_per_slot * max(1, self._held)))


class _RunningTrial:
    def __init__(self, now_s: float, epochs: int) -> None:
        self._started_s, self.epochs = now_s, epochs
        self.whole_s: float | None = None
        """Cost of the whole trial at its pace, in slot seconds; None before its first report."""
        self._ends_s = now_s

    def expect(self, whole_s: float, spent_s: float, now_s: float) -> None:
        self.whole_s, self._ends_s = whole_s, now_s + whole_s - spent_s

    def rest_s(self, now_s: float, epoch_s: float) -> float:
        """Return the seconds until the trial ends, from its own pace or, before its first report, from that of others.

        Args:
            epoch_s: seconds per epoch of the other trials.
        """
        ends_s = self._started_s + epoch_s * self.epochs if self.whole_s is None else self._ends_s
        return max(0.0, ends_s - now_s)

"""What a sweep uses of its devices, what it may still use, and what it will use. Pure: the time is handed in.

A sweep is charged for its slots from the moment it asks for them until it gives them back, warm-up and idle slots
included: that is what its user pays. A trial costs the seconds for which it held a slot.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeper.records import TrialRecord
from sweeper.spec.quantities import HOUR_S, Budget, Device, Price

POINT = 0.01 * 0.01
"""Of hypervolume: a square of one percentage point in both accuracies."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One session of a sweep, from asking for slots to giving them back."""

    started_s: float
    """Seconds since 1970."""
    device: Device
    slots: int
    devices_per_slot: float
    """GPUs of a trial, or its CPUs where the sweep runs on those; 0.25 where four trials share a GPU."""
    wall_s: float

    @property
    def devices(self) -> str:
        """``2 CPUs``: the devices that are held."""
        number = self.slots * self.devices_per_slot
        return f"{number:g} {self.device.upper()}" + ("" if number == 1 else "s")

    @property
    def device_s(self) -> float:
        return self.slots * self.devices_per_slot * self.wall_s


def used_device_s(sessions: Iterable[Session], device: Device) -> float:
    """Return the device seconds of one kind of device over several sessions."""
    return sum(session.device_s for session in sessions if session.device == device)


@dataclass(frozen=True, kw_only=True)
class TrialCosts:
    """What the ended trials of a sweep cost, in slot seconds."""

    trials_s: float
    saved_s: float
    """Time saved by early stopping (``time_saved_s``)."""
    mean_s: float | None
    """Of a trial, stopped and failed trials among them; None where no trial has ended yet."""


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
    """Return the slot seconds saved by stopping this trial: its cost, times the share left over the share done."""
    if trial.cost_s is None or not trial.stopped_at:
        return 0.0
    return trial.cost_s * (1 / min(1.0, trial.stopped_at) - 1)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How a sweep goes on, by what its trials have cost so far."""

    left_s: float
    """Wall-clock seconds until the last trial ends or the budget or the time is used up."""
    device_s: float
    """Device seconds used then, over the whole life of the sweep."""
    all_trials: bool
    """Whether every planned trial can be done."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a sweep has used so far, as kept on disk."""

    sessions: tuple[Session, ...] = ()
    forecast: Forecast | None = None
    """As last made by a session that had trials to run."""
    updated_at_s: float = 0.0
    """Seconds since 1970."""
    price: Price | None = None
    """Of a device hour, where the user has said it."""
    not_begun: int = 0
    """Trials of the search that its noise floor has saved."""

    @property
    def device(self) -> Device:
        """The kind of device that the sweep is charged in: that of its last session."""
        return self.sessions[-1].device if self.sessions else "cpu"

    @property
    def device_s(self) -> float:
        return used_device_s(self.sessions, self.device)

    def device_hours(self, trials: Iterable[TrialRecord]) -> dict[str, float]:
        """Return device hours by name, for scripts and MLflow. Trials are charged at the last session's devices per
        slot. Empty before the first session."""
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
        """Return the device hours so far per ``POINT`` of hypervolume; None where there is no hypervolume."""
        if not self.sessions or hypervolume is None or hypervolume <= 0:
            return None
        return self.device_s / HOUR_S / (hypervolume / POINT)


@dataclass(frozen=True, kw_only=True)
class UnfinishedWork:
    """Trials of the search that budget or time did not allow."""

    missing: int
    planned: int
    limit: Budget | float | None
    """What does not hold more trials: the budget, the seconds of this session, or neither."""
    enough: Budget | None
    """A budget that should hold them; None where the budget is not the limit."""


@dataclass(frozen=True, kw_only=True)
class EndedTrial:
    """What an ended trial says about the cost of others."""

    cost_s: float
    """Slot seconds."""
    epochs: int
    """Of the whole trial, whether or not it was stopped."""


class BudgetLedger:
    """What one session uses on top of earlier ones, and whether another trial may begin.

    Idle slots are charged like busy ones, so whatever still runs costs nothing further while another trial runs beside
    it: what is left holds one more trial if it holds the mean trial's time on all slots.

    Trials of few epochs end first. So that these do not pass for the mean trial, costs are compared per epoch, and the
    mean trial has the mean number of epochs of all trials that have begun.
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
        """The session begins at ``now_s``.

        Args:
            before_device_s: used by earlier sessions.
            time_s: how long this session may take.
            ended: the trials that ended in earlier sessions.
        """
        self._slots, self._devices = slots, slots * devices_per_slot
        self._started_s, self._before_device_s = now_s, before_device_s
        self._budget, self._time_s = budget, time_s
        self._ended_s, self._ended_epochs = sum(trial.cost_s for trial in ended), sum(trial.epochs for trial in ended)
        self._ended = len(ended)
        self._running: dict[int, _RunningTrial] = {}

    def used_device_s(self, now_s: float) -> float:
        """Return the device seconds used over the whole life of the sweep."""
        return self._before_device_s + self._devices * (now_s - self._started_s)

    def left_s(self, now_s: float, share: float = 1.0) -> float:
        """Return for how many wall-clock seconds the slots may still be held; may be infinite.

        ``share``: of the budget that counts.
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
        """Return whether running trials have to be interrupted."""
        return self.left_s(now_s) <= 0

    def may_start(self, now_s: float, share: float = 1.0) -> bool:
        """Return whether one more trial is expected to end within what is left; before any has ended: whether any is
        left."""
        left_s = self.left_s(now_s, share)
        return left_s > 0 and left_s >= (self.mean_s or 0.0)

    @property
    def mean_s(self) -> float | None:
        """Expected cost of a further trial; None before any has ended."""
        return self._ended_s / self._ended_epochs * self._mean_epochs() if self._ended else None

    def trial_started(self, number: int, now_s: float, epochs: int) -> None:
        """``epochs``: of the whole trial."""
        self._running[number] = _RunningTrial(now_s, epochs)

    def trial_reported(self, number: int, progress: float, spent_s: float, now_s: float) -> None:
        """``spent_s``: on training and evaluation so far, over all attempts."""
        if number in self._running and progress > 0:
            self._running[number].expect(spent_s / progress, spent_s, now_s)

    def trial_ended(self, number: int, cost_s: float | None, epochs: int) -> None:
        """``cost_s`` None: the trial did not end, but was interrupted."""
        self._running.pop(number, None)
        if cost_s is not None:
            self._ended_s, self._ended_epochs = self._ended_s + cost_s, self._ended_epochs + epochs
            self._ended += 1

    def forecast(
        self, now_s: float, waiting: int, *, waiting_s: Sequence[float] | None = None, after_s: float = 0.0
    ) -> Forecast | None:
        """Return how the sweep goes on; None before anything is known of what a trial costs.

        Args:
            waiting: trials that have not begun.
            waiting_s: what they will cost, where that is known better than by the mean of all others.
            after_s: seconds on all slots once the last trial has ended.
        """
        known = [(self._ended_s, self._ended_epochs)] if self._ended else []
        if not known:
            known = [(trial.whole_s, trial.epochs) for trial in self._running.values() if trial.whole_s is not None]
        if not known:
            return None
        epoch_s = sum(cost_s for cost_s, _ in known) / sum(epochs for _, epochs in known)
        mean_s = epoch_s * self._mean_epochs()
        rests_s = sorted((running.rest_s(now_s, epoch_s) for running in self._running.values()), reverse=True)
        free_s = [*rests_s, *[0.0] * (self._slots - len(rests_s))]
        heapq.heapify(free_s)
        for cost_s in [mean_s] * waiting if waiting_s is None else waiting_s:
            heapq.heapreplace(free_s, free_s[0] + cost_s)
        wanted_s, allowed_s = max(free_s, default=0.0) + after_s, self.left_s(now_s)
        left_s = min(wanted_s, allowed_s)
        return Forecast(
            left_s=left_s,
            device_s=self.used_device_s(now_s) + self._devices * left_s,
            all_trials=wanted_s <= allowed_s,
        )

    def _mean_epochs(self) -> float:
        """Return the mean number of epochs of the trials that have begun, ended or not."""
        epochs = self._ended_epochs + sum(running.epochs for running in self._running.values())
        return epochs / (self._ended + len(self._running))

    def _left_of_budget_s(self, now_s: float, share: float) -> float:
        if self._budget is None:
            return float("inf")
        return max(0.0, (share * self._budget.hours * HOUR_S - self.used_device_s(now_s)) / self._devices)


class _RunningTrial:
    def __init__(self, now_s: float, epochs: int) -> None:
        self._started_s, self.epochs = now_s, epochs
        self.whole_s: float | None = None
        """Cost of the whole trial at its pace; None before its first report."""
        self._ends_s = now_s

    def expect(self, whole_s: float, spent_s: float, now_s: float) -> None:
        self.whole_s, self._ends_s = whole_s, now_s + whole_s - spent_s

    def rest_s(self, now_s: float, epoch_s: float) -> float:
        """Return the seconds until the trial ends: by its own pace once it has reported, else by ``epoch_s``, what the
        other trials cost per epoch."""
        ends_s = self._started_s + epoch_s * self.epochs if self.whole_s is None else self._ends_s
        return max(0.0, ends_s - now_s)

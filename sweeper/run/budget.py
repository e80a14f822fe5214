"""What a sweep takes of its devices, what it may still take, and what it will. Pure: the time is handed in.

A sweep is charged for its slots from the moment it asks for them until it gives them back, warm-up and idle slots
included: that is what its user pays. A trial costs the seconds for which it held a slot.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeper.records import TrialRecord
from sweeper.spec.quantities import HOUR_S, Budget, Device, duration, hours


@dataclass(frozen=True, kw_only=True)
class Session:
    """One go at a sweep, from asking for slots to giving them back."""

    started_s: float
    """Seconds since 1970."""
    device: Device
    slots: int
    devices_per_slot: float
    """GPUs of a trial, or its CPUs where the sweep runs on those; 0.25 where four trials share a GPU."""
    wall_s: float

    @property
    def devices(self) -> str:
        """``2 CPUs``: what is burnt per hour."""
        number = self.slots * self.devices_per_slot
        return f"{number:g} {self.device.upper()}" + ("" if number == 1 else "s")

    @property
    def device_s(self) -> float:
        return self.slots * self.devices_per_slot * self.wall_s


def used_device_s(goes: Iterable[Session], device: Device) -> float:
    """Of one kind of device, over several goes."""
    return sum(go.device_s for go in goes if go.device == device)


@dataclass(frozen=True, kw_only=True)
class TrialCosts:
    """What the ended trials of a sweep cost, in seconds of a slot."""

    trials_s: float
    saved_s: float
    """What stopped trials would have cost beyond that, had they gone on at their pace."""
    mean_s: float | None
    """Of a trial, stopped and failed ones among them; None where no trial has ended yet."""


def costs(trials: Iterable[TrialRecord]) -> TrialCosts:
    known = [(trial.cost_s, trial) for trial in trials if trial.cost_s is not None]
    total_s = sum(cost_s for cost_s, _ in known)
    return TrialCosts(
        trials_s=total_s,
        saved_s=sum(saved_s(trial) for _, trial in known),
        mean_s=total_s / len(known) if known else None,
    )


def saved_s(trial: TrialRecord) -> float:
    """Slot seconds that stopping this trial has saved: its cost so far times what was left over what was done."""
    if trial.cost_s is None or not trial.stopped_at:
        return 0.0
    return trial.cost_s * (1 / min(1.0, trial.stopped_at) - 1)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How a sweep goes on, by what its trials have cost so far."""

    left_s: float
    """Wall-clock time until its last trial ends or what it may take is used up."""
    device_s: float
    """What it will have taken then, over its whole life."""
    all_trials: bool
    """Whether every planned trial can be done."""


class BudgetLedger:
    """What one go at a sweep takes, on top of what earlier goes have, and whether another trial may begin.

    Idle slots are charged like busy ones, so whatever still runs costs nothing further while another trial runs beside
    it: what is left holds one more trial if it holds the mean trial's time on all slots.
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
        ended_s: Sequence[float] = (),
    ) -> None:
        """``before_device_s``: taken by earlier goes; ``time_s``: how long this go may take; ``ended_s``: costs of the
        trials that ended in earlier goes. The go begins at ``now_s``."""
        self._slots, self._rate = slots, slots * devices_per_slot
        self._started_s, self._before_device_s = now_s, before_device_s
        self._budget, self._time_s = budget, time_s
        self._costs_sum_s, self._costs = float(sum(ended_s)), len(ended_s)
        self._running: dict[int, _Running] = {}

    def used_device_s(self, now_s: float) -> float:
        """Over the whole life of the sweep."""
        return self._before_device_s + self._rate * (now_s - self._started_s)

    def left_s(self, now_s: float, share: float = 1.0) -> float:
        """Wall-clock seconds for which the slots may still be held; ``share`` of the budget counts. May be infinite."""
        left_s = self._left_of_budget_s(now_s, share)
        if self._time_s is not None:
            left_s = min(left_s, self._time_s - (now_s - self._started_s))
        return max(0.0, left_s)

    def budget_is_first(self, now_s: float) -> bool:
        """Whether the budget ends before the time does."""
        without_time = self._left_of_budget_s(now_s, 1.0)
        return without_time < float("inf") and without_time <= self.left_s(now_s)

    def used_up(self, now_s: float) -> bool:
        """Whether running trials have to be interrupted."""
        return self.left_s(now_s) <= 0

    def may_start(self, now_s: float, share: float = 1.0) -> bool:
        """Whether one more trial is expected to end within what is left. Before any has ended: whether any is left."""
        left_s = self.left_s(now_s, share)
        return left_s > 0 and left_s >= (self.mean_s or 0.0)

    @property
    def mean_s(self) -> float | None:
        """Mean cost of the trials that have ended."""
        return self._costs_sum_s / self._costs if self._costs else None

    def trial_started(self, number: int, now_s: float) -> None:
        self._running[number] = _Running(now_s)

    def trial_reported(self, number: int, progress: float, spent_s: float, now_s: float) -> None:
        """``spent_s``: on training and evaluation so far, over all attempts."""
        if number in self._running and progress > 0:
            self._running[number].expect(spent_s / progress, spent_s, now_s)

    def trial_ended(self, number: int, cost_s: float | None) -> None:
        """``cost_s`` None: it did not end, but was interrupted."""
        self._running.pop(number, None)
        if cost_s is not None:
            self._costs_sum_s, self._costs = self._costs_sum_s + cost_s, self._costs + 1

    def _left_of_budget_s(self, now_s: float, share: float) -> float:
        if self._budget is None:
            return float("inf")
        return max(0.0, (share * self._budget.hours * HOUR_S - self.used_device_s(now_s)) / self._rate)

    def forecast(self, now_s: float, waiting: int) -> Forecast | None:
        """``waiting``: trials that have not begun; None before anything is known of what a trial costs."""
        mean_s = self.mean_s
        if mean_s is None:
            whole = [running.whole_s for running in self._running.values() if running.whole_s is not None]
            mean_s = sum(whole) / len(whole) if whole else None
        if mean_s is None:
            return None
        rests_s = sorted((running.rest_s(now_s, mean_s) for running in self._running.values()), reverse=True)
        free_s = [*rests_s, *[0.0] * (self._slots - len(rests_s))]
        heapq.heapify(free_s)
        for _ in range(waiting):
            heapq.heapreplace(free_s, free_s[0] + mean_s)
        wanted_s, allowed_s = max(free_s, default=0.0), self.left_s(now_s)
        left_s = min(wanted_s, allowed_s)
        return Forecast(
            left_s=left_s,
            device_s=self.used_device_s(now_s) + self._rate * left_s,
            all_trials=wanted_s <= allowed_s,
        )


class _Running:
    def __init__(self, now_s: float) -> None:
        self._started_s = now_s
        self.whole_s: float | None = None
        """What the whole trial will cost at its pace."""
        self._ends_s = now_s

    def expect(self, whole_s: float, spent_s: float, now_s: float) -> None:
        self.whole_s, self._ends_s = whole_s, now_s + whole_s - spent_s

    def rest_s(self, now_s: float, mean_s: float) -> float:
        """By its own pace once it has reported, else as long as trials take."""
        ends_s = self._started_s + mean_s if self.whole_s is None else self._ends_s
        return max(0.0, ends_s - now_s)


@dataclass(frozen=True, kw_only=True)
class UnfinishedWork:
    """What budget or time did not allow."""

    reason: str
    options: str
    """Of the command that goes on."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a sweep has taken so far, as kept on disk."""

    goes: tuple[Session, ...] = ()
    forecast: Forecast | None = None
    """As last made by a go that had trials to run."""
    told_s: float = 0.0
    """When this was written, in seconds since 1970."""

    @property
    def device(self) -> Device:
        """What it is charged in: that of its last go."""
        return self.goes[-1].device if self.goes else "cpu"

    @property
    def device_s(self) -> float:
        return used_device_s(self.goes, self.device)

    def numbers(self, trials: Iterable[TrialRecord]) -> dict[str, float]:
        """Device hours for scripts and MLflow; trials are charged at the last go's devices per slot."""
        if not self.goes:
            return {}
        found, hours = costs(trials), self.goes[-1].devices_per_slot / HOUR_S
        return {
            "device_h": self.device_s / HOUR_S,
            "trials_device_h": found.trials_s * hours,
            "saved_device_h": found.saved_s * hours,
        }

    def line(self, trials: Iterable[TrialRecord], budget: Budget | None) -> str:
        """``0.42 of 12 cpu-h, 0.03 saved by stopping``."""
        unit = f"{self.device}-h"
        numbers = self.numbers(trials) or {"device_h": 0.0, "saved_device_h": 0.0}
        text = f"{hours(numbers['device_h'])} {unit}"
        if budget is not None and budget.device == self.device:
            text = f"{hours(numbers['device_h'])} of {budget.hours:g} {unit}"
        saved_h = numbers["saved_device_h"]
        return f"{text}, {hours(saved_h)} more saved by stopping" if saved_h > 0 else text

    def forecast_line(self) -> str | None:
        """``0.8 cpu-h in 25 min``; None where nothing can be said."""
        if self.forecast is None:
            return None
        unit = f"{self.device}-h"
        text = f"{hours(self.forecast.device_s / HOUR_S)} {unit} in {duration(self.forecast.left_s)}"
        return text if self.forecast.all_trials else f"{text}, before all trials are done"

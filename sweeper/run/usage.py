"""The meter of one go at a sweep: charges the devices it holds, keeps the bill on disk, says how it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from sweeper.errors import UserError
from sweeper.records import Report, TrialRecord
from sweeper.run.budget import BudgetLedger, Forecast, Session, UnfinishedWork, Usage, saved_s, used_device_s
from sweeper.spec.quantities import Budget, duration, hours, rounded_up
from sweeper.storage.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from sweeper.execution.capacity import SlotPlan
    from sweeper.spec.spec import Spec

SAVE_S = 10.0
"""A kill loses at most so much of the bill."""
FILE = "usage.json"


class UsageMeter:
    """Runs from when slots are asked for until ``close``; hears of trials what a ``trials.TrialListener`` does."""

    def __init__(
        self,
        folder: SweepFolder,
        go: Session,
        trials: Sequence[TrialRecord],
        *,
        planned: int,
        confirming: int = 0,
        budget: Budget | None = None,
        time_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``trials``: those there are; ``planned``: of the whole search; ``confirming``: those that the confirm phase
        makes after it; ``time_s``: how long this go may take.

        Raises UserError for a budget in devices that the sweep does not run on.
        """
        check_device(budget, go)
        self.planned, self.confirming = planned, confirming
        self._folder, self._go, self._budget, self._clock = folder, go, budget, clock
        self._time_s = time_s
        self._start_s = self._saved_s = clock()
        self._closed_s: float | None = None
        self._earlier = read_usage(folder).goes
        self._ended = {trial.number: trial for trial in trials if trial.state != "running"}
        self._running: dict[int, TrialRecord] = {}
        self._open = sum(trial.state == "running" for trial in trials)
        self._account = BudgetLedger(
            slots=go.slots,
            devices_per_slot=go.devices_per_slot,
            now_s=self._start_s,
            before_device_s=used_device_s(self._earlier, go.device),
            budget=budget,
            time_s=time_s,
            ended_s=[trial.cost_s for trial in self._ended.values() if trial.cost_s is not None],
        )

    def check(self) -> None:
        """Raises UserError where this go could neither begin a trial nor go on with one."""
        unfinished_work = self.unfinished_work()
        if unfinished_work is not None and not self.may_start() and (self.used_up() or not self._open):
            taken = self.bill().line([], self._budget)
            raise UserError(
                f"sweep {self._folder.name} has taken {taken}, and {unfinished_work.reason}; go on with: "
                f"sweeper resume {self._folder.name}{unfinished_work.options}"
            )

    def started(self, trial: TrialRecord) -> None:
        self._running[trial.number] = trial
        self._account.trial_started(trial.number, self._now_s())

    def reported(self, trial: TrialRecord, report: Report) -> None:
        spent_s = report["train_s"] + report["evaluation_s"]
        self._account.trial_reported(trial.number, report["progress"], spent_s, self._now_s())

    def ended(self, trial: TrialRecord) -> None:
        self._running.pop(trial.number, None)
        self._ended[trial.number] = trial
        self._account.trial_ended(trial.number, trial.cost_s)

    def may_start(self, share: float = 1.0) -> bool:
        """Whether another trial may begin within ``share`` of the budget, and within the time."""
        return self._account.may_start(self._now_s(), share)

    def used_up(self) -> bool:
        """Whether running trials must be interrupted: the budget or the time of this go is over."""
        return self._account.used_up(self._now_s())

    def tick(self) -> None:
        """Writes the bill when it is time; call it often."""
        if self._now_s() - self._saved_s >= SAVE_S:
            self.save()

    def save(self) -> None:
        """The bill is on disk when this returns."""
        self._saved_s = self._now_s()
        write_usage(self._folder, self.bill())

    def close(self) -> None:
        """The slots were given back: nothing is charged any more, and the bill is on disk. May be called twice."""
        self._closed_s = self._now_s()
        self.save()

    def bill(self) -> Usage:
        go = replace(self._go, wall_s=self._now_s() - self._start_s)
        return Usage(goes=(*self._earlier, go), forecast=self._forecast(), told_s=time.time())

    def taken_s(self) -> float:
        """Device seconds so far, over all goes."""
        return self._account.used_device_s(self._now_s())

    def tell_measuring(self, before_s: float, say: Callable[[str], None]) -> None:
        """Says what the measurements on test took since ``before_s``, where a limit might seem to have covered it."""
        if self._budget is not None or self._time_s is not None:
            took_h = (self.taken_s() - before_s) / 3600
            say(
                f"measuring on test took {hours(took_h)} {self._go.device}-h (budget and time end the search, not this)"
            )

    def line(self) -> str:
        """``0.42 of 12 cpu-h at 2 CPUs; forecast 0.8 cpu-h in 25 min``."""
        bill = self.bill()
        text = f"{bill.line(self._ended.values(), self._budget)}, at {self._go.devices}"
        forecast = bill.forecast_line()
        return text if forecast is None else f"{text}; forecast {forecast}"

    def left_s(self) -> float | None:
        """Until the last trial ends or nothing is left; None where that cannot be said yet."""
        forecast = self._forecast()
        return None if forecast is None else forecast.left_s

    @property
    def limit(self) -> str:
        """What ends this go before its last trial, if anything does."""
        if self._account.budget_is_first(self._now_s()):
            return f"the budget of {self._budget}"
        return "the time" if self._time_s is None else f"the time of {duration(self._time_s)}"

    def unfinished_work(self) -> UnfinishedWork | None:
        """None where every trial of the search has ended."""
        missing = self.planned - self._searched(self._ended.values())
        if missing <= 0:
            return None
        reason = f"{missing} of {self.planned} trials are not done, because {self.limit} does not hold more"
        if not self._account.budget_is_first(self._now_s()):
            return UnfinishedWork(reason=reason, options="")
        assert self._budget is not None
        wanted_s = self.bill().device_s + missing * (self._account.mean_s or 0.0) * self._go.devices_per_slot
        wanted_h = max(1.1 * wanted_s / 3600, 1.25 * self._budget.hours)
        return UnfinishedWork(reason=reason, options=f" --budget {Budget(rounded_up(wanted_h), self._budget.device)}")

    def costs(self, trial: TrialRecord) -> dict[str, float]:
        """Of one trial, for MLflow, in device hours."""
        if trial.cost_s is None:
            return {}
        each_h = self._go.devices_per_slot / 3600
        found = {"cost/device_h": trial.cost_s * each_h}
        if trial.state == "stopped":
            found["cost/saved_device_h"] = saved_s(trial) * each_h
        return found

    def totals(self) -> dict[str, float]:
        """Of the sweep so far, for MLflow, in device hours."""
        return {f"cost/{name}": value for name, value in self.bill().numbers(self._ended.values()).items()}

    def _now_s(self) -> float:
        return self._clock() if self._closed_s is None else self._closed_s

    def _forecast(self) -> Forecast | None:
        begun = [*self._ended.values(), *self._running.values()]
        searched = self._searched(begun)
        waiting = max(0, self.planned - searched) + max(0, self.confirming - (len(begun) - searched))
        return self._account.forecast(self._now_s(), waiting)

    def _searched(self, trials: Iterable[TrialRecord]) -> int:
        """Those that ``planned`` counts: not what a confirm phase trains again."""
        return sum(trial.confirms is None for trial in trials)


def new_session(plan: SlotPlan) -> Session:
    """A go that begins now on all slots of a plan."""
    on_gpus = plan.gpus_per_worker > 0
    return Session(
        started_s=time.time(),
        device="gpu" if on_gpus else "cpu",
        slots=plan.slots,
        devices_per_slot=plan.workers_per_trial * (plan.gpus_per_worker if on_gpus else plan.cpus_per_worker),
        wall_s=0.0,
    )


def trainings_to_confirm(spec: Spec) -> int:
    """What the confirm phase makes at most."""
    confirm = spec.confirm
    if confirm is None:
        return 0
    if spec.limits.budget is not None:
        return confirm.members * confirm.seeds
    return min(confirm.members, confirm.most_trainings(spec.search.trials) // confirm.seeds) * confirm.seeds


def check_device(budget: Budget | None, go: Session) -> None:
    """Raises UserError for a budget in GPU hours on CPUs, or the other way round."""
    if budget is None or budget.device == go.device:
        return
    runs_on, cure = ("CPUs", "or give it GPUs") if go.device == "cpu" else ("GPUs", "or leave it to CPUs with --gpus 0")
    raise UserError(
        f"a budget of {budget}: this sweep runs on {runs_on} ({go.devices}); write the budget as "
        f"{budget.hours:g}{go.device}-h, {cure}"
    )


def read_usage(folder: SweepFolder) -> Usage:
    """An empty one where nothing was taken yet."""
    if not (folder.path / FILE).exists():
        return Usage()
    kept = folder.read_json(FILE)
    forecast = None if kept["forecast"] is None else Forecast(**kept["forecast"])
    return Usage(goes=tuple(Session(**go) for go in kept["goes"]), forecast=forecast, told_s=kept["told_s"])


def write_usage(folder: SweepFolder, bill: Usage) -> None:
    folder.write_json(FILE, asdict(bill))

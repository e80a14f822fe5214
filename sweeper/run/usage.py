"""The usage meter of one session: charges the devices that the session holds and keeps the usage on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from sweeper.errors import UserError
from sweeper.execution.capacity import SlotPlan
from sweeper.records import TrialRecord
from sweeper.run.budget import (
    BudgetLedger,
    EndedTrial,
    Forecast,
    Session,
    UnfinishedWork,
    Usage,
    time_saved_s,
    used_device_s,
)
from sweeper.run.expected_cost import CostModel, MeasuringPace, Sample, expected_looks
from sweeper.run.usage_file import read_usage, write_usage
from sweeper.run.usage_text import resume_options, unfinished_line, usage_line
from sweeper.spec.quantities import HOUR_S, Budget, Price, rounded_up
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Report

LOOKED_POINTS, POINTS_ON_TEST = 20, 10
"""Expected numbers of points of a second look while no trial is complete, and on test: front, untouched model,
baselines.
"""
EVALUATIONS_PER_POINT, EVALUATIONS_PER_RETRAINING = 6.0, 2.0
"""Number of evaluations on validation that take as long as one point on test, with and without its unseen attacks."""
SAVE_S = 10.0
"""A kill loses the usage of at most this number of seconds."""


class UsageMeter:
    """Meter from the request for slots until ``close``; receives events of trials as a ``scheduler.TrialListener``."""

    def __init__(
        self,
        folder: SweepFolder,
        session: Session,
        trials: Sequence[TrialRecord],
        *,
        planned: int,
        epochs: int,
        costs: CostModel,
        confirming: int = 0,
        budget: Budget | None = None,
        time_s: float | None = None,
        not_begun: int = 0,
        price: Price | None = None,
        to_go_on: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin the session now.

        Args:
            trials: of the study so far.
            planned: number of trials of the whole search.
            epochs: epochs of a trial without the parameter ``epochs``.
            costs: expected costs of trials that have not begun.
            confirming: number of retrainings of the confirm phase.
            time_s: seconds that this session may take.
            not_begun: number of trials that will not begin, because the search has ended at its noise floor.
            price: price of a device hour; None: that of the previous session.
            to_go_on: options of this session that the next session needs too.

        Raises:
            UserError: the budget is in devices that the sweep does not run on.
        """
        check_device(budget, session)
        self.planned, self.confirming = planned, confirming
        self.budget, self.not_begun = budget, not_begun
        self._folder, self._session, self._clock = folder, session, clock
        self._time_s, self._epochs, self._to_go_on = time_s, epochs, to_go_on
        self._costs = costs
        self._reports: dict[int, Report] = {}
        """Last report of each running trial."""
        self._report_counts = Counter[int]()
        self._evaluation_s = 0.0
        """Seconds of one evaluation on validation: the longest of any scope, because most points of a front have this
        scope.
        """
        self._look_evaluations = 0.0
        """Number of evaluations on validation that take as long as a second look at a point; 0 without one."""
        self._near_front: Callable[[Sequence[TrialRecord]], int] | None = None
        self._near = 0
        """Points near the present front."""
        self._looks: MeasuringPace | None = None
        self._tests: MeasuringPace | None = None
        self._start_s = self._saved_s = clock()
        self._closed_s: float | None = None
        earlier = read_usage(folder)
        self._earlier, self._price = earlier.sessions, price or earlier.price
        self._ended = {trial.number: trial for trial in trials if trial.state != "running"}
        self._running: dict[int, TrialRecord] = {}
        self._to_resume = sum(trial.state == "running" for trial in trials)
        self._ledger = BudgetLedger(
            slots=session.slots,
            devices_per_slot=session.devices_per_slot,
            now_s=self._start_s,
            before_device_s=used_device_s(self._earlier, session.device),
            budget=budget,
            time_s=time_s,
            ended=[
                EndedTrial(cost_s=trial.cost_s, epochs=self._epochs_of(trial))
                for trial in self._ended.values()
                if trial.cost_s is not None
            ],
        )

    def expect_second_look(self, evaluations: float, near_front: Callable[[Sequence[TrialRecord]], int]) -> None:
        """Expect a second look.

        Args:
            evaluations: number of evaluations on validation that take as long as a second look at a point.
            near_front: returns the number of points that a second look at given trials measures.
        """
        self._look_evaluations, self._near_front = evaluations, near_front
        self._near = near_front(list(self._ended.values()))

    def check(self) -> None:
        """Check that a new trial or a resumed one may run.

        Raises:
            UserError: the budget allows neither.
        """
        work = self.unfinished_work()
        if work is not None and not self.may_start() and (self.used_up() or not self._to_resume):
            again = self._folder.command("resume", *resume_options(work), *self._to_go_on)
            raise UserError(
                f"sweep {self._folder.name} has used {usage_line(self.usage(), [], self.budget)}, and "
                f"{unfinished_line(work)}; go on with: {again}"
            )

    def started(self, trial: TrialRecord) -> None:
        self._running[trial.number] = trial
        self._ledger.trial_started(trial.number, self._now_s(), self._epochs_of(trial))

    def reported(self, trial: TrialRecord, report: Report) -> None:
        self._reports[trial.number] = report
        self._report_counts[trial.number] += 1
        evaluation_s = report.evaluation_s / self._report_counts[trial.number]
        self._evaluation_s = max(self._evaluation_s, evaluation_s)
        self._ledger.trial_reported(trial.number, report.progress, report.spent_s, self._now_s())

    def ended(self, trial: TrialRecord) -> None:
        self._running.pop(trial.number, None)
        self._reports.pop(trial.number, None)
        self._ended[trial.number] = trial
        if self._near_front is not None and trial.state == "complete" and trial.confirms is None:
            self._near = self._near_front(list(self._ended.values()))
        self._ledger.trial_ended(trial.number, trial.cost_s, self._epochs_of(trial))

    def may_start(self, share: float = 1.0) -> bool:
        """Return whether another trial may begin within ``share`` of the budget, and within the time."""
        return self._ledger.may_start(self._now_s(), share)

    def used_up(self) -> bool:
        """Return whether running trials must be interrupted: the budget, or the time of this session, is over."""
        return self._ledger.used_up(self._now_s())

    def limited(self) -> bool:
        """Return whether there is a budget, or a time for this session."""
        return self.budget is not None or self._time_s is not None

    def tick(self) -> None:
        """Save the usage when it is time; to be called often."""
        if self._now_s() - self._saved_s >= SAVE_S:
            self.save()

    def save(self) -> None:
        """Write the usage; it is on disk when this returns."""
        self._saved_s = self._now_s()
        write_usage(self._folder, self.usage())

    def close(self) -> None:
        """End the session: the slots were given back, nothing more is charged, and the usage is on disk."""
        self._closed_s = self._now_s()
        self.save()

    def usage(self) -> Usage:
        """Return the usage of all sessions."""
        now_s = self._now_s()
        held, slot_s = self._ledger.held, self._ledger.slot_s(now_s)
        session = replace(self._session, slots=held, wall_s=now_s - self._start_s, slot_s=slot_s)
        return Usage(
            sessions=(*self._earlier, session),
            forecast=self.forecast(),
            updated_at_s=time.time(),
            price=self._price,
            not_begun=self.not_begun,
        )

    def hold(self, slots: int) -> None:
        """Note how many slots are held now."""
        if slots != self._ledger.held:
            self._ledger.hold(slots, self._now_s())

    def used_s(self) -> float:
        """Return the device seconds so far, over all sessions."""
        return self._ledger.used_device_s(self._now_s())

    def ended_trials(self) -> Iterable[TrialRecord]:
        """Return the trials that have ended, of all sessions."""
        return self._ended.values()

    def forecast(self) -> Forecast | None:
        """Return the forecast of the sweep; None if there is none yet."""
        begun = [*self._ended.values(), *self._running.values()]
        searched = _searched(begun)
        searches = max(0, self.planned - self.not_begun - searched)
        confirms = max(0, self.confirming - (len(begun) - searched))
        epochs = [self._epochs_of(trial) for trial in begun]
        costs = self._costs.expected(self._samples(), sum(epochs) / len(epochs)) if epochs else None
        waiting_s = None if costs is None else [costs.searched_s] * searches + [costs.whole_s] * confirms
        complete = sum(trial.state == "complete" and trial.confirms is None for trial in self._ended.values())
        if costs is None or not complete:
            looks = float(LOOKED_POINTS)
        else:
            waiting = searches + _searched(self._running.values())
            looks = expected_looks(self._near, complete, waiting, costs.whole_share)
        return self._ledger.forecast(
            self._now_s(), searches + confirms, waiting_s=waiting_s, after_s=self._measuring_s(looks)
        )

    def to_measure(self, looks: MeasuringPace | None, tests: MeasuringPace | None) -> None:
        """Note the progress of the second look and of measuring on test; None: not begun."""
        self._looks, self._tests = looks, tests

    def _measuring_s(self, looks: float) -> float:
        """Return the wall-clock seconds of the second look and of measuring on test.

        Args:
            looks: expected number of points of a second look that has not begun.
        """
        evaluation_s = self._evaluation_s / max(1, self._ledger.held)
        look_s, test_s = self._look_evaluations * evaluation_s, EVALUATIONS_PER_POINT * evaluation_s
        looking_s = looks * look_s if self._looks is None else self._looks.left_s(look_s)
        if self._tests is not None:
            return looking_s + self._tests.left_s(test_s)
        retrained_s = self.confirming * (look_s + EVALUATIONS_PER_RETRAINING * evaluation_s)
        return looking_s + POINTS_ON_TEST * test_s + retrained_s

    def _samples(self) -> Iterator[Sample]:
        """Yield the observed costs of trials, ended or running."""
        for trial in self._ended.values():
            share = {"complete": 1.0, "stopped": trial.stopped_at}.get(trial.state)
            if trial.cost_s is not None and share is not None:
                may_stop = trial.confirms is None and trial.baseline is None and trial.first_point is None
                epochs = share * self._epochs_of(trial)
                yield Sample(
                    scope=str(trial.parameters.get("tune")),
                    cost_s=trial.cost_s,
                    epochs=epochs,
                    share=share if may_stop else None,
                )
        for number, report in self._reports.items():
            scope = str(self._running[number].parameters.get("tune"))
            yield Sample(scope=scope, cost_s=report.spent_s, epochs=report.epoch, share=None)

    def left_s(self) -> float | None:
        """Return the seconds until the last trial ends or the limits are used up; None if not known yet."""
        forecast = self.forecast()
        return None if forecast is None else forecast.left_s

    def limit(self) -> Budget | float | None:
        """Return the limit that ends this session before its last trial: the budget, its seconds, or None."""
        return self.budget if self._ledger.budget_is_first(self._now_s()) else self._time_s

    def unfinished_work(self) -> UnfinishedWork | None:
        """Return the trials that the limits did not allow; None if every trial of the search has ended."""
        missing = self.planned - self.not_begun - _searched(self._ended.values())
        if missing <= 0:
            return None
        limit, enough = self.limit(), None
        if isinstance(limit, Budget):
            missing_s = missing * (self._ledger.mean_s or 0.0) * self._session.devices_per_slot
            enough_h = max(1.1 * (self.usage().device_s + missing_s) / HOUR_S, 1.25 * limit.hours)
            enough = Budget(rounded_up(enough_h), limit.device)
        return UnfinishedWork(missing=missing, planned=self.planned, limit=limit, enough=enough)

    def costs(self, trial: TrialRecord) -> dict[str, float]:
        """Return the costs of one trial, in device hours and money, by their name in MLflow."""
        if trial.cost_s is None:
            return {}
        slot_hour = self._session.devices_per_slot / HOUR_S
        costs = {"usage/device_h": trial.cost_s * slot_hour}
        if trial.state == "stopped":
            costs["usage/saved_device_h"] = time_saved_s(trial) * slot_hour
        if self._price is not None:
            costs["usage/money"] = trial.cost_s * slot_hour * self._price.amount
        return costs

    def totals(self, hypervolume: float | None = None) -> dict[str, float]:
        """Return the costs of the sweep so far, in device hours and money, by their name in MLflow.

        Args:
            hypervolume: of the front, if its goals are accuracies.
        """
        usage = self.usage()
        costs = usage.device_hours(self._ended.values())
        per_point_h = usage.device_hours_per_point(hypervolume)
        if per_point_h is not None:
            costs["device_h_per_point"] = per_point_h
        if self._price is not None:
            costs["money"] = costs["device_h"] * self._price.amount
        return {f"usage/{name}": value for name, value in costs.items()}

    def _epochs_of(self, trial: TrialRecord) -> int:
        epochs: int = trial.parameters.get("epochs", self._epochs)
        return epochs

    def _now_s(self) -> float:
        return self._clock() if self._closed_s is None else self._closed_s


def _searched(trials: Iterable[TrialRecord]) -> int:
    """Return how many of the trials belong to the search, not to the confirm phase."""
    return sum(trial.confirms is None for trial in trials)


def new_session(plan: SlotPlan) -> Session:
    """Return a session that begins now on all slots of a plan."""
    on_gpus = plan.gpus_per_worker > 0
    return Session(
        started_s=time.time(),
        device="gpu" if on_gpus else "cpu",
        slots=plan.slots,
        devices_per_slot=plan.workers_per_trial * (plan.gpus_per_worker if on_gpus else plan.cpus_per_worker),
        wall_s=0.0,
    )


def most_retrainings(spec: Spec) -> int:
    """Return the largest number of retrainings of the confirm phase."""
    confirm = spec.confirm
    if confirm is None:
        return 0
    if spec.limits.budget is not None:
        return confirm.members * confirm.seeds
    return min(confirm.members, confirm.most_trainings(spec.search.trials) // confirm.seeds) * confirm.seeds


def check_device(budget: Budget | None, session: Session) -> None:
    """Check that a budget is in the devices that the session runs on.

    Raises:
        UserError: the budget is in GPU hours and the session runs on CPUs, or the reverse.
    """
    if budget is None or budget.device == session.device:
        return
    on_cpus = session.device == "cpu"
    runs_on, cure = ("CPUs", "or give it GPUs") if on_cpus else ("GPUs", "or leave it to CPUs with --gpus 0")
    raise UserError(
        f"a budget of {budget}: this sweep runs on {runs_on} ({session.devices}); write the budget as "
        f"{budget.hours:g}{session.device}-h, {cure}"
    )

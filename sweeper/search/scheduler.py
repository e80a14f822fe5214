"""Which trial runs next and what becomes of it: the sweep's side of ``search.run_trials``. Knows no Ray.

Order of records, so that a kill at any moment loses nothing: the workers write checkpoint and metric line, then the
study is told, then MLflow's outbox. On resume the earlier record wins and the later ones are repaired.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sweeper.records import GOALS, Outcome, Point, Report, Retraining, Task, TrialRecord
from sweeper.search.stopping import stopping_rule
from sweeper.search.study import Study
from sweeper.spec.spec import Spec


class TrialListener(Protocol):
    """Progress and tracking, told after the study."""

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...

    def tick(self) -> None: ...


class TrialFiles(Protocol):
    """What trials leave on disk."""

    def task(self, trial: TrialRecord, rungs: Sequence[float]) -> Task:
        """The next attempt at a trial; it is to report at ``rungs``, where it waits for a verdict."""

    def reports(self, number: int) -> list[Report]:
        """What a trial has reported, by step."""

    def stopped(self, number: int) -> None:
        """The trial will not go on."""


class TrialScheduler:
    """Hands out trials one at a time, never ahead of a free slot, and records how each ends.

    First the search, then, when all of it has ended, what the confirm phase trains again.
    """

    def __init__(
        self,
        spec: Spec,
        study: Study,
        files: TrialFiles,
        untouched: dict[str, float],
        listener: TrialListener,
        *,
        interrupted: Callable[[], bool] = lambda: False,
        interrupt: Callable[[], None] = lambda: None,
        may_start: Callable[[bool], bool] = lambda confirming: True,
        retrainings: Callable[[Sequence[TrialRecord]], Sequence[Retraining]] = lambda trials: (),
    ) -> None:
        """``untouched``: goals of the untouched model on validation; ``interrupt``: has running trials stop;
        ``may_start``: whether the budget allows a further trial, of the confirm phase or not; ``retrainings``: what the
        confirm phase trains again, given all trials of a finished search."""
        self._spec, self._study, self._files, self._untouched = spec, study, files, untouched
        self._listener, self._interrupted, self._interrupt = listener, interrupted, interrupt
        self._may_start, self._retrainings = may_start, retrainings
        self._chosen = spec.chosen()
        self._given = (spec.paint is not None) + len(spec.points)
        """How many trials the spec names: these are the first."""
        records = study.trials()
        self._put_back = deque(record for record in records if record.state == "running")
        self._asked = sum(record.confirms is None for record in records)
        self._failed = sum(record.state == "failed" for record in records)
        self._running: dict[int, TrialRecord] = {}
        self._last: dict[int, Report] = {}
        """The last report of a running trial at a rung."""
        self._spent_s: dict[int, float] = {}
        """By running trials in earlier goes at the sweep, as far as they have reported."""
        self._confirming: deque[Retraining] | None = None
        """What is left to train again; None: the search has not ended."""
        self._stopping = False
        self._rule = stopping_rule(spec, untouched)
        self._condemned = self._rebuild_rungs(records)

    @property
    def too_many_failed(self) -> bool:
        """Whether more trials failed than ``limits.max_failed_share`` of the sweep allows."""
        return self._failed > self._spec.limits.max_failed_share * self._spec.search.trials

    def next_task(self) -> Task | None:
        record = self._next_record()
        if record is None:
            return None
        self._running[record.number] = record
        task = self._files.task(record, self._rule.rungs if self._judged(record) and self._rule is not None else ())
        self._listener.started(record)
        return task

    def exhausted(self) -> bool:
        if self._stopping or self.too_many_failed:
            return True
        if self._put_back or self._search_goes_on():
            return False
        return not self._running and not (self._left_to_confirm() and self._may_start(True))

    def on_report(self, key: int, report: Report) -> bool:
        record = self._running[key]
        self._listener.reported(record, report)
        if self._rule is None or not report.get("rung") or not self._judged(record):
            return False
        self._last[key] = report
        return self._rule.report(key, report["progress"], [report[goal] for goal in GOALS])

    def on_end(self, key: int, outcome: Outcome) -> None:
        record = self._running.pop(key)
        last = self._last.pop(key, None)
        if outcome.kind == "interrupted":
            return
        cost_s = round(self._spent_s.pop(key, 0.0) + outcome.busy_s, 3)
        if outcome.kind == "complete":
            self._complete(record, outcome, cost_s)
        elif outcome.kind == "stopped":
            assert last is not None, "only a verdict on a report stops a trial"
            self._stop(record, last, outcome.slot, cost_s)
        else:
            self._study.fail(key, outcome.reason or "no reason given", slot=outcome.slot, cost_s=cost_s)
            self._failed += 1
        self._listener.ended(self._study.trial(key))

    def on_tick(self) -> None:
        self._listener.tick()
        if self._interrupted() and not self._stopping:
            self._stopping = True
            self._interrupt()

    def _next_record(self) -> TrialRecord | None:
        if self._stopping or self.too_many_failed:
            return None
        while self._put_back:
            record = self._put_back.popleft()
            reports = self._files.reports(record.number)
            spent_s = reports[-1]["train_s"] + reports[-1]["evaluation_s"] if reports else 0.0
            if record.number in self._condemned:  # the verdict was taken, or would have been, when the driver died
                self._stop(record, self._condemned[record.number], None, round(spent_s, 3))
                self._listener.ended(self._study.trial(record.number))
                continue
            self._spent_s[record.number] = spent_s
            return record
        if self._search_goes_on():
            record = self._ask()
            self._asked += 1
            return record
        if any(record.confirms is None for record in self._running.values()):
            return None  # the front may still change
        left = self._left_to_confirm()
        if not left or not self._may_start(True):
            return None
        again = left.popleft()
        return self._study.retrain(again.confirms, again.seed)

    def _search_goes_on(self) -> bool:
        return self._confirming is None and self._asked < self._spec.search.trials and self._may_start(False)

    def _left_to_confirm(self) -> deque[Retraining]:
        """What is left to train again; to be asked when the search has ended."""
        if self._confirming is None:
            records = self._study.trials()
            begun = {(record.confirms, record.seed) for record in records}
            wanted = self._retrainings(records)
            self._confirming = deque(one for one in wanted if (one.confirms, one.seed) not in begun)
        return self._confirming

    def _ask(self) -> TrialRecord:
        """PAINT first, then the starting points, then the sampler, the grid or the soup."""
        index = self._asked
        if self._spec.paint is not None:
            if index == 0:
                return self._study.add(self._spec.paint.parameters(), baseline="paint")
            index -= 1
        if index < len(self._chosen):
            return self._study.add(self._chosen[index])
        assert not self._spec.search.planned, "a spec never plans more trials than its grid or soup has"
        return self._study.ask()

    def _judged(self, record: TrialRecord) -> bool:
        """Baseline and points are to be shown whatever they are worth, and what is trained again to be measured whole.

        Known-good points would also stop each other, being the first to compare with.
        """
        return record.number >= self._given and record.confirms is None

    def _rebuild_rungs(self, records: Sequence[TrialRecord]) -> dict[int, Report]:
        """Gives the stopping rule all that was reported, in the order in which it was.

        Returns the last report of each running trial that is to be stopped.
        """
        if self._rule is None:
            return {}
        judged = [record for record in records if self._judged(record)]
        lines = [(line, record) for record in judged for line in self._files.reports(record.number) if line.get("rung")]
        condemned = {}
        for line, record in sorted(lines, key=lambda one: (one[0]["time_s"], one[1].number, one[0]["step"])):
            stop = self._rule.report(record.number, line["progress"], [line[goal] for goal in GOALS])
            if stop and record.state == "running":
                condemned[record.number] = line
        return condemned

    def _stop(self, record: TrialRecord, last: Report, slot: int | None, cost_s: float) -> None:
        self._files.stopped(record.number)
        self._study.stop(
            record.number,
            f"not worth going on after {last['progress']:.0%} of its steps",
            stopped_at=last["progress"],
            values={goal: last[goal] for goal in GOALS},
            duration_s=round(last["train_s"] + last["evaluation_s"], 3),
            slot=slot,
            cost_s=cost_s,
        )

    def _complete(self, record: TrialRecord, outcome: Outcome, cost_s: float) -> None:
        result: dict[str, Any] = outcome.result
        self._study.tell(
            record.number,
            result["values"],
            [Point(**point) for point in result["points"]],
            duration_s=round(result["train_s"] + result["evaluation_s"], 3),
            slot=outcome.slot,
            violation=self._spec.goals.violation(result["values"], self._untouched),
            cost_s=cost_s,
        )

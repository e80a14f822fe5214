"""Which trial runs next and what becomes of it: the sweep's side of ``search.run_trials``. Knows no Ray.

Order of records, so that a kill at any moment loses nothing: the workers write checkpoint and metric line, then the
study is told, then MLflow's outbox. On resume the earlier record wins and the later ones are repaired.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from sweeper.folder import SweepFolder
from sweeper.records import Outcome, Point, Report, Task, TrialRecord
from sweeper.spec import Spec
from sweeper.study import Study


class Listener(Protocol):
    """Progress and tracking, told after the study."""

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...

    def tick(self) -> None: ...


class Trials:
    """Hands out trials one at a time, never ahead of a free slot, and records how each ends."""

    def __init__(
        self,
        spec: Spec,
        study: Study,
        folder: SweepFolder,
        untouched: dict[str, float],
        listener: Listener,
        *,
        interrupted: Callable[[], bool],
        interrupt: Callable[[], None],
    ) -> None:
        """``untouched``: goals of the untouched model on validation; ``interrupt``: has running trials stop."""
        self._spec, self._study, self._folder, self._untouched = spec, study, folder, untouched
        self._listener, self._interrupted, self._interrupt = listener, interrupted, interrupt
        self._chosen = spec.chosen()
        records = study.trials()
        self._put_back = deque(record for record in records if record.state == "running")
        self._asked = len(records)
        self._failed = sum(record.state == "failed" for record in records)
        self._running: dict[int, TrialRecord] = {}
        self._stopping = False

    @property
    def too_many_failed(self) -> bool:
        """Whether more trials failed than ``limits.max_failed_share`` of the sweep allows."""
        return self._failed > self._spec.limits.max_failed_share * self._spec.search.trials

    def next_task(self) -> Task | None:
        record = self._next_record()
        if record is None:
            return None
        self._running[record.number] = record
        folder = self._folder.trial_path(record.number)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_trial(record)
        self._listener.started(record)
        return Task(
            kind="train",
            key=record.number,
            attempt=self._folder.attempts(record.number) + 1,
            payload={"folder": str(folder), "parameters": record.parameters, "seed": record.seed},
        )

    def exhausted(self) -> bool:
        if self._stopping or self.too_many_failed:
            return True
        return not self._put_back and self._asked >= self._spec.search.trials

    def on_report(self, key: int, report: Report) -> bool:
        self._listener.reported(self._running[key], report)
        return False

    def on_end(self, key: int, outcome: Outcome) -> None:
        record = self._running.pop(key)
        if outcome.kind == "interrupted":
            return
        if outcome.kind == "complete":
            self._complete(record, outcome)
        else:
            reason = outcome.reason or "no reason given"
            (self._study.fail if outcome.kind == "failed" else self._study.stop)(key, reason, slot=outcome.slot)
            self._failed += outcome.kind == "failed"
        self._listener.ended(self._study.trials()[key])

    def on_tick(self) -> None:
        self._listener.tick()
        if self._interrupted() and not self._stopping:
            self._stopping = True
            self._interrupt()

    def _next_record(self) -> TrialRecord | None:
        if self._stopping or self.too_many_failed:
            return None
        if self._put_back:
            return self._put_back.popleft()
        if self._asked >= self._spec.search.trials:
            return None
        record = self._ask()
        self._asked += 1
        return record

    def _ask(self) -> TrialRecord:
        """PAINT first, then the starting points, then the sampler or the grid."""
        index = self._asked
        if self._spec.paint is not None:
            if index == 0:
                return self._study.add(self._spec.paint.parameters(), baseline="paint")
            index -= 1
        if index < len(self._chosen):
            return self._study.add(self._chosen[index])
        assert self._spec.search.sampler != "grid", "a spec never plans more trials than its grid has"
        return self._study.ask()

    def _complete(self, record: TrialRecord, outcome: Outcome) -> None:
        result: dict[str, Any] = outcome.result
        self._study.tell(
            record.number,
            result["values"],
            [Point(**point) for point in result["points"]],
            duration_s=round(result["train_s"] + result["evaluation_s"], 3),
            slot=outcome.slot,
            violation=self._spec.goals.violation(result["values"], self._untouched),
        )

    def _write_trial(self, record: TrialRecord) -> None:
        """``trial.json``: with it ``python -m trainables`` runs this trial alone."""
        name = f"trials/{record.number:05d}/trial.json"
        if (self._folder.path / name).exists():
            return
        self._folder.write_json(
            name,
            {
                "task": self._spec.task_settings().model_dump(mode="json", by_alias=True),
                "parameters": record.parameters,
                "seed": record.seed,
                "data_seed": self._spec.search.seed,
            },
        )

"""Who has which task: the state between the driver and its slots, without Ray and without a clock of its own.

A ``JobQueue`` has one ``SlotState`` per slot and one ``QueuedJob`` per job that waits or runs. Workers address their
slot by (slot, group): the group is one incarnation of the slot's worker processes, and whatever an older
incarnation still says is dropped, as is whatever concerns another (kind, key, attempt) than the slot's present one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sweeper.records import Outcome, Report, Task

JobName = tuple[str, int]
"""(kind, key): names a task over all its attempts."""
AttemptName = tuple[str, int, int]
"""(kind, key, attempt)."""

INTERRUPTED = Outcome(kind="interrupted")
SETUP_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """How long things may take."""

    trial_s: float | None = None
    """Of one ``train`` task over all its attempts, from the first time a slot takes it; None: no limit."""
    stall_s: float = 1800.0
    """A worker that shows no sign of life (a report, a step) for so long during a task ends its process."""
    grace_s: float = 120.0
    """To reach a checkpoint after an interruption or the end of ``trial_s``; the process is ended after it."""
    retries: int = 2
    """Further attempts after lost workers, counted anew whenever a report got further."""


class ReportEvent(NamedTuple):
    """A report as it came in."""

    attempt: int
    number: int
    """Counted from 0 within the attempt."""
    report: Report


JobUpdate = tuple[list[ReportEvent], Outcome | None]
"""Reports that came in, and the outcome once there is one."""


@dataclass(frozen=True, kw_only=True)
class SetupError:
    """Why a slot cannot serve at all: its runner could not be built."""

    reason: str
    user: bool
    """Whether the user can mend it (bad input) rather than us."""
    traceback: str | None = None


@dataclass
class QueuedJob:
    """One task from offer to outcome."""

    task: Task
    started_s: float | None = None
    held_from_s: float | None = None
    """Since when it has a slot; None while it waits."""
    busy_s: float = 0.0
    """For how long it had a slot before."""
    step: int = 0
    """The furthest step reported in any attempt."""
    retries: int = 0
    """Further attempts since the last gain."""
    notes: list[ReportEvent] = field(default_factory=list)
    verdicts: dict[int, bool] = field(default_factory=dict)
    """Of the present attempt: number of the report -> whether to stop."""
    cancelled: Outcome | None = None
    """Set when the task must end: what it then ends as, unless it gets done first."""
    cancelled_s: float = 0.0
    outcome: Outcome | None = None
    trouble: str | None = None
    """What was last said about lost workers."""

    @property
    def name(self) -> JobName:
        return self.task.kind, self.task.key

    @property
    def attempt_name(self) -> AttemptName:
        return self.task.kind, self.task.key, self.task.attempt

    def release(self, now: float) -> None:
        """It has no slot any more, or none that counts as its own."""
        if self.held_from_s is not None:
            self.busy_s, self.held_from_s = self.busy_s + now - self.held_from_s, None


class SlotState:
    """One slot as the driver sees it."""

    def __init__(self, slot: int, workers: int) -> None:
        self.slot = slot
        self.workers = workers
        self.group: str | None = None
        self.ready: set[int] = set()
        self.ticket: QueuedJob | None = None
        """Stays until every rank acknowledged its end, or the group is gone."""
        self.endings: dict[int, Outcome] = {}
        self.troubles = 0
        """Since the slot was last warm."""
        self.trouble: str | None = None
        self.refusal: SetupError | None = None

    @property
    def warm(self) -> bool:
        return self.group is not None and len(self.ready) == self.workers

    @property
    def idle(self) -> bool:
        return self.warm and self.ticket is None

    def holds(self, group: str, attempt: AttemptName) -> QueuedJob | None:
        """The ticket a message belongs to; None: the message comes too late."""
        ticket = self.ticket
        return ticket if group == self.group and ticket is not None and ticket.attempt_name == attempt else None

    def leave(self) -> QueuedJob | None:
        """The worker processes are gone. Returns the ticket that now has nobody."""
        ticket, self.ticket = self.ticket, None
        self.group = None
        self.ready = set()
        self.endings = {}
        return None if ticket is None or ticket.outcome is not None else ticket


class JobQueue:
    """All slots, and the queue before them.

    Changes leave the slots and tasks they concern in ``touched_slots`` and ``touched_tasks``; whoever waits for one of
    them looks again.
    """

    def __init__(self, slots: int, workers: int, limits: JobLimits) -> None:
        self.limits = limits
        self.boxes = [SlotState(slot, workers) for slot in range(slots)]
        self.queue: deque[QueuedJob] = deque()
        self.tickets: dict[JobName, QueuedJob] = {}
        self.closed = False
        self.touched_slots: set[int] = set()
        self.touched_tasks: set[JobName] = set()

    # The driver's side

    def offer(self, task: Task, now: float) -> None:
        """Queues a task for the next idle slot."""
        ticket = QueuedJob(task=task)
        assert ticket.name not in self.tickets, f"{ticket.name} was offered twice"
        self.tickets[ticket.name] = ticket
        if self.closed:
            self._publish(ticket, INTERRUPTED, None, now)
            return
        self.queue.append(ticket)
        self._dispatch(now)

    def news(self, name: JobName, seen: int) -> JobUpdate | None:
        """What came in after the first ``seen`` reports; None: nothing."""
        ticket = self.tickets.get(name)
        if ticket is None:
            return [], INTERRUPTED
        notes = ticket.notes[seen:]
        return (notes, ticket.outcome) if notes or ticket.outcome is not None else None

    def forget(self, name: JobName) -> None:
        """The driver has the outcome, or does not care for it any more."""
        self.tickets.pop(name, None)
        self.touched_tasks.add(name)

    def judge(self, name: JobName, attempt: int, number: int, stop: bool) -> None:
        """The verdict on report ``number`` of an attempt."""
        ticket = self.tickets.get(name)
        if ticket is not None and ticket.task.attempt == attempt:
            ticket.verdicts[number] = stop
            self._touch_holder(ticket)

    def interrupt(self, now: float) -> None:
        """Waiting tasks end at once, running ones at their next checkpoint."""
        for ticket in self.queue:
            self._publish(ticket, INTERRUPTED, None, now)
        self.queue.clear()
        for box in self.boxes:
            if box.ticket is not None:
                self._cancel(box, INTERRUPTED, now)

    def close(self, now: float) -> None:
        """Interrupts everything; idle workers return, busy ones after their task."""
        self.closed = True
        self.interrupt(now)
        self.touched_slots.update(range(len(self.boxes)))

    def tick(self, now: float) -> None:
        """Enforces ``trial_s`` and ``grace_s``."""
        for box in self.boxes:
            ticket = box.ticket
            if ticket is None or ticket.outcome is not None:
                continue
            if ticket.cancelled is not None:
                if now - ticket.cancelled_s > 1.5 * self.limits.grace_s:
                    self._publish(ticket, ticket.cancelled, box.slot, now)  # nobody is left to acknowledge it
            elif self._overdue(ticket, now):
                self._cancel(box, self._too_long(), now)

    def refusal(self) -> SetupError | None:
        """Why no task can be done: one slot's runner cannot be built, or all slots' workers keep dying."""
        for box in self.boxes:
            if box.refusal is not None:
                return box.refusal
        if all(box.troubles >= SETUP_ATTEMPTS for box in self.boxes):
            what = f"the workers of every slot ended {SETUP_ATTEMPTS} times while they were being set up"
            return SetupError(reason=f"{what}; the last time: {self.boxes[0].trouble}", user=False)
        return None

    # The workers' side

    def join(self, slot: int, group: str, now: float) -> None:
        """A worker process of a group came up."""
        box = self.boxes[slot]
        if group != box.group:
            self._left(box, now)
            box.group = group
            self.touched_slots.add(slot)

    def gone(self, slot: int, group: str, now: float) -> None:
        """The processes of a group were ended."""
        box = self.boxes[slot]
        if group == box.group:
            self._left(box, now)
            self._dispatch(now)

    def trouble(self, slot: int, reason: str) -> None:
        """A group could not be started, or was lost."""
        box = self.boxes[slot]
        box.troubles += 1
        box.trouble = reason
        if box.ticket is not None and box.ticket.trouble is None:
            box.ticket.trouble = reason
        self.touched_slots.add(slot)

    def set_up(self, slot: int, group: str, rank: int, now: float) -> None:
        """A worker has built its runner; the slot is warm when all its workers have."""
        box = self.boxes[slot]
        if group == box.group:
            box.ready.add(rank)
            if box.warm:
                box.troubles = 0
                self._dispatch(now)

    def refuse(self, slot: int, refusal: SetupError) -> None:
        """A worker could not build its runner."""
        box = self.boxes[slot]
        box.refusal = box.refusal or refusal
        self.touched_slots.add(slot)
        self.touched_tasks.update(self.tickets)

    def current(self, slot: int, group: str, last: AttemptName | None) -> Task | None:
        """The task a worker shall begin, other than the ``last`` it had; None: nothing yet."""
        box = self.boxes[slot]
        if group != box.group or box.ticket is None or box.ticket.outcome is not None:
            return None
        return None if box.ticket.attempt_name == last else box.ticket.task

    def report(self, slot: int, group: str, attempt: AttemptName, number: int, report: Report) -> None:
        """What rank 0 says after an evaluation."""
        ticket = self.boxes[slot].holds(group, attempt)
        if ticket is None or ticket.outcome is not None:
            return
        step = report.get("step")
        if isinstance(step, int) and step > ticket.step:
            ticket.step = step
            ticket.retries = 0
        ticket.notes.append(ReportEvent(ticket.task.attempt, number, report))
        self.touched_tasks.add(ticket.name)

    def verdict(self, slot: int, group: str, attempt: AttemptName, number: int) -> bool | None:
        """Whether to stop after report ``number``; None: not decided yet."""
        ticket = self.boxes[slot].holds(group, attempt)
        if ticket is None or ticket.cancelled is not None:
            return False  # over, or interrupted: the runner finds out at its next step
        return ticket.verdicts.get(number)

    def interrupted(self, slot: int, group: str, attempt: AttemptName) -> bool:
        """Whether the task shall checkpoint and end."""
        ticket = self.boxes[slot].holds(group, attempt)
        return ticket is None or ticket.cancelled is not None

    def end(self, slot: int, group: str, rank: int, attempt: AttemptName, ending: Outcome, now: float) -> None:
        """A rank is through with its task. The first failure is the one that counts."""
        box = self.boxes[slot]
        ticket = box.holds(group, attempt)
        if ticket is None:
            return
        box.endings.setdefault(rank, ending)
        if len(box.endings) < box.workers:
            return
        endings = list(box.endings.values())
        for kind in ("failed", "interrupted", "stopped"):
            outcome = next((e for e in endings if e.kind == kind), None)
            if outcome is not None:
                break
        else:
            outcome = box.endings[0]
        self._settle(box, ticket, outcome, now)
        box.ticket = None
        box.endings = {}
        self.touched_slots.add(slot)
        self._dispatch(now)

    def settled(self, slot: int, group: str, attempt: AttemptName) -> bool:
        """Whether every rank is through."""
        return self.boxes[slot].holds(group, attempt) is None

    def give_up(self, slot: int, group: str, attempt: AttemptName, now: float) -> None:
        """A rank failed and the others did not follow: its failure is the task's. The group has to be replaced."""
        box = self.boxes[slot]
        ticket = box.holds(group, attempt)
        failure = next((e for e in box.endings.values() if e.kind == "failed"), None)
        if ticket is not None and ticket.outcome is None and failure is not None:
            self._settle(box, ticket, failure, now)

    def lost(self, slot: int, group: str, attempt: AttemptName, reason: str) -> None:
        """A worker is about to end its process for ``reason``; the task goes on from its checkpoint."""
        ticket = self.boxes[slot].holds(group, attempt)
        if ticket is not None:
            ticket.trouble = reason

    # Inside

    def _dispatch(self, now: float) -> None:
        for box in self.boxes:
            while box.idle and self.queue and not self.closed:
                ticket = self.queue.popleft()
                if self._overdue(ticket, now):
                    self._publish(ticket, self._too_long(), None, now)
                    continue
                ticket.started_s = now if ticket.started_s is None else ticket.started_s
                ticket.held_from_s = now
                box.ticket = ticket
                self.touched_slots.add(box.slot)

    def _overdue(self, ticket: QueuedJob, now: float) -> bool:
        limit = self.limits.trial_s
        started = ticket.started_s
        return limit is not None and ticket.task.kind == "train" and started is not None and now - started > limit

    def _too_long(self) -> Outcome:
        return Outcome(kind="failed", reason=f"took longer than {self.limits.trial_s:g} s, the limit for a trial")

    def _cancel(self, box: SlotState, outcome: Outcome, now: float) -> None:
        assert box.ticket is not None
        if box.ticket.cancelled is None:
            box.ticket.cancelled = outcome
            box.ticket.cancelled_s = now
            self.touched_slots.add(box.slot)

    def _settle(self, box: SlotState, ticket: QueuedJob, outcome: Outcome, now: float) -> None:
        if ticket.outcome is None:
            if outcome.kind == "interrupted" and ticket.cancelled is not None:
                outcome = ticket.cancelled
            self._publish(ticket, outcome, box.slot, now)

    def _left(self, box: SlotState, now: float) -> None:
        """The group is gone: its task goes to the front of the queue under a new attempt, or fails."""
        slot = box.slot
        ticket = box.leave()
        self.touched_slots.add(slot)
        if ticket is None:
            return
        ticket.release(now)
        if ticket.cancelled is not None:
            self._publish(ticket, ticket.cancelled, slot, now)
        elif ticket.retries >= self.limits.retries:
            why = f": {ticket.trouble}" if ticket.trouble else ""
            reason = f"worker lost {ticket.retries + 1} times without a further report{why}"
            self._publish(ticket, Outcome(kind="failed", reason=reason), slot, now)
        else:
            ticket.retries += 1
            ticket.task = replace(ticket.task, attempt=ticket.task.attempt + 1)
            ticket.verdicts = {}
            ticket.trouble = None
            self.queue.appendleft(ticket)

    def _publish(self, ticket: QueuedJob, outcome: Outcome, slot: int | None, now: float) -> None:
        ticket.release(now)
        ticket.outcome = replace(outcome, slot=slot, attempt=ticket.task.attempt, busy_s=ticket.busy_s)
        self.touched_tasks.add(ticket.name)

    def _touch_holder(self, ticket: QueuedJob) -> None:
        self.touched_slots.update(box.slot for box in self.boxes if box.ticket is ticket)

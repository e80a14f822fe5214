"""The assignment of jobs to slots: a pure state machine between the driver and its slots. Callers pass the time.

Imports no Ray. A ``JobQueue`` has one ``SlotState`` per slot and one ``QueuedJob`` per job that waits or runs. Workers
address their slot by (slot, group): the group is one incarnation of the slot's worker processes. Messages of an older
incarnation are dropped, and so are messages about another attempt than the slot's present one.

The queue decides which workers hang (``tick``): a thread of each worker sends a heartbeat every few seconds, with the
time since its job last made progress. A process that is stopped, or holds the interpreter, sends none. The job of a
group that hangs is queued again at once, and ``hung_groups`` names the group for the process that can kill it.

The queue owns the numbers of attempts: a job enters with the number that follows the last one on disk, and each lost
worker group raises it by one. The number in a trial's folder is a fence only (``TrialFolder.claim``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from sweeper.execution.messages import JobUpdate, ReportEvent, SetupError
from sweeper.jobs import AttemptName, Job, JobName, Outcome, TrainJob
from trainables.records import Report

INTERRUPTED = Outcome(kind="interrupted")
SETUP_ATTEMPTS = 3
SETUP_SILENCE_S = 120.0
"""Least seconds without a heartbeat after which a worker in setup counts as hanging: imports, and loading weights, may
hold the interpreter for long.
"""
UNREAD_S = 60.0
"""Seconds after which a follower that has not taken news of its job counts as hanging."""
LAST_WORDS_S = 6.0
"""Seconds that a live process with a hanging job has to write down the stacks of its threads, and to end itself."""
UNCOUNTED_RETRIES = 20
"""Largest number of attempts that do not count as retries; each has halved the micro-batches."""


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """Limits of time and retries for jobs."""

    trial_s: float | None = None
    """Seconds of one ``train`` job over all its attempts, from the first time a slot takes it; None: no limit."""
    stall_s: float = 1800.0
    """Seconds without a heartbeat or without progress of the job (report, step) after which a worker is replaced."""
    grace_s: float = 120.0
    """Seconds to reach a checkpoint after an interruption or the end of ``trial_s``; then the worker is replaced."""
    retries: int = 2
    """Number of further attempts after lost workers, counted again from 0 after a report of a further step."""


@dataclass
class QueuedJob:
    """A job from ``enqueue`` to its outcome."""

    job: Job
    started_s: float | None = None
    running_since_s: float | None = None
    """Time at which the present attempt got its slot; None while the job waits."""
    busy_s: float = 0.0
    """Slot seconds of earlier attempts."""
    step: int = 0
    """The furthest step reported in any attempt."""
    retries: int = 0
    """Number of further attempts since the last report of a further step."""
    uncounted_retries: int = 0
    next_retry_counts: bool = True
    """False: the lost worker group has asked to begin again with smaller micro-batches."""
    out_of_memory: bool = False
    """Whether the memory monitor has killed the worker group of the present attempt."""
    reports: list[ReportEvent] = field(default_factory=list)
    decisions: dict[int, bool] = field(default_factory=dict)
    """Number of a report of the present attempt -> whether to stop."""
    cancelled: Outcome | None = None
    """Set when the job must end: its outcome, unless the job completes before it is ended."""
    cancelled_s: float = 0.0
    cancelled_grace_s: float = 0.0
    outcome: Outcome | None = None
    unread_since_s: float | None = None
    """Time since which the follower has not taken news; None if it has taken all."""
    last_failure: str | None = None
    """Reason of the last lost worker group."""
    lost_on: str | None = None
    """Name of the machine of the last lost worker group."""

    @property
    def name(self) -> JobName:
        return self.job.name

    @property
    def attempt_name(self) -> AttemptName:
        return self.job.attempt_name

    def release_slot(self, now: float) -> None:
        """Stop counting slot time for this job."""
        if self.running_since_s is not None:
            self.busy_s, self.running_since_s = self.busy_s + now - self.running_since_s, None


class SlotState:
    """The state of one slot as the driver knows it."""

    def __init__(self, slot: int, workers: int) -> None:
        self.slot = slot
        self.workers = workers
        self.group: str | None = None
        self.node = ""
        """Name of the machine of the group."""
        self.ready: set[int] = set()
        self.queued: QueuedJob | None = None
        """The slot's job; stays until every rank has confirmed its end, or the group is gone."""
        self.rank_outcomes: dict[int, Outcome] = {}
        self.heartbeats_s: dict[int, float] = {}
        """Rank -> time of its last heartbeat."""
        self.progress_s: dict[int, float] = {}
        """Rank -> time at which the present job last made progress on it."""
        self.starting_s: float | None = None
        """Time since which worker processes are being started; None when all have reported that they run."""
        self.hung_groups: set[str] = set()
        """Groups that were replaced because they hung; their messages are dropped."""
        self.setup_failures = 0
        """Worker-group failures since the slot was last ready."""
        self.setup_reason: str | None = None
        """Last message of a worker that ended its process during setup."""
        self.setup_error: SetupError | None = None
        """Reason why the slot is set aside: it does no job any more."""

    @property
    def warm(self) -> bool:
        return self.group is not None and len(self.ready) == self.workers

    @property
    def idle(self) -> bool:
        return self.warm and self.queued is None

    def addressed_job(self, group: str, attempt: AttemptName) -> QueuedJob | None:
        """Return the job that a message belongs to; None if the message comes too late."""
        queued = self.queued
        return queued if group == self.group and queued is not None and queued.attempt_name == attempt else None

    def detach(self) -> QueuedJob | None:
        """Forget the lost worker group. Return the job that it had not ended."""
        queued, self.queued = self.queued, None
        self.group = None
        self.ready = set()
        self.rank_outcomes = {}
        self.heartbeats_s, self.progress_s = {}, {}
        return None if queued is None or queued.outcome is not None else queued


class JobQueue:
    """All slots, and the jobs that wait for one.

    ``touched_slots`` and ``touched_jobs`` name the changes since they were last cleared: callers that wait for a slot
    or a job then ask again.
    """

    def __init__(self, slots: int, workers: int, limits: JobLimits) -> None:
        self.limits = limits
        self._workers = workers
        self.slot_states = [SlotState(slot, workers) for slot in range(slots)]
        self.waiting: deque[QueuedJob] = deque()
        self.queued_jobs: dict[JobName, QueuedJob] = {}
        self.closed = False
        self.touched_slots: set[int] = set()
        self.touched_jobs: set[JobName] = set()
        self.hung_groups: dict[tuple[int, str], float] = {}
        """(slot, group) -> time at which its processes are to be killed."""
        self.notes: list[str] = []
        """Lines for the user; the reader removes them from the list."""

    # Called by the driver

    def enqueue(self, job: Job, now: float) -> None:
        """Queue a job for the next idle slot."""
        queued = QueuedJob(job=job)
        assert queued.name not in self.queued_jobs, f"{queued.name} was enqueued twice"
        self.queued_jobs[queued.name] = queued
        if self.closed:
            self._publish(queued, INTERRUPTED, None, now)
            return
        self.waiting.append(queued)
        self._dispatch(now)

    def grow_to(self, count: int) -> None:
        """Add slots, which are numbered on, until there are ``count``; called again it adds none."""
        first = len(self.slot_states)
        self.slot_states += [SlotState(slot, self._workers) for slot in range(first, count)]

    def read(self, name: JobName, seen: int, now: float) -> None:
        """Note that the follower of a job has taken its first ``seen`` reports."""
        queued = self.queued_jobs.get(name)
        if queued is not None:
            unread = len(queued.reports) > seen or queued.outcome is not None
            queued.unread_since_s = now if unread else None

    def hung_followers(self, now: float) -> list[JobName]:
        """Return the jobs whose followers have not taken their news for ``UNREAD_S``, each once."""
        names = []
        for queued in self.queued_jobs.values():
            if queued.unread_since_s is not None and now - queued.unread_since_s > UNREAD_S:
                queued.unread_since_s = now
                names.append(queued.name)
        return names

    def update(self, name: JobName, seen: int) -> JobUpdate | None:
        """Return the news after the first ``seen`` reports; None if there is none."""
        queued = self.queued_jobs.get(name)
        if queued is None:
            return JobUpdate([], INTERRUPTED)
        reports = queued.reports[seen:]
        return JobUpdate(reports, queued.outcome) if reports or queued.outcome is not None else None

    def discard(self, name: JobName) -> None:
        """Forget a job: the driver has its outcome or does not need it any more."""
        self.queued_jobs.pop(name, None)
        self.touched_jobs.add(name)

    def set_decision(self, name: JobName, attempt: int, number: int, stop: bool) -> None:
        """Record the scheduler's decision on report ``number`` of an attempt."""
        queued = self.queued_jobs.get(name)
        if queued is not None and queued.job.attempt == attempt:
            queued.decisions.setdefault(number, stop)  # ranks may have been told already to go on and find out
            self._touch_holder(queued)

    def interrupt(self, now: float, grace_s: float | None = None) -> None:
        """End waiting jobs at once, and running jobs at their next checkpoint.

        Args:
            grace_s: seconds until a running job must have written it.
        """
        for queued in self.waiting:
            self._publish(queued, INTERRUPTED, None, now)
        self.waiting.clear()
        for state in self.slot_states:
            if state.queued is not None:
                self._cancel(state, INTERRUPTED, now, grace_s)

    def close(self, now: float) -> None:
        """Interrupt all jobs; idle workers return at once, busy ones after their job."""
        self.closed = True
        self.interrupt(now)
        self.touched_slots.update(range(len(self.slot_states)))

    def tick(self, now: float) -> None:
        """Enforce ``trial_s``, ``grace_s`` and ``stall_s``; to be called several times a second."""
        for state in self.slot_states:
            queued = state.queued
            if (
                queued is not None
                and queued.outcome is None
                and queued.cancelled is None
                and self._overdue(queued, now)
            ):
                self._cancel(state, self._too_long(), now)
            silence = self._silence(state, now)
            reason = silence or self._standstill(state, now)
            if reason is not None:
                self._replace(state, reason, now, kill_s=now if silence else now + LAST_WORDS_S)

    def forgive(self, gap_s: float) -> None:
        """Ignore a time of ``gap_s`` in which this process itself was stopped and could not receive heartbeats."""
        for state in self.slot_states:
            state.heartbeats_s = {rank: beat_s + gap_s for rank, beat_s in state.heartbeats_s.items()}
            state.progress_s = {rank: beat_s + gap_s for rank, beat_s in state.progress_s.items()}
            if state.starting_s is not None:
                state.starting_s += gap_s
            if state.queued is not None:
                state.queued.cancelled_s += gap_s
        for queued in self.queued_jobs.values():
            if queued.unread_since_s is not None:
                queued.unread_since_s += gap_s

    def groups_to_kill(self, now: float) -> list[tuple[int, str]]:
        """Return the hanging groups to be killed now, each until it is lost, because an answer may not arrive."""
        return [group for group, kill_s in self.hung_groups.items() if now >= kill_s]

    def unstarted_slots(self, now: float) -> list[int]:
        """Return the slots whose worker processes did not all report in time that they run.

        One of these processes hangs, and Train's controller waits for it. A slot is named until its next start begins.
        """
        limit_s = max(self.limits.stall_s, SETUP_SILENCE_S)
        return [
            state.slot
            for state in self.slot_states
            if state.starting_s is not None and now - state.starting_s > limit_s and not self.closed
        ]

    def set_aside(self) -> dict[int, SetupError]:
        """Return the slots that do no job any more, with the reasons."""
        return {state.slot: state.setup_error for state in self.slot_states if state.setup_error is not None}

    def setup_error(self) -> SetupError | None:
        """Return why no job can be done any more: every slot is set aside. Each reason is named once. Else None."""
        errors = list(self.set_aside().values())
        if len(errors) < len(self.slot_states):
            return None
        reasons = list(dict.fromkeys(error.reason for error in errors))
        if len(reasons) == 1:
            return errors[0]
        kinds = {error.kind for error in errors}
        kind = errors[0].kind if len(kinds) == 1 else "device"
        return SetupError(reason="no slot can be set up: " + "; ".join(reasons), kind=kind)

    # Called by the workers

    def worker_started(self, slot: int, group: str, now: float, node: str = "") -> None:
        """Note that a worker process of a group has started on a machine."""
        state = self.slot_states[slot]
        if state.setup_error is not None or group in state.hung_groups:
            return
        if group != state.group:
            self._group_left(state, now)
            state.group, state.setup_reason, state.node = group, None, node
            self.touched_slots.add(slot)

    def group_starting(self, slot: int, now: float) -> None:
        """Note that Train starts worker processes for a slot."""
        self.slot_states[slot].starting_s = now

    def heartbeat(
        self, slot: int, group: str, rank: int, attempt: AttemptName | None, idle_s: float, now: float
    ) -> bool:
        """Take a heartbeat; return whether the process still belongs to its slot. If not, it must end.

        Args:
            idle_s: seconds since the job of ``attempt`` last made progress on this rank.
            attempt: None if the rank does no job.
        """
        state = self.slot_states[slot]
        if group != state.group:
            return self.closed or state.setup_error is not None
        state.heartbeats_s[rank] = now
        if len(state.heartbeats_s) == state.workers:
            state.starting_s = None
        if state.queued is not None and attempt == state.queued.attempt_name:
            state.progress_s[rank] = now - idle_s
        return True

    def group_lost(self, slot: int, group: str, now: float) -> None:
        """Note that the processes of a group have ended."""
        state = self.slot_states[slot]
        self.hung_groups.pop((slot, group), None)
        if group == state.group:
            self._group_left(state, now)
            self._dispatch(now)

    def record_failure(self, slot: int, reason: str, *, memory: bool = False) -> None:
        """Note the reason why a group could not be started, or was lost.

        Args:
            memory: whether Ray's memory monitor has killed the group. Its trial goes on with smaller micro-batches,
                which uses up no retry.
        """
        state = self.slot_states[slot]
        queued = state.queued
        if memory and queued is not None and isinstance(queued.job, TrainJob):
            queued.out_of_memory = True
            queued.next_retry_counts = queued.uncounted_retries >= UNCOUNTED_RETRIES
            self.notes.append(
                f"slot {slot}: the machine ran out of memory; trial {queued.job.key} goes on from its checkpoint with "
                "micro-batches of half the size"
            )
        state.setup_failures += 1
        reason = state.setup_reason or reason
        if state.queued is not None and state.queued.last_failure is None:
            state.queued.last_failure = reason
        if state.setup_failures >= SETUP_ATTEMPTS and state.setup_error is None:
            what = f"the workers ended {SETUP_ATTEMPTS} times while they were set up, the last time: {reason}"
            self._set_aside(state, SetupError(reason=what, kind="device"))
        self.touched_slots.add(slot)

    def worker_ready(self, slot: int, group: str, rank: int, now: float) -> None:
        """Note that a worker has built its runner; the slot is warm once all its workers have."""
        state = self.slot_states[slot]
        if group == state.group:
            state.ready.add(rank)
            if state.warm:
                state.setup_failures = 0
                self._dispatch(now)

    def setup_failed(self, slot: int, setup_error: SetupError) -> None:
        """Note that a worker cannot build its runner, and that a further attempt would fail too."""
        state = self.slot_states[slot]
        if state.setup_error is None:
            self._set_aside(state, setup_error)

    def setup_process_failing(self, slot: int, group: str, reason: str) -> None:
        """Note the reason why a worker in setup is about to end its process: another worker may succeed."""
        state = self.slot_states[slot]
        if group == state.group:
            state.setup_reason = reason

    def current(self, slot: int, group: str, last: AttemptName | None) -> Job | None:
        """Return the job that a worker shall begin, if it differs from its ``last`` one; None if there is none."""
        state = self.slot_states[slot]
        if group != state.group or state.queued is None or state.queued.outcome is not None:
            return None
        return None if state.queued.attempt_name == last else state.queued.job

    def report(self, slot: int, group: str, attempt: AttemptName, number: int, report: Report, now: float) -> None:
        """Take a report of rank 0."""
        queued = self.slot_states[slot].addressed_job(group, attempt)
        if queued is None or queued.outcome is not None:
            return
        if report.step > queued.step:
            queued.step = report.step
            queued.retries = 0
        queued.reports.append(ReportEvent(queued.job.attempt, number, report))
        queued.unread_since_s = now if queued.unread_since_s is None else queued.unread_since_s
        self.touched_jobs.add(queued.name)

    def decision(self, slot: int, group: str, attempt: AttemptName, number: int) -> bool | None:
        """Return whether to stop after report ``number``; None if not decided yet.

        All ranks of the attempt get the same answer.
        """
        queued = self.slot_states[slot].addressed_job(group, attempt)
        if queued is None:
            return False  # the attempt is over: the runner finds out at its next step
        if number not in queued.decisions and queued.cancelled is not None:
            queued.decisions[number] = False  # the job is interrupted: as above
        return queued.decisions.get(number)

    def interrupted(self, slot: int, group: str, attempt: AttemptName) -> bool:
        """Return whether the job shall write a checkpoint and end."""
        queued = self.slot_states[slot].addressed_job(group, attempt)
        return queued is None or queued.cancelled is not None

    def end(self, slot: int, group: str, rank: int, attempt: AttemptName, rank_outcome: Outcome, now: float) -> None:
        """Note the end of a job on one rank. Of several failures the first one counts."""
        state = self.slot_states[slot]
        queued = state.addressed_job(group, attempt)
        if queued is None:
            return
        state.rank_outcomes.setdefault(rank, rank_outcome)
        if len(state.rank_outcomes) < state.workers:
            return
        rank_outcomes = list(state.rank_outcomes.values())
        for kind in ("storage", "failed", "interrupted", "stopped"):
            outcome = next((outcome for outcome in rank_outcomes if outcome.kind == kind), None)
            if outcome is not None:
                break
        else:
            outcome = state.rank_outcomes[0]
        self._settle(state, queued, outcome, now)
        state.queued = None
        state.rank_outcomes = {}
        self.touched_slots.add(slot)
        self._dispatch(now)

    def all_ranks_done(self, slot: int, group: str, attempt: AttemptName) -> bool:
        """Return whether the attempt has ended on every rank."""
        return self.slot_states[slot].addressed_job(group, attempt) is None

    def abandon_group(self, slot: int, group: str, attempt: AttemptName, now: float) -> None:
        """End the job with the failure of one rank: the other ranks hang, and the group is about to be replaced."""
        state = self.slot_states[slot]
        if state.addressed_job(group, attempt) is not None:
            self._settle_with_failure_of_a_rank(state, now)

    def worker_failing(self, slot: int, group: str, attempt: AttemptName, reason: str, counts: bool) -> None:
        """Note the reason why a worker is about to end its process; the job goes on from its checkpoint.

        Args:
            counts: whether the next attempt is one of the job's retries.
        """
        queued = self.slot_states[slot].addressed_job(group, attempt)
        if queued is not None:
            queued.last_failure = reason
            queued.next_retry_counts = counts or queued.uncounted_retries >= UNCOUNTED_RETRIES

    # Private

    def _dispatch(self, now: float) -> None:
        for state in self.slot_states:
            while state.idle and self.waiting and not self.closed:
                queued = self.waiting.popleft()
                if self._overdue(queued, now):
                    self._publish(queued, self._too_long(), None, now)
                    continue
                queued.started_s = now if queued.started_s is None else queued.started_s
                queued.running_since_s = now
                state.queued = queued
                if queued.lost_on is not None and isinstance(queued.job, TrainJob):
                    elsewhere = state.node if state.node != queued.lost_on else "new workers"
                    self.notes.append(
                        f"trial {queued.job.key} goes on from its checkpoint on {elsewhere} (slot {state.slot}, "
                        f"attempt {queued.job.attempt})"
                    )
                state.progress_s = dict.fromkeys(range(state.workers), now)
                self.touched_slots.add(state.slot)

    def _overdue(self, queued: QueuedJob, now: float) -> bool:
        limit = self.limits.trial_s
        started = queued.started_s
        return limit is not None and isinstance(queued.job, TrainJob) and started is not None and now - started > limit

    def _too_long(self) -> Outcome:
        return Outcome(kind="failed", reason=f"took longer than {self.limits.trial_s:g} s, the limit for a trial")

    def _cancel(self, state: SlotState, outcome: Outcome, now: float, grace_s: float | None = None) -> None:
        assert state.queued is not None
        if state.queued.cancelled is None:
            state.queued.cancelled = outcome
            state.queued.cancelled_s = now
            state.queued.cancelled_grace_s = self.limits.grace_s if grace_s is None else grace_s
            self.touched_slots.add(state.slot)

    def _silence(self, state: SlotState, now: float) -> str | None:
        """Return why the processes of a slot count as frozen; None if they do not."""
        if state.group is None or state.setup_error is not None or (self.closed and state.queued is None):
            return None
        silence_s = self.limits.stall_s if state.warm else max(self.limits.stall_s, SETUP_SILENCE_S)
        if any(now - beat_s > silence_s for beat_s in state.heartbeats_s.values()):
            return f"no heartbeat for {silence_s:g} s: a process was stopped, or is stuck in one call"
        return None

    def _standstill(self, state: SlotState, now: float) -> str | None:
        """Return why the job of a slot counts as hanging; None if it does not."""
        stall_s, queued = self.limits.stall_s, state.queued
        if queued is None or queued.outcome is not None:
            return None
        working = state.heartbeats_s.keys() - state.rank_outcomes.keys()
        if any(now - state.progress_s[rank] > stall_s for rank in working):
            return f"no sign of life for {stall_s:g} s"
        if queued.cancelled is not None and now - queued.cancelled_s > queued.cancelled_grace_s:
            return f"did not stop within {queued.cancelled_grace_s:g} s"
        return None

    def _replace(self, state: SlotState, reason: str, now: float, kill_s: float) -> None:
        """Take the job from a group that hangs; its processes are to be killed at time ``kill_s``."""
        assert state.group is not None
        queued = state.queued
        job = "" if queued is None else f" in {queued.job.kind} job {queued.job.key}"
        self.notes.append(f"slot {state.slot}{job}: {reason}; its processes are replaced")
        if queued is not None:
            queued.last_failure = reason
        self.hung_groups[state.slot, state.group] = kill_s
        state.hung_groups.add(state.group)
        self._settle_with_failure_of_a_rank(state, now)  # the hanging ranks wait for the failed rank
        self._group_left(state, now, told=True)
        self._dispatch(now)

    def _set_aside(self, state: SlotState, setup_error: SetupError) -> None:
        state.setup_error = setup_error
        if len(self.set_aside()) < len(self.slot_states):
            self.notes.append(f"slot {state.slot} is set aside: {setup_error.reason}")
        self.touched_slots.add(state.slot)
        self.touched_jobs.update(self.queued_jobs)

    def _settle(self, state: SlotState, queued: QueuedJob, outcome: Outcome, now: float) -> None:
        if queued.outcome is None:
            if outcome.kind == "interrupted" and queued.cancelled is not None:
                outcome = queued.cancelled
            self._publish(queued, outcome, state.slot, now)

    def _settle_with_failure_of_a_rank(self, state: SlotState, now: float) -> None:
        """End the job of a slot as failed if it has failed on a rank: the first failure counts."""
        failures = [outcome for outcome in state.rank_outcomes.values() if outcome.kind in ("storage", "failed")]
        if state.queued is not None and failures:
            self._settle(state, state.queued, failures[0], now)

    def _group_left(self, state: SlotState, now: float, *, told: bool = False) -> None:
        """Put the job of a lost group at the front of the queue as a new attempt, or end it as failed.

        Args:
            told: whether a line for the user says already why the group is lost.
        """
        slot = state.slot
        queued = state.detach()
        self.touched_slots.add(slot)
        if queued is None:
            return
        queued.release_slot(now)
        if queued.cancelled is not None:
            self._publish(queued, queued.cancelled, slot, now)
        elif queued.next_retry_counts and queued.retries >= self.limits.retries:
            why = f": {queued.last_failure}" if queued.last_failure else ""
            reason = f"worker lost {queued.retries + 1} times without a further report{why}"
            self._publish(queued, Outcome(kind="failed", reason=reason), slot, now)
        else:
            if queued.next_retry_counts:
                queued.retries += 1
            else:
                queued.uncounted_retries += 1
            queued.next_retry_counts = True
            queued.job = replace(queued.job, attempt=queued.job.attempt + 1)
            if isinstance(queued.job, TrainJob):
                queued.job = replace(queued.job, after_out_of_memory=queued.out_of_memory)
                if not told and not queued.out_of_memory:
                    why = f": {queued.last_failure}" if queued.last_failure else ""
                    on = f" on {state.node}" if state.node else ""
                    self.notes.append(f"trial {queued.job.key}: the workers of slot {slot}{on} are lost{why}")
            queued.lost_on = state.node
            queued.out_of_memory = False
            queued.decisions = {}
            queued.last_failure = None
            self.waiting.appendleft(queued)

    def _publish(self, queued: QueuedJob, outcome: Outcome, slot: int | None, now: float) -> None:
        queued.release_slot(now)
        queued.outcome = replace(outcome, slot=slot, attempt=queued.job.attempt, busy_s=queued.busy_s)
        queued.unread_since_s = now if queued.unread_since_s is None else queued.unread_since_s
        self.touched_jobs.add(queued.name)

    def _touch_holder(self, queued: QueuedJob) -> None:
        self.touched_slots.update(state.slot for state in self.slot_states if state.queued is queued)

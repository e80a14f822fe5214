from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sweeper.execution.job_queue import LAST_WORDS_S, SETUP_ATTEMPTS, SETUP_SILENCE_S, JobLimits, JobQueue
from sweeper.execution.messages import SetupError
from sweeper.jobs import Job, Outcome, TrainJob, UntouchedJob
from trainables.records import Report, TrialResult

RESULT = TrialResult(values={}, points=(), epochs=1, train_s=1.0, evaluation_s=0.0)
DONE = Outcome(kind="complete", result=RESULT)


def job(key: int = 7, attempt: int = 1) -> Job:
    return TrainJob(key=key, attempt=attempt, folder=Path(), parameters={}, seed=0, rungs=())


def report(step: int) -> Report:
    return Report(
        step=step,
        steps=9,
        epoch=step,
        epochs=9,
        progress=step / 9,
        values={},
        train_s=0.0,
        evaluation_s=0.0,
        time_s=0.0,
    )


def ready_queue(slots: int = 1, workers: int = 1, limits: JobLimits | None = None) -> JobQueue:
    queue = JobQueue(slots, workers, limits or JobLimits(trial_s=100.0, grace_s=10.0))
    for slot in range(slots):
        warm(queue, slot, f"group {slot}")
    return queue


def warm(queue: JobQueue, slot: int, group: str, now: float = 0.0) -> None:
    queue.worker_started(slot, group, now)
    for rank in range(queue.slot_states[slot].workers):
        queue.worker_ready(slot, group, rank, now)


def outcome_of(queue: JobQueue, key: int = 7) -> Outcome | None:
    update = queue.update(("train", key), 0)
    return None if update is None else update.outcome


def test_a_job_waits_until_a_slot_is_warm() -> None:
    queue = JobQueue(1, 2, JobLimits())
    queue.enqueue(job(), 0.0)
    queue.worker_started(0, "a", 0.0)
    queue.worker_ready(0, "a", 0, 0.0)
    assert queue.current(0, "a", None) is None, "given out before rank 1 was ready"
    queue.worker_ready(0, "a", 1, 0.0)
    assert queue.current(0, "a", None) == job()
    assert queue.current(0, "a", ("train", 7, 1)) is None, "given out twice"


def test_reports_and_outcome_reach_the_driver_and_can_be_read_again() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    queue.report(0, "group 0", ("train", 7, 1), 0, report(1), 0.0)
    queue.report(0, "group 0", ("train", 7, 1), 1, report(2), 0.0)
    update = queue.update(("train", 7), 1)
    assert update is not None
    assert update.reports == [(1, 1, report(2))]
    assert queue.update(("train", 7), 2) is None
    queue.end(0, "group 0", 0, ("train", 7, 1), DONE, 1.0)
    for _ in range(2):
        outcome = outcome_of(queue)
        assert outcome is not None
        assert (outcome.kind, outcome.slot, outcome.attempt) == ("complete", 0, 1)
    queue.discard(("train", 7))
    queue.enqueue(job(), 2.0)
    assert outcome_of(queue) is None


def test_messages_of_another_attempt_or_group_are_dropped() -> None:
    queue = ready_queue()
    queue.enqueue(job(attempt=3), 0.0)
    queue.report(0, "group 0", ("train", 7, 2), 0, report(1), 0.0)
    queue.report(0, "older group", ("train", 7, 3), 0, report(1), 0.0)
    queue.end(0, "group 0", 0, ("train", 8, 3), DONE, 0.0)
    queue.end(0, "older group", 0, ("train", 7, 3), DONE, 0.0)
    assert queue.update(("train", 7), 0) is None
    assert queue.current(0, "older group", None) is None
    assert queue.interrupted(0, "older group", ("train", 7, 3)), "an old process is not told to stop"


def test_a_slot_takes_a_job_only_after_all_ranks_ended_the_last() -> None:
    queue = ready_queue(workers=2)
    queue.enqueue(job(1), 0.0)
    queue.enqueue(job(2), 0.0)
    queue.end(0, "group 0", 0, ("train", 1, 1), DONE, 1.0)
    assert outcome_of(queue, 1) is None
    assert queue.current(0, "group 0", ("train", 1, 1)) is None
    queue.end(0, "group 0", 1, ("train", 1, 1), Outcome(kind="complete", result=replace(RESULT, epochs=2)), 2.0)
    outcome = outcome_of(queue, 1)
    assert outcome is not None
    assert outcome.result == RESULT, "not what rank 0 returned"
    assert queue.current(0, "group 0", ("train", 1, 1)) == job(2)


def test_a_lost_group_means_another_attempt_on_any_slot() -> None:
    queue = ready_queue(slots=2)
    queue.enqueue(job(), 0.0)
    queue.group_lost(0, "group 0", 1.0)
    assert queue.current(1, "group 1", None) == job(attempt=2)


def test_a_lost_worker_and_the_place_where_its_trial_goes_on_are_told() -> None:
    queue = JobQueue(2, 1, JobLimits())
    for slot, node in enumerate(["n1", "n2"]):
        queue.worker_started(slot, f"group {slot}", 0.0, node)
        queue.worker_ready(slot, f"group {slot}", 0, 0.0)
    queue.enqueue(job(), 0.0)
    queue.record_failure(0, "The node was terminated.")
    queue.group_lost(0, "group 0", 1.0)
    assert queue.notes == [
        "trial 7: the workers of slot 0 on n1 are lost: The node was terminated.",
        "trial 7 goes on from its checkpoint on n2 (slot 1, attempt 2)",
    ]
    queue.notes.clear()
    queue.worker_started(0, "again", 2.0, "n1")
    queue.worker_ready(0, "again", 0, 2.0)
    queue.group_lost(0, "again", 3.0)
    assert queue.notes == [], "no trial was lost"


def test_a_slot_that_is_added_takes_jobs_like_the_others() -> None:
    queue = ready_queue(slots=1)
    queue.enqueue(job(1), 0.0)
    queue.enqueue(job(2), 0.0)
    for _ in range(2):  # the second time the caller has not heard the first answer
        queue.grow_to(2)
    assert len(queue.slot_states) == 2
    assert queue.current(0, "group 0", None) == job(1)
    warm(queue, 1, "group 1")
    assert queue.current(1, "group 1", None) == job(2)


def test_a_new_incarnation_gets_the_present_job_again() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    warm(queue, 0, "second")
    assert queue.current(0, "second", None) == job(attempt=2)


def lose(queue: JobQueue, times: int) -> None:
    for _ in range(times):
        group = queue.slot_states[0].group
        assert group is not None
        queue.record_failure(0, "it was killed")
        queue.group_lost(0, group, 0.0)
        warm(queue, 0, group + "+")


def test_two_further_attempts_without_progress_are_the_last() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    lose(queue, 2)
    assert outcome_of(queue) is None
    lose(queue, 1)
    outcome = outcome_of(queue)
    assert outcome is not None
    assert (outcome.kind, outcome.attempt) == ("failed", 3)
    assert outcome.reason == "worker lost 3 times without a further report: it was killed"


def test_an_epoch_gained_starts_the_count_anew_but_an_epoch_repeated_does_not() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    lose(queue, 2)
    group = queue.slot_states[0].group
    assert group is not None
    queue.report(0, group, ("train", 7, 3), 0, report(1), 0.0)
    lose(queue, 2)
    assert outcome_of(queue) is None
    group = queue.slot_states[0].group
    assert group is not None
    queue.report(0, group, ("train", 7, 5), 0, report(1), 0.0)
    lose(queue, 1)
    outcome = outcome_of(queue)
    assert outcome is not None
    assert (outcome.kind, outcome.attempt) == ("failed", 5)


def test_a_decision_belongs_to_its_attempt() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    assert queue.decision(0, "group 0", ("train", 7, 1), 0) is None
    queue.set_decision(("train", 7), 1, 0, stop=True)
    assert queue.decision(0, "group 0", ("train", 7, 1), 0) is True
    assert queue.decision(0, "group 0", ("train", 7, 1), 1) is None
    warm(queue, 0, "second")
    assert queue.decision(0, "second", ("train", 7, 2), 0) is None
    queue.set_decision(("train", 7), 1, 0, stop=True)
    assert queue.decision(0, "second", ("train", 7, 2), 0) is None


def test_an_interruption_ends_waiting_jobs_and_asks_running_ones() -> None:
    queue = ready_queue()
    queue.enqueue(job(1), 0.0)
    queue.enqueue(job(2), 0.0)
    assert not queue.interrupted(0, "group 0", ("train", 1, 1))
    queue.interrupt(1.0)
    assert queue.interrupted(0, "group 0", ("train", 1, 1))
    waiting = outcome_of(queue, 2)
    assert waiting is not None
    assert waiting.kind == "interrupted"
    assert outcome_of(queue, 1) is None
    queue.end(0, "group 0", 0, ("train", 1, 1), Outcome(kind="interrupted"), 2.0)
    running = outcome_of(queue, 1)
    assert running is not None
    assert running.kind == "interrupted"


def test_a_job_that_gets_done_in_spite_of_the_interruption_is_done() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    queue.interrupt(1.0)
    queue.end(0, "group 0", 0, ("train", 7, 1), DONE, 2.0)
    outcome = outcome_of(queue)
    assert outcome is not None
    assert outcome.kind == "complete"


def test_an_interrupted_job_whose_group_is_lost_is_not_tried_again() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    queue.interrupt(1.0)
    queue.group_lost(0, "group 0", 2.0)
    outcome = outcome_of(queue)
    assert outcome is not None
    assert outcome.kind == "interrupted"


def test_a_slot_is_charged_while_a_job_has_it_over_all_attempts() -> None:
    queue = JobQueue(1, 1, JobLimits())
    queue.enqueue(job(1), 0.0)
    warm(queue, 0, "first", 10.0)
    queue.group_lost(0, "first", 14.0)
    warm(queue, 0, "second", 100.0)
    queue.end(0, "second", 0, ("train", 1, 2), DONE, 103.0)
    queue.enqueue(job(2), 104.0)
    queue.interrupt(105.0)
    queue.tick(1000.0)  # nobody acknowledges it
    queue.enqueue(job(3), 1001.0)
    queue.interrupt(1002.0)
    busy_s = [outcome.busy_s for key in (1, 2, 3) if (outcome := outcome_of(queue, key)) is not None]
    assert busy_s == [4.0 + 3.0, 1000.0 - 104.0, 0.0]


def test_a_trial_over_its_time_is_interrupted_and_failed() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 50.0)
    queue.tick(150.0)
    assert not queue.interrupted(0, "group 0", ("train", 7, 1))
    queue.tick(150.1)
    assert queue.interrupted(0, "group 0", ("train", 7, 1))
    queue.end(0, "group 0", 0, ("train", 7, 1), Outcome(kind="interrupted"), 151.0)
    outcome = outcome_of(queue)
    assert outcome is not None
    assert (outcome.kind, outcome.reason) == ("failed", "took longer than 100 s, the limit for a trial")


def test_the_time_counts_over_attempts_and_without_anybody_to_acknowledge() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    warm(queue, 0, "second")
    queue.tick(101.0)
    assert queue.interrupted(0, "second", ("train", 7, 2))
    queue.tick(120.0)
    outcome = outcome_of(queue)
    assert outcome is not None
    assert outcome.kind == "failed"
    queue.enqueue(job(8), 121.0)
    assert queue.current(0, "second", ("train", 7, 2)) is None, "the slot still has not acknowledged the end"


def test_a_measurement_has_no_time_limit() -> None:
    queue = ready_queue()
    queue.enqueue(UntouchedJob(key=1), 0.0)
    queue.tick(10_000.0)
    assert not queue.interrupted(0, "group 0", ("measure", 1, 1))


def test_the_failure_of_one_rank_counts_once_it_gives_up_on_the_others() -> None:
    queue = ready_queue(workers=2)
    queue.enqueue(job(1), 0.0)
    queue.enqueue(job(2), 0.0)
    failure = Outcome(kind="failed", reason="ValueError: nan")
    queue.end(0, "group 0", 1, ("train", 1, 1), failure, 1.0)
    assert outcome_of(queue, 1) is None
    assert not queue.all_ranks_done(0, "group 0", ("train", 1, 1))
    queue.abandon_group(0, "group 0", ("train", 1, 1), 2.0)
    outcome = outcome_of(queue, 1)
    assert outcome is not None
    assert outcome.reason == "ValueError: nan"
    assert queue.current(0, "group 0", ("train", 1, 1)) is None, "half a group was given a task"
    warm(queue, 0, "second")
    assert queue.current(0, "second", None) == job(2)


def test_ranks_that_hang_because_another_one_failed_are_no_reason_to_try_again() -> None:
    queue = ready_queue(workers=2, limits=JobLimits(stall_s=5.0))
    queue.enqueue(job(), 0.0)
    for now in range(20):
        for rank in (0, 1):
            queue.heartbeat(0, "group 0", rank, ("train", 7, 1), float(now), float(now))
        if now == 1:
            queue.end(0, "group 0", 1, ("train", 7, 1), Outcome(kind="failed", reason="ValueError: nan"), 1.0)
        queue.tick(float(now))
    outcome = outcome_of(queue)
    assert outcome is not None and (outcome.kind, outcome.reason, outcome.attempt) == ("failed", "ValueError: nan", 1)
    warm(queue, 0, "second", 20.0)
    assert queue.current(0, "second", None) is None


def test_a_failure_that_comes_of_a_lost_rank_is_another_attempt() -> None:
    queue = ready_queue(workers=2)
    queue.enqueue(job(), 0.0)
    queue.end(0, "group 0", 0, ("train", 7, 1), Outcome(kind="failed", reason="peer is gone"), 1.0)
    queue.group_lost(0, "group 0", 2.0)
    warm(queue, 0, "second")
    assert queue.current(0, "second", None) == job(attempt=2)


def test_workers_that_never_get_ready_are_refused_after_some_attempts() -> None:
    queue = JobQueue(2, 1, JobLimits())
    for attempt in range(SETUP_ATTEMPTS):
        assert queue.setup_error() is None
        queue.record_failure(0, f"no torch, time {attempt}")
    assert queue.setup_error() is None, "slot 1 may still get warm"
    for _ in range(SETUP_ATTEMPTS):
        queue.record_failure(1, "no torch")
    setup_error = queue.setup_error()
    assert setup_error is not None
    assert setup_error.kind == "device"
    assert "no torch, time 2" in setup_error.reason
    assert queue.notes == ["slot 0 is set aside: " + queue.set_aside()[0].reason]


def test_a_slot_that_cannot_be_set_up_is_set_aside_and_the_others_go_on() -> None:
    queue = ready_queue(slots=2)
    queue.enqueue(job(1), 0.0)
    queue.enqueue(job(2), 0.0)
    for _ in range(SETUP_ATTEMPTS):
        queue.group_lost(0, "group 0", 1.0)
        queue.worker_started(0, "again", 1.0)
        queue.setup_process_failing(0, "again", "OutOfMemoryError: CUDA out of memory")
        queue.group_lost(0, "again", 2.0)
        queue.record_failure(0, "the actor died unexpectedly")
    assert queue.setup_error() is None
    lost, note = queue.notes
    assert lost == "trial 1: the workers of slot 0 are lost"
    assert "slot 0 is set aside" in note and note.endswith("OutOfMemoryError: CUDA out of memory")
    warm(queue, 0, "late")
    assert not queue.slot_states[0].warm, "a slot that was set aside got a job"
    queue.end(1, "group 1", 0, ("train", 2, 1), DONE, 3.0)
    assert queue.current(1, "group 1", ("train", 2, 1)) == job(1, attempt=2)


def test_the_sweep_ends_when_all_slots_fail_and_says_a_reason_once() -> None:
    queue = JobQueue(3, 1, JobLimits())
    error = SetupError(reason="no such folder", kind="input")
    for slot in range(3):
        assert queue.setup_error() is None
        queue.setup_failed(slot, error)
    assert queue.setup_error() == error
    assert len(queue.notes) == 2, "the last slot is no note: the sweep ends with it"


def beat(queue: JobQueue, now: float, *, slot: int = 0, rank: int = 0, idle_s: float = 0.0) -> bool:
    """A heartbeat of the process that the slot has now, about the job that it has."""
    state = queue.slot_states[slot]
    attempt = None if state.queued is None else state.queued.attempt_name
    return queue.heartbeat(slot, state.group or "none", rank, attempt, idle_s, now)


def test_a_process_that_sends_no_heartbeat_is_replaced_and_its_job_goes_on_elsewhere() -> None:
    queue = ready_queue(slots=2, limits=JobLimits(stall_s=30.0))
    queue.enqueue(job(), 0.0)
    for now in range(0, 60, 5):
        beat(queue, now, slot=1)
        if now <= 20:
            beat(queue, now, slot=0)
        queue.tick(now)
        assert (queue.slot_states[0].group is None) == (now > 50), now
    assert queue.current(1, "group 1", None) == job(attempt=2)
    assert queue.groups_to_kill(59.0) == queue.groups_to_kill(60.0) == [(0, "group 0")]
    assert not queue.heartbeat(0, "group 0", 0, ("train", 7, 1), 0.0, 61.0), "it is to end when it wakes up"
    queue.worker_started(0, "group 0", 62.0)
    assert queue.slot_states[0].group is None
    queue.group_lost(0, "group 0", 63.0)
    assert queue.groups_to_kill(64.0) == [], "it is gone"


def test_a_job_without_progress_is_replaced_but_not_while_a_rank_waits_for_the_others() -> None:
    queue = ready_queue(workers=2, limits=JobLimits(stall_s=30.0))
    queue.enqueue(job(), 0.0)
    for rank in (0, 1):
        beat(queue, 0.0, rank=rank)
    queue.end(0, "group 0", 0, ("train", 7, 1), DONE, 1.0)
    for now in (20.0, 40.0, 60.0):
        queue.heartbeat(0, "group 0", 0, None, 0.0, now)
        beat(queue, now, rank=1, idle_s=5.0)
        queue.tick(now)
    assert not queue.hung_groups
    for now in (80.0, 100.0):
        queue.heartbeat(0, "group 0", 0, None, 0.0, now)
        beat(queue, now, rank=1, idle_s=now - 60.0)
        queue.tick(now)
    assert queue.groups_to_kill(100.0) == [], "it could not write down where it hangs"
    assert queue.groups_to_kill(100.0 + LAST_WORDS_S) == [(0, "group 0")]
    assert "no sign of life for 30 s" in queue.notes[0]


def test_a_worker_that_is_being_set_up_may_be_silent_for_longer() -> None:
    queue = JobQueue(1, 1, JobLimits(stall_s=10.0))
    queue.worker_started(0, "a", 0.0)
    beat(queue, 0.0)
    queue.tick(SETUP_SILENCE_S - 1)
    assert not queue.hung_groups
    queue.tick(SETUP_SILENCE_S + 1)
    assert queue.groups_to_kill(SETUP_SILENCE_S + 1) == [(0, "a")]


def test_a_time_in_which_nobody_could_take_heartbeats_does_not_count() -> None:
    queue = ready_queue(limits=JobLimits(stall_s=30.0))
    queue.enqueue(job(), 0.0)
    beat(queue, 0.0)
    queue.forgive(100.0)
    queue.tick(110.0)
    assert not queue.hung_groups


def test_smaller_micro_batches_do_not_use_up_retries() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    for attempt in range(1, 9):
        group = queue.slot_states[0].group
        assert group is not None
        queue.worker_failing(0, group, ("train", 7, attempt), "out of memory", counts=False)
        queue.group_lost(0, group, 0.0)
        warm(queue, 0, group + "+")
    assert outcome_of(queue) is None
    lose(queue, 2)
    assert outcome_of(queue) is None
    lose(queue, 1)
    assert outcome_of(queue) is not None


def test_a_trial_killed_for_memory_goes_on_with_smaller_micro_batches_and_keeps_its_retries() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    for kills in range(1, 5):
        group = queue.slot_states[0].group
        assert group is not None
        queue.record_failure(0, "the node is low on memory", memory=True)
        queue.group_lost(0, group, 0.0)
        warm(queue, 0, group + "+")
        assert queue.current(0, group + "+", None) == replace(job(attempt=1 + kills), after_out_of_memory=True)
    assert "trial 7 goes on from its checkpoint with micro-batches of half the size" in queue.notes[0]
    lose(queue, 1)
    group = queue.slot_states[0].group
    assert group is not None and queue.current(0, group, None) == job(attempt=6), "killed for another reason"
    lose(queue, 2)
    assert outcome_of(queue) is not None


def test_all_ranks_get_the_same_decision_when_an_interruption_comes_between() -> None:
    queue = ready_queue(workers=2)
    queue.enqueue(job(), 0.0)
    attempt = ("train", 7, 1)
    queue.set_decision(("train", 7), 1, 0, stop=True)
    first = queue.decision(0, "group 0", attempt, 0)
    queue.interrupt(1.0)
    assert queue.decision(0, "group 0", attempt, 0) is first is True
    assert queue.decision(0, "group 0", attempt, 1) is False
    queue.set_decision(("train", 7), 1, 1, stop=True)
    assert queue.decision(0, "group 0", attempt, 1) is False


def test_a_follower_that_takes_no_news_hangs() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    queue.read(("train", 7), 0, 0.0)
    assert queue.hung_followers(1000.0) == [], "there is no news"
    queue.report(0, "group 0", ("train", 7, 1), 0, report(1), 1000.0)
    assert queue.hung_followers(1050.0) == []
    assert queue.hung_followers(1061.0) == [("train", 7)]
    assert queue.hung_followers(1062.0) == []
    queue.read(("train", 7), 1, 1063.0)
    assert queue.hung_followers(2000.0) == []


def test_a_storage_error_counts_before_the_failures_that_come_of_it() -> None:
    queue = ready_queue(workers=2)
    queue.enqueue(job(), 0.0)
    queue.end(0, "group 0", 1, ("train", 7, 1), Outcome(kind="failed", reason="peer is gone"), 1.0)
    queue.end(0, "group 0", 0, ("train", 7, 1), Outcome(kind="storage", reason="disk full"), 1.0)
    outcome = outcome_of(queue)
    assert outcome is not None and (outcome.kind, outcome.reason) == ("storage", "disk full")


def test_a_closed_queue_takes_nothing_more() -> None:
    queue = ready_queue()
    queue.close(0.0)
    queue.enqueue(job(), 1.0)
    outcome = outcome_of(queue)
    assert outcome is not None
    assert outcome.kind == "interrupted"


def test_the_same_job_twice_is_a_mistake() -> None:
    queue = ready_queue()
    queue.enqueue(job(), 0.0)
    with pytest.raises(AssertionError):
        queue.enqueue(job(), 1.0)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: no job is lost, done by two slots at once, or ended twice."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = JobQueue(3, 1, JobLimits(retries=2))
        self.enqueued = 0
        self.groups = 0
        self.ended: dict[int, Outcome] = {}

    def slot(self, number: int) -> tuple[int, str]:
        return number, self.queue.slot_states[number].group or "none"

    @rule()
    def enqueue(self) -> None:
        self.queue.enqueue(job(self.enqueued), 0.0)
        self.enqueued += 1

    @rule(number=st.integers(0, 2))
    def start_group(self, number: int) -> None:
        self.groups += 1
        warm(self.queue, number, str(self.groups))

    @rule(number=st.integers(0, 2))
    def lose_group(self, number: int) -> None:
        self.queue.group_lost(*self.slot(number), 0.0)

    @rule(number=st.integers(0, 2), epoch=st.integers(1, 3))
    def send_report(self, number: int, epoch: int) -> None:
        given = self.queue.current(*self.slot(number), None)
        if given is not None:
            self.queue.report(*self.slot(number), given.attempt_name, 0, report(epoch), 0.0)

    @rule(number=st.integers(0, 2), rank_outcome=st.sampled_from(["complete", "failed", "stopped"]))
    def end(self, number: int, rank_outcome: Any) -> None:
        given = self.queue.current(*self.slot(number), None)
        if given is not None:
            attempt = given.attempt_name
            self.queue.end(*self.slot(number), 0, attempt, Outcome(kind=rank_outcome), 0.0)
            self.queue.end(*self.slot(number), 0, attempt, DONE, 0.0)

    @precondition(lambda self: self.enqueued > 0)
    @rule()
    def interrupt(self) -> None:
        self.queue.interrupt(0.0)

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        running = [
            state.queued.job.key for state in self.queue.slot_states if state.queued and not state.queued.outcome
        ]
        waiting = [queued.job.key for queued in self.queue.waiting]
        for key in range(self.enqueued):
            outcome = outcome_of(self.queue, key)
            places = running.count(key) + waiting.count(key) + (outcome is not None)
            assert places == 1, (key, running, waiting, outcome)
            assert self.ended.setdefault(key, outcome) == outcome if outcome is not None else key not in self.ended

    @invariant()
    def nothing_waits_beside_an_idle_slot(self) -> None:
        assert not (self.queue.waiting and any(state.idle for state in self.queue.slot_states))


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_order = AnyOrder.TestCase


def test_a_worker_that_hangs_before_it_says_that_it_runs_is_noticed() -> None:
    queue = JobQueue(2, 2, JobLimits(stall_s=9.0))
    for slot in (0, 1):
        queue.group_starting(slot, 10.0)
    for slot, ranks in ((0, (0, 1)), (1, (0,))):
        for rank in ranks:
            queue.worker_started(slot, f"g{slot}", 12.0)
            queue.heartbeat(slot, f"g{slot}", rank, None, 0.0, 12.0)
    assert queue.unstarted_slots(10.0 + SETUP_SILENCE_S) == []
    assert queue.unstarted_slots(11.0 + SETUP_SILENCE_S) == [1], "one of its two workers never came"
    queue.forgive(50.0)
    assert queue.unstarted_slots(11.0 + SETUP_SILENCE_S) == []
    queue.group_starting(1, 200.0)
    assert queue.unstarted_slots(201.0) == []
    slow = JobQueue(1, 1, JobLimits(stall_s=1800.0))
    slow.group_starting(0, 0.0)
    assert slow.unstarted_slots(1800.0) == [] and slow.unstarted_slots(1801.0) == [0]

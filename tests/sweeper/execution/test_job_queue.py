from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sweeper.execution.job_queue import SETUP_ATTEMPTS, JobLimits, JobQueue, SetupError
from sweeper.records import Outcome, Task

DONE = Outcome(kind="complete", result={"value": 1})


def task(key: int = 7, attempt: int = 1, **payload: Any) -> Task:
    return Task(kind="train", key=key, attempt=attempt, payload=payload)


def warm_room(slots: int = 1, workers: int = 1, limits: JobLimits | None = None) -> JobQueue:
    room = JobQueue(slots, workers, limits or JobLimits(trial_s=100.0, grace_s=10.0))
    for slot in range(slots):
        warm(room, slot, f"group {slot}")
    return room


def warm(room: JobQueue, slot: int, group: str, now: float = 0.0) -> None:
    room.join(slot, group, now)
    for rank in range(room.boxes[slot].workers):
        room.set_up(slot, group, rank, now)


def outcome_of(room: JobQueue, key: int = 7) -> Outcome | None:
    news = room.news(("train", key), 0)
    return None if news is None else news[1]


def test_a_task_waits_until_a_slot_is_warm() -> None:
    room = JobQueue(1, 2, JobLimits())
    room.offer(task(), 0.0)
    room.join(0, "a", 0.0)
    room.set_up(0, "a", 0, 0.0)
    assert room.current(0, "a", None) is None, "given out before rank 1 was ready"
    room.set_up(0, "a", 1, 0.0)
    assert room.current(0, "a", None) == task()
    assert room.current(0, "a", ("train", 7, 1)) is None, "given out twice"


def test_reports_and_outcome_reach_the_driver_and_can_be_read_again() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    room.report(0, "group 0", ("train", 7, 1), 0, {"step": 1})
    room.report(0, "group 0", ("train", 7, 1), 1, {"step": 2})
    news = room.news(("train", 7), 1)
    assert news is not None
    assert [tuple(note) for note in news[0]] == [(1, 1, {"step": 2})]
    assert room.news(("train", 7), 2) is None
    room.end(0, "group 0", 0, ("train", 7, 1), DONE, 1.0)
    for _ in range(2):
        outcome = outcome_of(room)
        assert outcome is not None
        assert (outcome.kind, outcome.slot, outcome.attempt) == ("complete", 0, 1)
    room.forget(("train", 7))
    room.offer(task(), 2.0)
    assert outcome_of(room) is None


def test_messages_of_another_attempt_or_group_are_dropped() -> None:
    room = warm_room()
    room.offer(task(attempt=3), 0.0)
    room.report(0, "group 0", ("train", 7, 2), 0, {"step": 1})
    room.report(0, "older group", ("train", 7, 3), 0, {"step": 1})
    room.end(0, "group 0", 0, ("train", 8, 3), DONE, 0.0)
    room.end(0, "older group", 0, ("train", 7, 3), DONE, 0.0)
    assert room.news(("train", 7), 0) is None
    assert room.current(0, "older group", None) is None
    assert room.interrupted(0, "older group", ("train", 7, 3)), "an old process is not told to stop"


def test_a_slot_takes_a_task_only_after_all_ranks_ended_the_last() -> None:
    room = warm_room(workers=2)
    room.offer(task(1), 0.0)
    room.offer(task(2), 0.0)
    room.end(0, "group 0", 0, ("train", 1, 1), DONE, 1.0)
    assert outcome_of(room, 1) is None
    assert room.current(0, "group 0", ("train", 1, 1)) is None
    room.end(0, "group 0", 1, ("train", 1, 1), Outcome(kind="complete", result={"rank": 1}), 2.0)
    outcome = outcome_of(room, 1)
    assert outcome is not None
    assert outcome.result == {"value": 1}, "not what rank 0 returned"
    assert room.current(0, "group 0", ("train", 1, 1)) == task(2)


def test_a_lost_group_means_another_attempt_on_any_slot() -> None:
    room = warm_room(slots=2)
    room.offer(task(), 0.0)
    room.gone(0, "group 0", 1.0)
    assert room.current(1, "group 1", None) == task(attempt=2)


def test_a_new_incarnation_gets_the_present_task_again() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    warm(room, 0, "second")
    assert room.current(0, "second", None) == task(attempt=2)


def lose(room: JobQueue, times: int) -> None:
    for _ in range(times):
        group = room.boxes[0].group
        assert group is not None
        room.trouble(0, "it was killed")
        room.gone(0, group, 0.0)
        warm(room, 0, group + "+")


def test_two_further_attempts_without_progress_are_the_last() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    lose(room, 2)
    assert outcome_of(room) is None
    lose(room, 1)
    outcome = outcome_of(room)
    assert outcome is not None
    assert (outcome.kind, outcome.attempt) == ("failed", 3)
    assert outcome.reason == "worker lost 3 times without a further report: it was killed"


def test_an_epoch_gained_starts_the_count_anew_but_an_epoch_repeated_does_not() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    lose(room, 2)
    group = room.boxes[0].group
    assert group is not None
    room.report(0, group, ("train", 7, 3), 0, {"step": 1})
    lose(room, 2)
    assert outcome_of(room) is None
    group = room.boxes[0].group
    assert group is not None
    room.report(0, group, ("train", 7, 5), 0, {"step": 1})
    lose(room, 1)
    outcome = outcome_of(room)
    assert outcome is not None
    assert (outcome.kind, outcome.attempt) == ("failed", 5)


def test_a_verdict_belongs_to_its_attempt() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    assert room.verdict(0, "group 0", ("train", 7, 1), 0) is None
    room.judge(("train", 7), 1, 0, stop=True)
    assert room.verdict(0, "group 0", ("train", 7, 1), 0) is True
    assert room.verdict(0, "group 0", ("train", 7, 1), 1) is None
    warm(room, 0, "second")
    assert room.verdict(0, "second", ("train", 7, 2), 0) is None
    room.judge(("train", 7), 1, 0, stop=True)
    assert room.verdict(0, "second", ("train", 7, 2), 0) is None


def test_an_interruption_ends_waiting_tasks_and_asks_running_ones() -> None:
    room = warm_room()
    room.offer(task(1), 0.0)
    room.offer(task(2), 0.0)
    assert not room.interrupted(0, "group 0", ("train", 1, 1))
    room.interrupt(1.0)
    assert room.interrupted(0, "group 0", ("train", 1, 1))
    waiting = outcome_of(room, 2)
    assert waiting is not None
    assert waiting.kind == "interrupted"
    assert outcome_of(room, 1) is None
    room.end(0, "group 0", 0, ("train", 1, 1), Outcome(kind="interrupted"), 2.0)
    running = outcome_of(room, 1)
    assert running is not None
    assert running.kind == "interrupted"


def test_a_task_that_gets_done_in_spite_of_the_interruption_is_done() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    room.interrupt(1.0)
    room.end(0, "group 0", 0, ("train", 7, 1), DONE, 2.0)
    outcome = outcome_of(room)
    assert outcome is not None
    assert outcome.kind == "complete"


def test_an_interrupted_task_whose_group_is_lost_is_not_tried_again() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    room.interrupt(1.0)
    room.gone(0, "group 0", 2.0)
    outcome = outcome_of(room)
    assert outcome is not None
    assert outcome.kind == "interrupted"


def test_a_slot_is_charged_while_a_task_has_it_over_all_attempts() -> None:
    room = JobQueue(1, 1, JobLimits())
    room.offer(task(1), 0.0)
    warm(room, 0, "first", 10.0)
    room.gone(0, "first", 14.0)
    warm(room, 0, "second", 100.0)
    room.end(0, "second", 0, ("train", 1, 2), DONE, 103.0)
    room.offer(task(2), 104.0)
    room.interrupt(105.0)
    room.tick(1000.0)  # nobody acknowledges it
    room.offer(task(3), 1001.0)
    room.interrupt(1002.0)
    busy_s = [outcome.busy_s for key in (1, 2, 3) if (outcome := outcome_of(room, key)) is not None]
    assert busy_s == [4.0 + 3.0, 1000.0 - 104.0, 0.0]


def test_a_trial_over_its_time_is_interrupted_and_failed() -> None:
    room = warm_room()
    room.offer(task(), 50.0)
    room.tick(150.0)
    assert not room.interrupted(0, "group 0", ("train", 7, 1))
    room.tick(150.1)
    assert room.interrupted(0, "group 0", ("train", 7, 1))
    room.end(0, "group 0", 0, ("train", 7, 1), Outcome(kind="interrupted"), 151.0)
    outcome = outcome_of(room)
    assert outcome is not None
    assert (outcome.kind, outcome.reason) == ("failed", "took longer than 100 s, the limit for a trial")


def test_the_time_counts_over_attempts_and_without_anybody_to_acknowledge() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    warm(room, 0, "second")
    room.tick(101.0)
    assert room.interrupted(0, "second", ("train", 7, 2))
    room.tick(120.0)
    outcome = outcome_of(room)
    assert outcome is not None
    assert outcome.kind == "failed"
    room.offer(task(8), 121.0)
    assert room.current(0, "second", ("train", 7, 2)) is None, "the slot still has not acknowledged the end"


def test_a_measurement_has_no_time_limit() -> None:
    room = warm_room()
    room.offer(Task(kind="measure", key=1, attempt=1, payload={}), 0.0)
    room.tick(10_000.0)
    assert not room.interrupted(0, "group 0", ("measure", 1, 1))


def test_the_failure_of_one_rank_counts_once_it_gives_up_on_the_others() -> None:
    room = warm_room(workers=2)
    room.offer(task(1), 0.0)
    room.offer(task(2), 0.0)
    failure = Outcome(kind="failed", reason="ValueError: nan")
    room.end(0, "group 0", 1, ("train", 1, 1), failure, 1.0)
    assert outcome_of(room, 1) is None
    assert not room.settled(0, "group 0", ("train", 1, 1))
    room.give_up(0, "group 0", ("train", 1, 1), 2.0)
    outcome = outcome_of(room, 1)
    assert outcome is not None
    assert outcome.reason == "ValueError: nan"
    assert room.current(0, "group 0", ("train", 1, 1)) is None, "half a group was given a task"
    warm(room, 0, "second")
    assert room.current(0, "second", None) == task(2)


def test_a_failure_that_comes_of_a_lost_rank_is_another_attempt() -> None:
    room = warm_room(workers=2)
    room.offer(task(), 0.0)
    room.end(0, "group 0", 0, ("train", 7, 1), Outcome(kind="failed", reason="peer is gone"), 1.0)
    room.gone(0, "group 0", 2.0)
    warm(room, 0, "second")
    assert room.current(0, "second", None) == task(attempt=2)


def test_workers_that_never_get_ready_are_refused_after_some_attempts() -> None:
    room = JobQueue(2, 1, JobLimits())
    for attempt in range(SETUP_ATTEMPTS):
        assert room.refusal() is None
        room.trouble(0, f"no torch, time {attempt}")
    assert room.refusal() is None, "slot 1 may still get warm"
    for _ in range(SETUP_ATTEMPTS):
        room.trouble(1, "no torch")
    refusal = room.refusal()
    assert refusal is not None
    assert not refusal.user
    assert "no torch, time 2" in refusal.reason


def test_one_runner_that_cannot_be_built_is_enough() -> None:
    room = JobQueue(2, 1, JobLimits())
    room.refuse(1, SetupError(reason="no such folder", user=True))
    assert room.refusal() == SetupError(reason="no such folder", user=True)


def test_a_closed_room_takes_nothing_more() -> None:
    room = warm_room()
    room.close(0.0)
    room.offer(task(), 1.0)
    outcome = outcome_of(room)
    assert outcome is not None
    assert outcome.kind == "interrupted"


def test_the_same_task_twice_is_a_mistake() -> None:
    room = warm_room()
    room.offer(task(), 0.0)
    with pytest.raises(AssertionError):
        room.offer(task(), 1.0)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: no task is lost, done by two slots at once, or ended twice."""

    def __init__(self) -> None:
        super().__init__()
        self.room = JobQueue(3, 1, JobLimits(retries=2))
        self.offered = 0
        self.groups = 0
        self.ended: dict[int, Outcome] = {}

    def slot(self, number: int) -> tuple[int, str]:
        return number, self.room.boxes[number].group or "none"

    @rule()
    def offer(self) -> None:
        self.room.offer(task(self.offered), 0.0)
        self.offered += 1

    @rule(number=st.integers(0, 2))
    def start_group(self, number: int) -> None:
        self.groups += 1
        warm(self.room, number, str(self.groups))

    @rule(number=st.integers(0, 2))
    def lose_group(self, number: int) -> None:
        self.room.gone(*self.slot(number), 0.0)

    @rule(number=st.integers(0, 2), epoch=st.integers(1, 3))
    def report(self, number: int, epoch: int) -> None:
        given = self.room.current(*self.slot(number), None)
        if given is not None:
            self.room.report(*self.slot(number), (given.kind, given.key, given.attempt), 0, {"step": epoch})

    @rule(number=st.integers(0, 2), ending=st.sampled_from(["complete", "failed", "stopped"]))
    def end(self, number: int, ending: Any) -> None:
        given = self.room.current(*self.slot(number), None)
        if given is not None:
            attempt = (given.kind, given.key, given.attempt)
            self.room.end(*self.slot(number), 0, attempt, Outcome(kind=ending), 0.0)
            self.room.end(*self.slot(number), 0, attempt, DONE, 0.0)

    @precondition(lambda self: self.offered > 0)
    @rule()
    def interrupt(self) -> None:
        self.room.interrupt(0.0)

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        running = [box.ticket.task.key for box in self.room.boxes if box.ticket and not box.ticket.outcome]
        waiting = [ticket.task.key for ticket in self.room.queue]
        for key in range(self.offered):
            outcome = outcome_of(self.room, key)
            places = running.count(key) + waiting.count(key) + (outcome is not None)
            assert places == 1, (key, running, waiting, outcome)
            assert self.ended.setdefault(key, outcome) == outcome if outcome is not None else key not in self.ended

    @invariant()
    def nothing_waits_beside_an_idle_slot(self) -> None:
        assert not (self.room.queue and any(box.idle for box in self.room.boxes))


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_order = AnyOrder.TestCase

"""The front: decided on validation, floors and the untouched model respected, names, PAINT, picks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import UserError
from sweeper.front.build import LiveFront, build_front, merged
from sweeper.front.pick import pick
from sweeper.records import Front, Point, TrialRecord
from sweeper.spec.sections import Goals

UNTOUCHED = {"validation": {"clean_accuracy": 0.90, "robust_accuracy": 0.30}, "chance": 0.05}


def trial(
    number: int, *points: tuple[float, float], baseline: str | None = None, state: str = "complete"
) -> TrialRecord:
    """The first point is the told one (strength 1), the next have strengths 0.5, 0.25, ..."""
    made = [
        Point(weights="last", strength=0.5**i, values={"clean_accuracy": clean, "robust_accuracy": robust})
        for i, (clean, robust) in enumerate(points)
    ]
    return TrialRecord(
        number=number,
        state=state,  # type: ignore[arg-type]
        parameters={"objective": "dpo", "tune": "visual"},
        seed=number,
        points=tuple(made) if state == "complete" else (),
        baseline=baseline,
    )


def front(*trials: TrialRecord, goals: Goals | None = None, tests: dict[Any, Any] | None = None) -> Front:
    return build_front(
        "demo", trials, goals=goals or Goals(), untouched=UNTOUCHED, tests=tests or {}, planned=len(trials)
    )


def members(found: Front) -> list[tuple[int | None, float]]:
    return [(point.trial, point.strength) for point in found.points if point.member]


def test_members_are_non_dominated_and_ordered_by_falling_clean_accuracy() -> None:
    found = front(trial(0, (0.80, 0.60), (0.88, 0.45)), trial(1, (0.85, 0.55)), trial(2, (0.79, 0.59)))
    assert members(found) == [(0, 0.5), (1, 1.0), (0, 1.0)]
    assert [point.name for point in found.points] == ["cleanest", "knee", "most robust", "untouched"]
    assert [(point.trial, point.strength) for point in found.others] == [(2, 1.0)]


_COARSE = st.integers(0, 6).map(lambda n: n / 6)  # so that points are equal now and then


@given(
    st.lists(st.lists(st.tuples(_COARSE, _COARSE), max_size=3), min_size=1, max_size=8),
    st.integers(0, 8),
    st.randoms(use_true_random=False),
)
def test_a_live_front_is_the_front_of_all_trials_that_ended(
    values: list[list[tuple[float, float]]], before: int, random: Any
) -> None:
    records = [
        trial(number, *points, baseline="paint" if number == 0 else None, state="complete" if points else "failed")
        for number, points in enumerate(values)
    ]
    random.shuffle(records)
    ended, later = sorted(records[:before], key=lambda record: record.number), records[before:]
    live = LiveFront(lambda trials: front(*trials), ended)
    for record in later:
        ended = sorted([*ended, record], key=lambda record: record.number)
        whole = front(*ended)
        assert replace(live.ended(record), trials=len(ended)) == replace(whole, others=())


def test_a_point_no_better_than_the_untouched_model_is_no_member() -> None:
    assert members(front(trial(0, (0.89, 0.30)), trial(1, (0.85, 0.29)), trial(2, (0.88, 0.31)))) == [(2, 1.0)]


def test_a_point_below_a_floor_is_drawn_but_never_a_member() -> None:
    goals = Goals.model_validate({"clean_accuracy": {"floor": "untouched - 0.05"}})
    found = front(trial(0, (0.84, 0.70)), trial(1, (0.86, 0.50)), goals=goals)
    assert members(found) == [(1, 1.0)]
    assert [point.trial for point in found.others] == [0]
    assert found.reference_point == pytest.approx((0.85, 0.30))
    assert found.hypervolume == pytest.approx(0.01 * 0.20)


def test_hypervolume_counts_from_chance_where_no_floor_is_set() -> None:
    found = front(trial(0, (0.80, 0.60)))
    assert found.reference_point == (0.05, 0.30)
    assert found.hypervolume == pytest.approx(0.75 * 0.30)


def test_unfinished_and_failed_trials_have_no_points() -> None:
    found = front(trial(0, (0.9, 0.9), state="failed"), trial(1, (0.8, 0.5)), trial(2, (1.0, 1.0), state="running"))
    assert members(found) == [(1, 1.0)]
    assert (found.finished, found.trials) == (2, 3)


def test_paint_is_shown_at_its_best_alpha_even_where_it_is_dominated() -> None:
    found = front(trial(0, (0.60, 0.40), (0.75, 0.38), baseline="paint"), trial(1, (0.85, 0.60)))
    paint = next(point for point in found.points if point.name == "paint")
    assert (paint.trial, paint.strength, paint.member) == (0, 0.5, False)
    assert members(found) == [(1, 1.0)]
    assert all(point.trial != 0 or point.strength != 0.5 for point in found.others), "it is drawn once"


def test_paint_on_the_front_is_one_row() -> None:
    found = front(trial(0, (0.70, 0.90), baseline="paint"), trial(1, (0.89, 0.40)), trial(2, (0.60, 0.95)))
    named = [(point.trial, point.name, point.member) for point in found.points if point.trial == 0]
    assert named in ([(0, "paint", True)], [(0, "knee", True), (0, "paint", False)])


def test_test_values_are_added_and_change_no_decision() -> None:
    good = {"values": {"clean_accuracy": 0.1, "robust_accuracy": 0.1}, "intervals": {"clean_accuracy": [0.0, 0.2]}}
    found = front(
        trial(0, (0.80, 0.60)), trial(1, (0.79, 0.59)), tests={(0, "last", 1.0): good, (1, "last", 1.0): good}
    )
    assert members(found) == [(0, 1.0)]
    assert found.points[0].values == good["values"] and found.points[0].intervals == {"clean_accuracy": (0.0, 0.2)}


# Training flushes denormals to zero for its process; hypothesis refuses to draw them then.
accuracies = st.floats(0, 1, allow_subnormal=False)
pairs = st.tuples(accuracies, accuracies)


@given(st.lists(st.lists(pairs, min_size=1, max_size=4), max_size=6))
def test_every_point_is_a_member_or_beaten(points: list[list[tuple[float, float]]]) -> None:
    found = front(*(trial(i, *own) for i, own in enumerate(points)))
    kept = [(p.validation["clean_accuracy"], p.validation["robust_accuracy"]) for p in found.points if p.member]
    assert len(set(kept)) == len(kept)
    rivals = [*kept, (0.90, 0.30)]
    for clean, robust in [pair for own in points for pair in own]:
        assert (clean, robust) in kept or any(c >= clean and r >= robust for c, r in rivals)
    for one in kept:
        assert not any(c >= one[0] and r >= one[1] for c, r in rivals if (c, r) != one)


def test_picks() -> None:
    found = front(trial(0, (0.80, 0.60), (0.88, 0.45)), trial(1, (0.85, 0.55)), trial(2, (0.79, 0.59)))
    assert pick(found, "knee").trial == 1
    assert pick(found, "most robust").trial == 0 and pick(found, "most-robust").strength == 1.0
    assert (pick(found, "2").trial, pick(found, "2").member) == (2, False)
    assert pick(found, "max robust_accuracy where clean_accuracy>=0.86").strength == 0.5
    assert pick(found, "max clean_accuracy").validation["clean_accuracy"] == 0.88
    moved = pick(found, "knee", strength=0.7)
    assert (moved.trial, moved.strength, moved.values) == (1, 0.7, None)
    assert pick(found, "0", strength=0.5).validation["clean_accuracy"] == 0.88, "a measured strength keeps its values"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("9", "trial 9 has no finished weights"),
        ("elbow", "knee, most robust"),
        ("max speed", "'speed' is no goal"),
        ("max robust_accuracy where clean_accuracy>=0.99", "the highest is 0.8800"),
        ("untouched", "no such point"),
    ],
)
def test_picks_that_are_not_there(choice: str, message: str) -> None:
    found = front(trial(0, (0.80, 0.60), (0.88, 0.45)))
    with pytest.raises(UserError, match=message):
        pick(found, choice)


def test_fronts_of_several_sweeps_are_one_front_of_all_their_points() -> None:
    first = front(trial(0, (0.80, 0.60)), trial(1, (0.88, 0.40)), trial(2, (0.70, 0.35), baseline="paint"))
    second = replace(front(trial(0, (0.85, 0.65)), trial(1, (0.60, 0.70))), sweep="other")
    both = merged([first, second])
    found = [(point.sweep, point.trial) for point in both.points if point.member]
    assert found == [(first.sweep, 1), ("other", 0), ("other", 1)]
    assert [point.name for point in both.points] == ["cleanest", "knee", "most robust", "untouched", "paint"]
    assert (first.sweep, 0) in {(point.sweep, point.trial) for point in both.others}
    alone = front(trial(0, (0.88, 0.40)), trial(1, (0.85, 0.65)), trial(2, (0.60, 0.70)))
    assert both.hypervolume == pytest.approx(alone.hypervolume)
    assert (both.finished, both.trials) == (first.finished + second.finished, first.trials + second.trials)

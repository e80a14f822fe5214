"""The front: decided on validation, floors and the untouched model respected, names, PAINT, picks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import UserError
from sweeper.front.build import LiveFront, merged
from sweeper.front.pick import pick
from sweeper.records import Front, PointName, TrialRecord
from sweeper.spec.bounds import Bounds
from tests.helpers.fronts import front_of_trials, members_of
from tests.helpers.goals import floors
from trainables.records import Measurement, Point


def trial(
    number: int, *points: tuple[float, float], baseline: str | None = None, state: str = "complete"
) -> TrialRecord:
    """The first point has strength 1 (reported to the study), the next have strengths 0.5, 0.25, ..."""
    trial_points = [
        Point(weights="last", strength=0.5**i, values={"clean_accuracy": clean, "robust_accuracy": robust})
        for i, (clean, robust) in enumerate(points)
    ]
    return TrialRecord(
        number=number,
        state=state,  # type: ignore[arg-type]
        parameters={"objective": "dpo", "tune": "visual"},
        seed=number,
        points=tuple(trial_points) if state == "complete" else (),
        baseline=baseline,
    )


def front(*trials: TrialRecord, bounds: Bounds = (), measurements: dict[PointName, Measurement] | None = None) -> Front:
    return front_of_trials(trials, bounds=bounds, measurements=measurements or {})


def test_members_are_non_dominated_and_ordered_by_falling_clean_accuracy() -> None:
    shown = front(trial(0, (0.80, 0.60), (0.88, 0.45)), trial(1, (0.85, 0.55)), trial(2, (0.79, 0.59)))
    assert members_of(shown) == [(0, 0.5), (1, 1.0), (0, 1.0)]
    assert [point.name for point in shown.points] == ["cleanest", "knee", "most robust", "untouched"]
    assert [(point.trial, point.strength) for point in shown.others] == [(2, 1.0)]


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
    assert members_of(front(trial(0, (0.89, 0.30)), trial(1, (0.85, 0.29)), trial(2, (0.88, 0.31)))) == [(2, 1.0)]


def test_a_point_below_a_floor_is_drawn_but_never_a_member() -> None:
    bounds = floors(clean_accuracy=0.90 - 0.05)
    shown = front(trial(0, (0.84, 0.70)), trial(1, (0.86, 0.50)), bounds=bounds)
    assert members_of(shown) == [(1, 1.0)]
    assert [point.trial for point in shown.others] == [0]
    assert shown.reference_point == pytest.approx((0.85, 0.30))
    assert shown.hypervolume == pytest.approx(0.01 * 0.20)


def test_hypervolume_counts_from_chance_where_no_floor_is_set() -> None:
    shown = front(trial(0, (0.80, 0.60)))
    assert shown.reference_point == (0.05, 0.30)
    assert shown.hypervolume == pytest.approx(0.75 * 0.30)


def test_unfinished_and_failed_trials_have_no_points() -> None:
    shown = front(trial(0, (0.9, 0.9), state="failed"), trial(1, (0.8, 0.5)), trial(2, (1.0, 1.0), state="running"))
    assert members_of(shown) == [(1, 1.0)]
    assert (shown.finished, shown.trials) == (2, 3)


def test_paint_is_shown_at_its_best_alpha_even_where_it_is_dominated() -> None:
    shown = front(trial(0, (0.60, 0.40), (0.75, 0.38), baseline="paint"), trial(1, (0.85, 0.60)))
    paint = next(point for point in shown.points if point.name == "paint")
    assert (paint.trial, paint.strength, paint.member) == (0, 0.5, False)
    assert members_of(shown) == [(1, 1.0)]
    assert all(point.trial != 0 or point.strength != 0.5 for point in shown.others), "it is drawn once"


def test_paint_on_the_front_is_one_row() -> None:
    shown = front(trial(0, (0.70, 0.90), baseline="paint"), trial(1, (0.89, 0.40)), trial(2, (0.60, 0.95)))
    named = [(point.trial, point.name, point.member) for point in shown.points if point.trial == 0]
    assert named in ([(0, "paint", True)], [(0, "knee", True), (0, "paint", False)])


def test_test_values_are_added_and_change_no_decision() -> None:
    measured = Measurement(
        values={"clean_accuracy": 0.1, "robust_accuracy": 0.1}, intervals={"clean_accuracy": (0.0, 0.2)}, images=10
    )
    shown = front(
        trial(0, (0.80, 0.60)),
        trial(1, (0.79, 0.59)),
        measurements={(0, "last", 1.0): measured, (1, "last", 1.0): measured},
    )
    assert members_of(shown) == [(0, 1.0)]
    assert shown.points[0].values == measured.values and shown.points[0].intervals == {"clean_accuracy": (0.0, 0.2)}


# Training flushes denormals to zero for its process; hypothesis refuses to draw them then.
accuracies = st.floats(0, 1, allow_subnormal=False)
pairs = st.tuples(accuracies, accuracies)


@given(st.lists(st.lists(pairs, min_size=1, max_size=4), max_size=6))
def test_every_point_is_a_member_or_beaten(points: list[list[tuple[float, float]]]) -> None:
    shown = front(*(trial(i, *of_trial) for i, of_trial in enumerate(points)))
    kept = [shown.at(point) for point in shown.points if point.member]
    assert len(set(kept)) == len(kept)
    rivals = [*kept, (0.90, 0.30)]
    for clean, robust in [pair for of_trial in points for pair in of_trial]:
        assert (clean, robust) in kept or any(c >= clean and r >= robust for c, r in rivals)
    for clean, robust in kept:
        assert not any(c >= clean and r >= robust for c, r in rivals if (c, r) != (clean, robust))


def test_picks() -> None:
    shown = front(trial(0, (0.80, 0.60), (0.88, 0.45)), trial(1, (0.85, 0.55)), trial(2, (0.79, 0.59)))
    assert pick(shown, "knee").trial == 1
    assert pick(shown, "most robust").trial == 0 and pick(shown, "most-robust").strength == 1.0
    assert (pick(shown, "2").trial, pick(shown, "2").member) == (2, False)
    assert pick(shown, "max robust_accuracy where clean_accuracy>=0.86").strength == 0.5
    assert pick(shown, "max clean_accuracy").validation["clean_accuracy"] == 0.88
    moved = pick(shown, "knee", strength=0.7)
    assert (moved.trial, moved.strength, moved.values) == (1, 0.7, None)
    assert pick(shown, "0", strength=0.5).validation["clean_accuracy"] == 0.88, "a measured strength keeps its values"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("9", "trial 9 of .* has no finished weights"),
        ("elbow", "knee, most robust"),
        ("max speed", "'speed' is not a goal"),
        ("max robust_accuracy where clean_accuracy>=0.99", "the highest is 0.8800"),
        ("untouched", "no such point"),
    ],
)
def test_picks_that_are_not_there(choice: str, message: str) -> None:
    shown = front(trial(0, (0.80, 0.60), (0.88, 0.45)))
    with pytest.raises(UserError, match=message):
        pick(shown, choice)


def test_fronts_of_several_sweeps_are_one_front_of_all_their_points() -> None:
    first = front(trial(0, (0.80, 0.60)), trial(1, (0.88, 0.40)), trial(2, (0.70, 0.35), baseline="paint"))
    second = replace(front(trial(0, (0.85, 0.65)), trial(1, (0.60, 0.70))), sweep="other")
    both = merged([first, second])
    assert [(point.sweep, point.trial) for point in both.points if point.member] == [
        (first.sweep, 1),
        ("other", 0),
        ("other", 1),
    ]
    assert [point.name for point in both.points] == ["cleanest", "knee", "most robust", "untouched", "paint"]
    assert (first.sweep, 0) in {(point.sweep, point.trial) for point in both.others}
    alone = front(trial(0, (0.88, 0.40)), trial(1, (0.85, 0.65)), trial(2, (0.60, 0.70)))
    assert both.hypervolume == pytest.approx(alone.hypervolume)
    assert (both.finished, both.trials) == (first.finished + second.finished, first.trials + second.trials)

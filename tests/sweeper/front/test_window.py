"""The window of the plane that pictures of a front show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeper.front.rendering.window import window
from sweeper.records import Front, FrontPoint
from tests.helpers.goals import TYPOGRAPHIC


def at(clean: float, robust: float, trial: int | None = 1, member: bool = True, name: str | None = None) -> FrontPoint:
    return FrontPoint(
        trial=trial, weights="last", strength=1.0, parameters={"objective": "kto"}, member=member, name=name,
        validation={"clean_accuracy": clean, "robust_accuracy": robust},
    )  # fmt: skip


def front(
    *points: FrontPoint, others: tuple[FrontPoint, ...] = (), reference: tuple[float, float] = (0.8, 0.3)
) -> Front:
    return Front(
        goals=TYPOGRAPHIC, sweep="demo", points=points, others=others, hypervolume=0.1, reference_point=reference,
        finished=1, trials=1,
    )  # fmt: skip


UNTOUCHED = at(0.92, 0.3, trial=None, member=False, name="untouched")
MEMBERS = (at(0.93, 0.45), at(0.9, 0.55), at(0.86, 0.6))


def test_members_and_untouched_model_and_reference_point_lie_inside() -> None:
    shown = window(front(*MEMBERS, UNTOUCHED))
    assert all(shown.holds(point) for point in ((0.93, 0.45), (0.86, 0.6), (0.92, 0.3), (0.8, 0.3)))


def test_a_bad_trial_does_not_stretch_it() -> None:
    assert window(front(*MEMBERS, UNTOUCHED, others=(at(0.05, 0.05, member=False),))) == window(
        front(*MEMBERS, UNTOUCHED)
    )


@pytest.mark.parametrize("robust", [0.3, 0.1, 0.0])
def test_members_keep_a_third_of_both_axes_however_far_the_untouched_model_is(robust: float) -> None:
    untouched = at(0.92, robust, trial=None, member=False, name="untouched")
    members = (at(0.93, 0.7), at(0.91, 0.75))
    shown = window(front(*members, untouched, reference=(0.05, robust)))
    assert 0.02 / (shown.high[0] - shown.low[0]) >= 1 / 3
    assert 0.05 / (shown.high[1] - shown.low[1]) >= 1 / 3
    assert all(shown.holds((m.validation["clean_accuracy"], m.validation["robust_accuracy"])) for m in members)
    assert not shown.holds((0.92, robust))
    assert shown.nearest((0.92, robust)) == (0.92, shown.low[1])


def test_test_values_of_members_lie_inside() -> None:
    values = {"clean_accuracy": 0.7, "robust_accuracy": 0.2}
    assert window(front(replace(MEMBERS[0], values=values), *MEMBERS[1:], UNTOUCHED)).holds((0.7, 0.2))


def test_a_single_point_is_shown_beside_the_untouched_model_and_a_far_reference_point_is_not() -> None:
    shown = window(front(at(0.9, 0.6), UNTOUCHED, reference=(0.05, 0.3)))
    assert shown.holds((0.9, 0.6)) and shown.holds((0.92, 0.3))
    assert not shown.holds((0.05, 0.3))


@pytest.mark.parametrize("points", [(), (UNTOUCHED,)])
def test_without_members_there_is_a_window_too(points: tuple[FrontPoint, ...]) -> None:
    shown = window(front(*points))
    assert shown.low[0] < shown.high[0] and shown.low[1] < shown.high[1]

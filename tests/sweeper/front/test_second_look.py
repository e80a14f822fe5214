"""The second look, as decisions: who is looked at, what both measurements together say, what the front makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.front.build import build_front
from sweeper.front.rendering.table import rows, summary, table
from sweeper.front.second_look import (
    UNTOUCHED,
    covers,
    images_behind,
    near_front,
    noise_share,
    noise_text,
    pooled,
)
from sweeper.records import Front, LookedAt, PointName, SecondLooks, TrialRecord
from sweeper.spec.bounds import Bound, Bounds
from tests.helpers.fronts import front_of_trials, members_of
from tests.helpers.goals import TYPOGRAPHIC, floors
from tests.helpers.reports import make_untouched
from trainables.records import Goal, Point, SecondLook

MARGIN = 0.01


def trial(number: int, *points: tuple[float, float], confirms: int | None = None) -> TrialRecord:
    """The first point has strength 1, the next have strengths 0.5, 0.25, ..."""
    return TrialRecord(
        number=number,
        state="complete",
        parameters={"objective": "dpo", "tune": "visual"},
        seed=number,
        points=tuple(Point(weights="last", strength=0.5**i, values=values(*point)) for i, point in enumerate(points)),
        confirms=confirms,
    )


def values(clean: float, robust: float) -> dict[str, float]:
    return {"clean_accuracy": clean, "robust_accuracy": robust}


def looks(of_points: dict[PointName, tuple[float, float]], images: int = 300) -> dict[PointName, SecondLook]:
    return {name: SecondLook(values=values(*both), images=[images]) for name, both in of_points.items()}


def near(trials: Sequence[TrialRecord], margin: float = MARGIN, bounds: Bounds = ()) -> list[PointName]:
    untouched = make_untouched()
    return list(near_front(trials, goals=TYPOGRAPHIC, bounds=bounds, untouched_goals=untouched.goals, margin=margin))


def front(
    trials: Sequence[TrialRecord], second_looks: dict[PointName, SecondLook] | None = None, bounds: Bounds = ()
) -> Front:
    """The untouched model has 100 validation images, clean 0.9 and robust 0.3."""
    return front_of_trials(trials, bounds=bounds, second_looks=second_looks)


def test_points_within_the_margin_of_the_front_are_looked_at() -> None:
    trials = [
        trial(0, (0.85, 0.60)),
        trial(1, (0.845, 0.595)),  # would be a member if both goals were better by the margin
        trial(2, (0.84, 0.589)),
        trial(3, (0.88, 0.40)),
        trial(4, (0.86, 0.595), confirms=0),
        trial(5, (0.895, 0.295)),  # as near to the untouched model
    ]
    assert near(trials) == [(number, "last", 1.0) for number in (0, 1, 3, 5)]
    assert near(trials, margin=0.0) == [(0, "last", 1.0), (3, "last", 1.0)], "the members of the front"
    assert near([trial(0, (0.7, 0.2))]) == []


def test_a_point_that_misses_the_bound_of_a_goal_by_less_than_the_margin_is_looked_at() -> None:
    trials = [trial(0, (0.855, 0.6)), trial(1, (0.845, 0.7)), trial(2, (0.835, 0.8))]
    assert [number for number, _, _ in near(trials, bounds=floors(clean_accuracy=0.85))] == [0, 1]


def test_bounds_on_other_metrics_have_no_margin() -> None:
    bounds = (Bound(metric="reading", direction="maximize", value=0.5),)
    points = [Point(weights="last", strength=s, values=values(0.8, 0.6) | {"reading": s}) for s in (0.495, 0.5)]
    record = TrialRecord(number=0, state="complete", parameters={}, seed=0, points=tuple(points))
    assert near([record], bounds=bounds) == [(0, "last", 0.5)]


def test_a_goal_that_is_minimised_is_better_when_it_is_lower() -> None:
    error = Goal(metric="error", direction="minimize", short="error", title="error", best="best", view=None)
    trials = [
        TrialRecord(
            number=number,
            state="complete",
            parameters={},
            seed=0,
            points=(Point(weights="last", strength=1.0, values={"clean_accuracy": clean, "error": value}),),
        )
        for number, (clean, value) in enumerate([(0.80, 0.10), (0.79, 0.105), (0.78, 0.11)])
    ]
    near_points = near_front(
        trials,
        goals=(TYPOGRAPHIC[0], error),
        bounds=(),
        untouched_goals={"clean_accuracy": 0.9, "error": 0.5},
        margin=MARGIN,
    )
    assert [number for number, _, _ in near_points] == [0, 1]


COUNTS = st.integers(1, 60)


@st.composite
def counted_points(draw: st.DrawFn) -> tuple[int, int, list[list[tuple[int, int]]]]:
    """Images of the search and of the second look, and per point and goal how many are right among both."""
    seen, unseen = draw(COUNTS), draw(COUNTS)
    goal = st.tuples(st.integers(0, seen), st.integers(0, unseen))
    return seen, unseen, draw(st.lists(st.lists(goal, min_size=2, max_size=2), min_size=1, max_size=12))


@given(counted_points())
def test_the_choice_by_both_is_the_choice_on_the_union_of_the_images(
    counted: tuple[int, int, list[list[tuple[int, int]]]],
) -> None:
    seen, unseen, points = counted
    half = 0.5 + 1e-6  # no point equals it: rounding would decide whether such a point beats the untouched model
    untouched = make_untouched(goals=values(half, half), validation_images=[seen])
    trials = [trial(i, (clean[0] / seen, robust[0] / seen)) for i, (clean, robust) in enumerate(points)]
    by_point = {
        (i, "last", 1.0): SecondLook(values=values(clean[1] / unseen, robust[1] / unseen), images=[unseen])
        for i, (clean, robust) in enumerate(points)
    }
    by_point[UNTOUCHED] = SecondLook(values=values(half, half), images=[unseen])

    def choice(trials: Sequence[TrialRecord], second_looks: dict[PointName, SecondLook] | None) -> Front:
        return build_front(
            "demo", trials, goals=TYPOGRAPHIC, bounds=(), untouched=untouched, measurements={}, planned=1,
            second_looks=second_looks,
        )  # fmt: skip

    by_both = choice(trials, by_point)  # type: ignore[arg-type]
    union = [
        trial(i, (sum(clean) / (seen + unseen), sum(robust) / (seen + unseen)))
        for i, (clean, robust) in enumerate(points)
    ]
    on_union = choice(union, None)
    # Means of the same counts differ by rounding, which may part equal points: members are compared by their values.
    both = {tuple(round(value, 9) for value in by_both.at(point)) for point in by_both.points if point.member}
    whole = {tuple(round(value, 9) for value in on_union.at(point)) for point in on_union.points if point.member}
    if len(both) == len(whole):
        assert both == whole
    assert {corner for corner in both if not any(_beats(other, corner) for other in both)} == {
        corner for corner in whole if not any(_beats(other, corner) for other in whole)
    }
    assert by_both.hypervolume == pytest.approx(on_union.hypervolume)
    assert all(point.images == seen + unseen for point in by_both.points)


def _beats(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(a >= b for a, b in zip(first, second, strict=True))


def test_both_measurements_are_weighted_by_their_images() -> None:
    looked = SecondLook(values={"a": 0.5, "b": 1.0}, images=[300])
    assert pooled({"a": 0.9, "c": 0.7}, [100], looked) == {"a": pytest.approx(0.6), "c": 0.7}
    even = SecondLook(values={"a": 0.5}, images=[300, 300])
    assert pooled({"a": 0.9}, [100, 100], even)["a"] == pytest.approx(0.6)
    # The mean over two sets is as imprecise as its small set makes it.
    uneven = SecondLook(values={"a": 0.5}, images=[1, 100_000])
    assert pooled({"a": 0.9}, [100, 100], uneven)["a"] > 0.89


def test_members_are_chosen_on_both_and_only_among_points_that_were_looked_at() -> None:
    trials = [trial(0, (0.85, 0.60), (0.88, 0.35)), trial(1, (0.845, 0.595)), trial(2, (0.80, 0.55))]
    by_search = front(trials)
    assert members_of(by_search) == [(0, 0.5), (0, 1.0)]
    looked = looks({UNTOUCHED: (0.9, 0.3), (0, "last", 1.0): (0.81, 0.56), (1, "last", 1.0): (0.845, 0.595),
                    (0, "last", 0.5): (0.88, 0.35)})  # fmt: skip
    chosen = front(trials, looked)
    assert members_of(chosen) == [(0, 0.5), (1, 1.0)], "trial 0 was lucky with the images of the search"
    assert [point.images for point in chosen.points] == [400, 400, 400]
    lucky = next(point for point in chosen.others if (point.trial, point.strength) == (0, 1.0))
    assert lucky.validation == pytest.approx(values(0.82, 0.57)) and lucky.images == 400
    outside = next(point for point in chosen.others if point.trial == 2)
    assert outside.validation == values(0.80, 0.55) and outside.images == 100
    best_by_search = [*trials, trial(3, (0.89, 0.9))]
    assert 3 not in [number for number, _ in members_of(front(best_by_search, looked))], "it was not looked at"


def test_the_untouched_model_competes_with_what_both_say_of_it() -> None:
    trials = [trial(0, (0.85, 0.31))]
    looked = looks({UNTOUCHED: (0.9, 0.34), (0, "last", 1.0): (0.85, 0.31)})
    assert members_of(front(trials)) == [(0, 1.0)]
    assert members_of(front(trials, looked)) == []
    untouched = next(point for point in front(trials, looked).points if point.trial is None)
    assert untouched.validation["robust_accuracy"] == pytest.approx(0.33) and untouched.images == 400
    assert front(trials, looked).reference_point == pytest.approx((0.05, 0.33))


def test_a_second_look_covers_a_sweep_until_a_further_trial_is_complete() -> None:
    of_points = looks({UNTOUCHED: (0.9, 0.3), (0, "last", 1.0): (0.8, 0.5)})
    first, again = trial(0, (0.8, 0.5)), trial(1, (0.8, 0.5), confirms=0)
    assert covers(SecondLooks(points=of_points, trials=1), [first, again])
    assert not covers(SecondLooks(points=of_points, trials=1), [first, again, trial(2, (0.1, 0.1))])
    assert not covers(SecondLooks(points=of_points), [first]), "it has not ended"
    assert not covers(SecondLooks(), [])


def test_the_front_says_what_the_second_look_was_and_changed() -> None:
    from dataclasses import replace

    shown = front([trial(0, (0.85, 0.60))], looks({UNTOUCHED: (0.9, 0.3), (0, "last", 1.0): (0.85, 0.6)}))
    assert "second look" not in summary(shown)
    shown = replace(shown, second_look=LookedAt(points=23, images=4000, new=1))
    assert summary(shown).endswith("; second look: 23 points on 4 000 further validation images; 1 of 1 members is new")
    assert [row["validation_images"] for row in rows(shown)] == [400, 400]
    assert '"validation_images": 400' in table(shown, "json")
    assert summary(shown).partition("; ")[2] in table(shown, "table")


def test_images_behind_a_value_by_set() -> None:
    untouched = make_untouched(validation_images=[100, 50], unseen_images=[300, 20])
    point = front([trial(0, (0.85, 0.60))]).points[0]
    from dataclasses import replace

    assert images_behind(replace(point, images=470), untouched) == [400, 70]
    assert images_behind(replace(point, images=150), untouched) == [100, 50]
    assert images_behind(replace(point, images=None), untouched) == [100, 50]


def test_selection_noise_is_told_where_validation_images_are_few() -> None:
    assert [round(noise_share(images), 2) for images in (100, 700, 1000, 2000, 9000)] == [0.72, 0.72, 0.53, 0.33, 0.33]
    assert 0.53 < noise_share(850) < 0.72 and noise_share(850) == pytest.approx(0.62, abs=0.01)
    told = noise_text([1000], [0])
    assert told is not None and told.startswith("1 000 validation images and no second look: about 53 % of what the")
    assert "more than 72 %" in (noise_text([200, 100], [0, 0]) or "")
    assert "40 validation images with those of the second look: more than 72 %" in (noise_text([30], [10]) or "")
    assert noise_text([1000], [2000]) is None and noise_text([2000], [0]) is None
    assert noise_text([100], None) is None, "nobody knows whether an earlier version left images out"

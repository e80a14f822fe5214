"""The stopping rule, against Syne Tune's on random streams, the definition and what it promises."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.search.stopping import Direction, MultiObjectiveAsha, priorities
from tests.paths import ROOT

GOLDEN = json.loads(((ROOT / "tests") / "golden" / "moasha.json").read_text())
STREAMS = [pytest.param(stream, id=f"{index}-{stream['kind']}") for index, stream in enumerate(GOLDEN["streams"])]
RUNGS = (1 / 9, 1 / 3)
UP: tuple[Direction, Direction] = ("maximize", "maximize")
DOWN: tuple[Direction, Direction] = ("minimize", "minimize")

grid = st.integers(min_value=0, max_value=6).map(float)
reals = st.floats(min_value=-1e3, max_value=1e3, allow_subnormal=False)
pairs = st.one_of(st.tuples(grid, grid), st.tuples(reals, reals))
triples = st.tuples(grid, grid, grid)
progresses = st.sampled_from((0.0, 0.1, 1 / 9, 0.2, 1 / 3, 0.5, 0.9, 1.0))
streams = st.lists(st.tuples(st.integers(min_value=0, max_value=12), progresses, pairs), max_size=40)

Event = tuple[int, float, tuple[float, float]]


def rule(
    rungs: Sequence[float] = RUNGS,
    factor: float = 3,
    directions: Sequence[Direction] = UP,
    floors: Sequence[float | None] | None = None,
) -> MultiObjectiveAsha:
    return MultiObjectiveAsha(
        rungs=rungs, reduction_factor=factor, directions=directions, floors=floors or [None] * len(directions)
    )


def decisions(made: MultiObjectiveAsha, events: Sequence[Event]) -> list[bool]:
    return [made.report(trial, progress, values) for trial, progress, values in events]


def decided_as_recorded(stream: dict[str, Any]) -> tuple[str, str]:
    goals = len(stream["events"][0]) - 2
    made = rule(
        [milestone / stream["max_t"] for milestone in stream["milestones"]],
        stream["reduction_factor"],
        [stream["direction"]] * goals,
    )
    decisions = [made.report(trial, t / stream["max_t"], values) for trial, t, *values in stream["events"]]
    return "".join(str(int(stop)) for stop in decisions), stream["decisions"]


def dominates(mine: Sequence[float], other: Sequence[float]) -> bool:
    """Both minimised."""
    return all(a <= b for a, b in zip(mine, other, strict=True)) and tuple(mine) != tuple(other)


def layer_numbers(costs: Sequence[Sequence[float]]) -> list[int]:
    """By the definition: a point's layer is one behind the last layer of those that dominate it."""

    def layer(index: int) -> int:
        better = [i for i, other in enumerate(costs) if dominates(other, costs[index])]
        return 1 + max(map(layer, better)) if better else 0

    return [layer(index) for index in range(len(costs))]


@pytest.mark.parametrize("stream", STREAMS)
def test_every_decision_is_syne_tunes(stream: dict[str, Any]) -> None:
    decisions, recorded = decided_as_recorded(stream)
    assert decisions == recorded


def test_the_released_scheduler_judges_a_trial_by_the_number_of_the_one_ranked_last() -> None:
    """Why the recorded decisions are of Syne Tune's parts put together as published, not of the scheduler as it is."""
    differing = sum(
        a != b for stream in GOLDEN["streams"] for a, b in zip(stream["decisions"], stream["unrepaired"], strict=True)
    )
    assert differing > 500
    first = rule(factor=4)
    for trial, value in enumerate((0.2, 0.1, 0.3, 0.4)):
        assert not first.report(trial, 1 / 9, (value, value)) or trial == 1
    assert not first.report(4, 1 / 9, (0.9, 0.9)), "the best one yet goes on, wherever the worst one stands"


def test_the_order_of_a_front_is_farthest_first_from_the_best_in_the_first_goal() -> None:
    front = [(1.0, 9.0), (5.0, 5.0), (2.0, 8.0), (9.0, 1.0), (8.0, 2.0)]
    assert priorities(front, DOWN) == [0, 2, 3, 1, 4]
    assert priorities([*front, (9.0, 9.0), (2.0, 9.0)], DOWN) == [0, 2, 3, 1, 4, 6, 5]
    assert priorities(front, UP) == [1, 2, 3, 0, 4]
    assert priorities([(0.3,), (0.1,), (0.2,), (0.1,)], ["minimize"]) == [3, 0, 2, 1]
    assert priorities([], UP) == []


def test_of_equal_points_the_earlier_comes_first() -> None:
    assert priorities([(1.0, 1.0)] * 4, UP) == [0, 1, 2, 3]
    assert priorities([(0.0, 4.0), (2.0, 2.0), (4.0, 0.0), (2.0, 2.0)], UP) == [1, 2, 0, 3]


@given(st.one_of(st.lists(pairs, max_size=14), st.lists(triples, max_size=14)))
def test_priorities_are_positions_by_layer(values: list[tuple[float, ...]]) -> None:
    positions = priorities(values, ["minimize"] * (len(values[0]) if values else 2))
    assert sorted(positions) == list(range(len(values)))
    layers = layer_numbers(values)
    in_order = sorted(range(len(values)), key=positions.__getitem__)
    assert [layers[index] for index in in_order] == sorted(layers)


@given(st.lists(st.tuples(grid, grid), min_size=1, max_size=14))
def test_each_further_point_of_a_layer_is_the_farthest_from_those_before(values: list[tuple[float, float]]) -> None:
    positions, layers = priorities(values, DOWN), layer_numbers(values)
    for number in set(layers):
        layer = sorted((i for i, own in enumerate(layers) if own == number), key=positions.__getitem__)
        assert values[layer[0]][0] == min(values[i][0] for i in layer)
        for place in range(1, len(layer)):
            away = [min(math.dist(values[i], values[j]) for j in layer[:place]) for i in layer[place:]]
            assert away[0] == max(away)


@given(st.lists(pairs, max_size=14))
def test_a_goal_maximised_is_its_negative_minimised(values: list[tuple[float, float]]) -> None:
    flipped = [(-first, second) for first, second in values]
    assert priorities(values, ["maximize", "minimize"]) == priorities(flipped, DOWN)


@given(st.lists(st.tuples(grid, grid), max_size=14), st.integers(-3, 3), st.integers(-50, 50), st.integers(-50, 50))
def test_a_common_scale_and_shifts_change_no_position(
    values: list[tuple[float, float]], exponent: int, first: int, second: int
) -> None:
    moved = [((a + first) * 2.0**exponent, (b + second) * 2.0**exponent) for a, b in values]
    assert priorities(moved, UP) == priorities(values, UP)


@given(st.lists(st.tuples(grid, grid), max_size=14))
def test_rising_transforms_of_the_goals_change_no_layer(values: list[tuple[float, float]]) -> None:
    bent = [(math.exp(a), b**3) for a, b in values]
    layers = layer_numbers(values)
    for points in (values, bent):
        positions = priorities(points, DOWN)
        assert all(
            layers[i] <= layers[j]
            for i in range(len(values))
            for j in range(len(values))
            if positions[i] < positions[j]
        )


@given(streams, st.sampled_from((1.5, 2.0, 3.0, 4.0)))
def test_a_trial_goes_on_where_at_most_its_share_rank_before_it(events: list[Event], factor: float) -> None:
    made = rule(factor=factor)
    recorded: dict[float, dict[int, tuple[tuple[float, float], bool]]] = {rung: {} for rung in RUNGS}
    for trial, progress, values in events:
        stop = made.report(trial, progress, values)
        reached = [rung for rung in RUNGS if rung <= progress]
        if not reached or progress >= 1:
            assert not stop
            continue
        here = recorded[reached[-1]]
        if trial not in here:
            ranks = priorities([other for other, _ in here.values()] + [values], UP)
            here[trial] = (values, ranks[-1] / len(ranks) > 1 / factor)
        assert stop == here[trial][1]


@given(streams)
def test_the_same_reports_rebuild_the_same_rule(events: list[Event]) -> None:
    left_alone = rule()
    before = decisions(left_alone, events)
    resumed = rule()
    assert decisions(resumed, events) == before
    assert decisions(resumed, events) == before, "a resumed attempt that reports again is answered as it was"
    following: list[Event] = [(trial, rung, (3.0, 2.0 + trial)) for trial in range(20, 26) for rung in RUNGS]
    assert decisions(resumed, following) == decisions(left_alone, following)


@given(st.lists(pairs, min_size=1, max_size=20))
def test_the_first_of_a_rung_and_whoever_dominates_all_others_go_on(values: list[tuple[float, float]]) -> None:
    made = rule()
    stops = [made.report(trial, 1 / 9, value) for trial, value in enumerate(values)]
    assert not stops[0]
    assert not made.report(99, 1 / 9, (max(a for a, _ in values) + 1, max(b for _, b in values) + 1))
    worst = (min(a for a, _ in values) - 1, min(b for _, b in values) - 1)
    assert made.report(100, 1 / 9, worst)


def test_a_trade_off_is_not_stopped_for_being_last_in_one_goal() -> None:
    made = rule()
    for trial in range(8):
        made.report(trial, 1 / 3, (0.5 + 0.01 * trial, 0.5 + 0.01 * trial))
    assert not made.report(8, 1 / 3, (0.1, 0.9)), "last in the first goal, first in the second"
    assert made.report(9, 1 / 3, (0.1, 0.3))


def test_a_rung_counts_once_and_a_rung_passed_by_is_left_out() -> None:
    made = rule()
    assert not made.report(0, 0.34, (0.5, 0.5))
    assert made.report(1, 0.34, (0.4, 0.4)), "both count at 1/3, the highest rung they have reached"
    assert made.report(1, 0.34, (0.9, 0.9)), "once"
    # Syne Tune would now enter trial 0 at the rung of 1/9 with what it has learned by 1/2.
    assert not made.report(0, 0.5, (1.0, 1.0))
    assert not made.report(4, 1 / 9, (0.1, 0.1)), "the first one at 1/9"


def test_a_rung_missed_by_rounding_is_reached() -> None:
    made = rule(rungs=(0.3,))
    assert not made.report(0, 0.1 + 0.2, (1.0, 1.0))
    assert made.report(1, 1 - 0.7 - 1e-16, (0.0, 0.0))
    assert not made.report(2, 0.29, (0.0, 0.0))


def test_a_finished_trial_is_neither_stopped_nor_recorded() -> None:
    made = rule()
    assert not made.report(0, 1 / 3, (0.5, 0.5))
    assert not made.report(1, 1.0, (0.1, 0.1))
    assert not made.report(1, 1.0, (0.9, 0.9))
    assert made.report(2, 1 / 3, (0.4, 0.4))


def test_trials_below_a_floor_rank_behind_and_by_what_they_miss() -> None:
    made = rule(factor=2, floors=(0.6, None))
    assert not made.report(0, 1 / 9, (0.1, 0.99)), "the first of a rung goes on, however low: its strength is set later"
    assert not made.report(1, 1 / 9, (0.6, 0.0)), "at the floor is not below it"
    assert not made.report(2, 1 / 9, (0.5, 0.0)), "second of three: less below the floor than the first one"
    assert made.report(3, 1 / 9, (0.05, 0.99))
    mixed = rule(directions=("maximize", "minimize"), floors=(0.5, 2.0))
    assert not mixed.report(0, 1 / 9, (0.25, 2.5)), "misses 0.25 and 0.5"
    assert not mixed.report(1, 1 / 9, (0.25, 1.0)), "misses 0.25"
    assert mixed.report(2, 1 / 9, (0.5, 3.0)), "misses 1"
    assert mixed.report(3, 1 / 9, (0.75, 2.75)), "misses 0.75 as the first one did; of equals the earlier comes first"


@given(st.lists(pairs, max_size=14), st.lists(pairs, max_size=14), reals, st.sampled_from((2.0, 3.0)))
def test_above_the_floors_those_below_only_fill_the_rung(
    values: list[tuple[float, float]], below: list[tuple[float, float]], floor: float, factor: float
) -> None:
    made = rule(factor=factor, floors=(None, floor))
    feasible: list[tuple[float, float]] = []
    for trial, (first, second) in enumerate([*below, *values]):
        stop = made.report(trial, 1 / 9, (first, second))
        if second >= floor:
            feasible.append((first, second))
            assert stop == (priorities(feasible, UP)[-1] / (trial + 1) > 1 / factor)
        elif len(feasible) / (trial + 1) > 1 / factor:
            assert stop, "the share that goes on is filled by trials above the floor"


@given(streams)
def test_floors_that_no_trial_misses_change_nothing(events: list[Event]) -> None:
    assert decisions(rule(floors=(-1e3, -1e3)), events) == decisions(rule(), events)


@pytest.mark.parametrize(
    "rungs", [(), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5), (0.5, 0.25), (math.nan,)], ids=lambda rungs: str(rungs)
)
def test_rungs_must_be_rising_fractions(rungs: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rising fractions"):
        rule(rungs=rungs)


def test_other_settings_are_refused() -> None:
    for factor in (1.0, 0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 1"):
            rule(factor=factor)
    with pytest.raises(ValueError, match="a direction and a floor"):
        rule(floors=(None,))
    with pytest.raises(ValueError, match="'max'"):
        rule(directions=("max", "minimize"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("progress", "values"),
    [(0.5, (math.nan, 1.0)), (0.5, (1.0, math.inf)), (math.nan, (1.0, 1.0)), (0.05, (1.0,)), (1.0, (1.0, 1.0, 1.0))],
)
def test_reports_must_be_finite_and_whole(progress: float, values: tuple[float, ...]) -> None:
    made = rule()
    with pytest.raises(ValueError, match="trial 7 must report 2 finite values"):
        made.report(7, progress, values)
    with pytest.raises(ValueError, match="2 finite values"):
        priorities([(1.0, 1.0), (math.nan, 1.0)], UP)

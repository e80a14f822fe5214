"""The decisions about points in the plane of two goals, against definitions and areas counted cell by cell."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.search.pareto import Value, hypervolume, knee, non_dominated

GRID = 8
coordinates = st.integers(min_value=0, max_value=GRID)
points = st.lists(st.tuples(coordinates, coordinates), max_size=12)
reals = st.floats(min_value=-1e6, max_value=1e6, allow_subnormal=False)


def dominated_by_definition(values: list[Value], index: int) -> bool:
    mine = values[index]
    return any(
        other[0] >= mine[0] and other[1] >= mine[1] and (other != mine or position < index)
        for position, other in enumerate(values)
        if position != index
    )


@given(st.one_of(points, st.lists(st.tuples(reals, reals), max_size=12)))
def test_non_dominated_is_the_definition(values: list[Value]) -> None:
    assert non_dominated(values) == [not dominated_by_definition(values, i) for i in range(len(values))]


@given(points, st.tuples(coordinates, coordinates))
def test_hypervolume_counts_the_unit_cells_below_the_points(values: list[Value], reference: Value) -> None:
    cells = sum(
        any(clean > x and robust > y for clean, robust in values)
        for x in range(int(reference[0]), GRID)
        for y in range(int(reference[1]), GRID)
    )
    assert hypervolume(values, reference) == cells


@given(st.lists(st.tuples(reals, reals), max_size=8), st.tuples(reals, reals))
def test_hypervolume_is_that_of_the_front_and_never_shrinks(values: list[Value], reference: Value) -> None:
    front = [value for value, kept in zip(values, non_dominated(values), strict=True) if kept]
    whole = hypervolume(values, reference)
    assert whole == hypervolume(front, reference) == hypervolume(values[::-1], reference)
    assert all(hypervolume(values[:count], reference) <= whole * (1 + 1e-12) for count in range(len(values)))


def test_hypervolume_of_known_fronts() -> None:
    assert hypervolume([], (0.0, 0.0)) == 0.0
    assert hypervolume([(0.5, 0.4)], (0.1, 0.2)) == pytest.approx(0.08)
    assert hypervolume([(0.9, 0.3), (0.8, 0.6), (0.5, 0.7)], (0.4, 0.1)) == pytest.approx(
        0.5 * 0.2 + 0.4 * 0.3 + 0.1 * 0.1
    )
    assert hypervolume([(0.1, 0.9), (0.9, 0.1)], (0.1, 0.1)) == 0.0  # on the reference's edges, not above it


def test_the_knee_bulges_most() -> None:
    front = [(0.90, 0.30), (0.89, 0.55), (0.80, 0.65), (0.60, 0.70)]
    assert knee(front) == 1
    assert knee(front[:1]) == 0
    assert knee([(0.9, 0.3), (0.6, 0.7)]) == 0  # a tie of the extremes goes to clean accuracy
    assert knee([(0.6, 0.7), (0.9, 0.3)]) == 1
    assert knee([(0.5, 0.5), (0.5, 0.5)]) == 0


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8))
def test_the_knee_maximises_the_normalised_sum(values: list[tuple[int, int]]) -> None:
    lows = [min(value[goal] for value in values) for goal in (0, 1)]
    spans = [max(value[goal] for value in values) - lows[goal] or 1 for goal in (0, 1)]
    sums = [sum(Fraction(value[goal] - lows[goal], spans[goal]) for goal in (0, 1)) for value in values]
    chosen = knee([(float(clean), float(robust)) for clean, robust in values])
    assert abs(sums[chosen] - max(sums)) < 1e-12
    if sums.count(max(sums)) == 1:
        assert chosen == sums.index(max(sums))


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=4, unique=True))
def test_no_decision_depends_on_the_order_of_different_points(values: list[Value]) -> None:
    front = {value for value, kept in zip(values, non_dominated(values), strict=True) if kept}
    for shuffled in permutations(values):
        assert {value for value, kept in zip(shuffled, non_dominated(shuffled), strict=True) if kept} == front
        assert shuffled[knee(shuffled)] == values[knee(values)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_must_be_finite(bad: float) -> None:
    for decide in (non_dominated, knee, lambda values: hypervolume(values, (0.0, 0.0))):
        with pytest.raises(ValueError, match="finite"):
            decide([(0.5, 0.5), (bad, 0.5)])
    with pytest.raises(ValueError, match="no knee"):
        knee([])

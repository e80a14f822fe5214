"""Rank correlation of the search goal with what each test set measures."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sweeper.front.correlation import correlations, lines, spearman
from sweeper.records import Front, FrontPoint
from tests.helpers.goals import TYPOGRAPHIC

NUMBERS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30)


@given(NUMBERS)
def test_spearman_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = ([float(value) for value in values] for values in zip(*pairs, strict=True))
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def front(measured: list[tuple[float, float | None]]) -> Front:
    """Points by robust accuracy on validation and on the set ``rta``; the untouched model, far off, beside them."""
    points = []
    for number, (validation, test) in enumerate([(0.0, 1.0), *measured]):
        values = None if test is None else {"robust_accuracy": 0.5, "rta/robust_accuracy": test}
        points.append(
            FrontPoint(
                trial=number - 1 if number else None,
                weights="last",
                strength=1.0,
                parameters={},
                validation={"clean_accuracy": 0.5, "robust_accuracy": validation},
                values=values,
            )
        )
    return Front(
        goals=TYPOGRAPHIC,
        sweep="s",
        points=tuple(points),
        others=(),
        hypervolume=0.0,
        reference_point=(0.0, 0.0),
        finished=1,
        trials=1,
    )


def test_correlation_is_over_measured_points_and_leaves_the_untouched_model_out() -> None:
    (correlation,) = correlations(front([(0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.35), (0.5, None)]))
    assert (correlation.set, correlation.points) == ("rta", 4)
    assert correlation.spearman == pytest.approx(0.8)
    assert correlation.interval is not None and correlation.interval[0] < 0 < correlation.interval[1] <= 1


def test_few_points_say_nothing() -> None:
    assert correlations(front([(0.1, 0.2), (0.2, 0.3)]))[0].spearman is None
    assert "too few" in lines(front([(0.1, 0.2), (0.2, 0.3)]))[1]
    assert lines(front([(0.1, None)])) == []


def test_four_points_in_one_order_are_no_proof() -> None:
    (correlation,) = correlations(front([(0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5)]))
    assert correlation.spearman == 1.0
    assert correlation.interval is not None and correlation.interval[0] < 0 and correlation.interval[1] == 1.0
    (correlation,) = correlations(front([(i / 20, i / 20) for i in range(20)]))
    assert correlation.interval is not None and 0.9 < correlation.interval[0] < 1.0

"""What trials that have not begun are expected to cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.run.expected_cost import (
    EXPECTED_WEIGHT,
    CostModel,
    ExpectedCosts,
    MeasuringPace,
    Sample,
    cost_model,
    expected_looks,
    expected_share,
)
from tests.helpers.specs import make_spec

SCOPES = {"transform": 0.5, "visual": 0.5}


def sample(scope: str, cost_s: float, epochs: float, share: float | None = None) -> Sample:
    return Sample(scope=scope, cost_s=cost_s, epochs=epochs, share=share)


def test_expected_share_of_two_rungs() -> None:
    assert expected_share([1 / 9, 1 / 3], 3.0) == pytest.approx(7 / 27)
    assert expected_share([], 3.0) == 1.0


@given(rungs=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5, unique=True), factor=st.floats(1.01, 10))
def test_stopping_leaves_at_least_the_first_rung_and_less_than_everything(rungs: list[float], factor: float) -> None:
    share = expected_share(sorted(rungs), factor)
    assert min(rungs) <= share < 1.0
    assert expected_share(sorted(rungs), factor + 1) < share


def test_first_trials_of_the_costly_scope_do_not_pass_for_all() -> None:
    """Three whole trials of a scope with 10 s an epoch, one of a scope with 1 s: a further one costs 5.5 s an epoch."""
    samples = [*[sample("visual", 30.0, 3.0)] * 3, sample("transform", 3.0, 3.0)]
    assert CostModel(SCOPES, share=1.0).expected(samples, 3) == ExpectedCosts(searched_s=16.5, whole_s=16.5)


def test_a_scope_that_was_not_seen_counts_as_the_others_do() -> None:
    model = CostModel({"transform": 0.25, "visual": 0.25, "text": 0.5}, share=1.0)
    costs = model.expected([sample("visual", 30.0, 3.0), sample("transform", 3.0, 3.0)], 3)
    assert costs is not None and costs.whole_s == pytest.approx(16.5)
    baseline_alone = model.expected([sample("paint", 30.0, 3.0)], 3)
    assert baseline_alone is not None and baseline_alone.whole_s == pytest.approx(30.0)


def test_the_share_moves_from_what_is_expected_to_what_was_seen() -> None:
    model = CostModel(SCOPES, share=0.25)
    before = model.expected([sample("visual", 30.0, 3.0)], 3)
    assert before is not None and before.searched_s == pytest.approx(0.25 * 30.0)
    seen = [sample("visual", 15.0, 1.5, share=0.5)] * EXPECTED_WEIGHT
    half = model.expected(seen, 3)
    assert half is not None and half.searched_s == pytest.approx(0.375 * 30.0) and half.whole_s == pytest.approx(30.0)


def test_points_of_a_second_look_grow_with_the_complete_trials() -> None:
    model = CostModel(SCOPES, share=0.5, whole_share=0.25)
    ended = [sample("visual", 30.0, 3.0, share=1.0)] * 8 + [sample("visual", 15.0, 1.5, share=0.5)] * 8
    costs = model.expected(ended, 3)
    assert costs is not None and costs.whole_share == pytest.approx(
        (EXPECTED_WEIGHT * 0.25 + 8) / (EXPECTED_WEIGHT + 16)
    )
    assert expected_looks(near=12, complete=8, waiting=16, whole_share=0.25) == pytest.approx(18.0)
    assert expected_looks(near=12, complete=8, waiting=0, whole_share=0.25) == 12.0


def test_nothing_is_known_before_a_part_of_an_epoch_is_done() -> None:
    assert CostModel(SCOPES, share=1.0).expected([], 3) is None
    assert CostModel(SCOPES, share=1.0).expected([sample("visual", 5.0, 0.0)], 3) is None


def test_the_share_of_a_sweep_is_that_of_its_stopping_rule() -> None:
    samples = [sample("transform", 3.0, 3.0)]
    stopped = cost_model(make_spec(stopping={"kind": "moasha", "rungs": [1 / 9, 1 / 3]})).expected(samples, 3)
    whole = cost_model(make_spec(stopping={"kind": "none"})).expected(samples, 3)
    assert whole is not None and whole.searched_s == whole.whole_s
    assert stopped is not None and stopped.searched_s == pytest.approx(
        7 / 18 * whole.whole_s
    )  # every second trial goes on from a rung


def test_measuring_is_forecast_by_the_points_that_are_measured() -> None:
    pace = MeasuringPace(total=4, now_s=100.0)
    assert pace.left_s(guess_s=5.0) == 20.0, "nothing is measured yet"
    pace.done(1, 130.0)
    assert pace.left_s(guess_s=5.0) == 90.0
    pace.done(1, 150.0)  # asked again meanwhile
    pace.done(4, 160.0)
    assert pace.left_s(guess_s=5.0) == 0.0

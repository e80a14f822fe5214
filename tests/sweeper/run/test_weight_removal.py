"""Which weights stay on disk: whatever the order of the trials, those of every point that the front may need."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from sweeper.front.needed_weights import with_needed_weights
from sweeper.records import TrialRecord
from sweeper.run.weight_removal import WeightRemoval
from tests.helpers.fronts import front_of_trials, members_of
from tests.helpers.pretended_search import make_spec
from tests.helpers.reports import make_untouched
from trainables.records import Point

SPEC, UNTOUCHED = make_spec(), make_untouched()
MARGIN = 0.01
STEP = 0.004
"""Points lie on a grid of less than the margin, so that many are near a front."""


def trial(number: int, points: Sequence[tuple[int, int]], kind: str) -> TrialRecord:
    return TrialRecord(
        number=number,
        state="failed" if kind == "failed" else "complete",
        parameters={"objective": "dpo", "tune": "visual"},
        seed=number,
        points=tuple(
            Point(
                weights="last",
                strength=0.5**index,
                values={"clean_accuracy": 0.85 + STEP * clean, "robust_accuracy": 0.5 + STEP * robust},
            )
            for index, (clean, robust) in enumerate(points)
        ),
        baseline="paint" if kind == "baseline" else None,
        confirms=0 if kind == "retraining" else None,
    )


COORDINATES = st.tuples(st.integers(0, 9), st.integers(0, 9))
KINDS = st.sampled_from(["searched"] * 6 + ["failed", "baseline", "retraining"])
TRIALS = st.lists(st.tuples(st.lists(COORDINATES, min_size=1, max_size=2), KINDS), max_size=12)


@given(TRIALS, st.integers(0, 12))
def test_weights_of_the_front_and_of_baselines_are_there_at_every_moment(
    content: list[tuple[list[tuple[int, int]], str]], before: int
) -> None:
    trials = [trial(number, points, kind) for number, (points, kind) in enumerate(content)]
    removed: set[int] = set()
    removal = WeightRemoval(
        trials[:before], needed=lambda some: with_needed_weights(SPEC, UNTOUCHED, some), remove=removed.add
    )
    for count in range(before, len(trials)):
        removal.trial_ended(trials[count])
        so_far = trials[: count + 1]
        front = front_of_trials(so_far)
        assert not removed & {point.trial for point in front.points}
        assert not removed & {one.number for one in so_far if one.baseline is not None or one.confirms is not None}
    complete = {one.number for one in trials if one.state == "complete"}
    assert removed == complete - with_needed_weights(SPEC, UNTOUCHED, trials), "as if all had ended at once"


def test_a_point_stays_while_the_second_look_may_put_it_on_the_front() -> None:
    best, near, far = (trial(number, [point], "searched") for number, point in enumerate([(5, 5), (3, 3), (2, 2)]))
    assert STEP * 2 < MARGIN < STEP * 3
    assert members_of(front_of_trials([best, near, far])) == [(0, 1.0)]
    assert with_needed_weights(SPEC, UNTOUCHED, [best, near, far]) == {0, 1}

"""The live view at every size of a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sweeper.run.view import RunningTrial, Snapshot, frame

TRIALS = st.integers(0, 70).map(
    lambda count: [
        RunningTrial(number, f"{number / 7:.3g}/12", ("0.912", "0.587") if number % 3 else (), "dpo visual beta=0.123")
        for number in range(count)
    ]
)
TEXTS = st.none() | st.text("abc de", max_size=200)
SNAPSHOTS = st.builds(
    Snapshot,
    name=st.text("abc-", min_size=1, max_size=90),
    finished=st.integers(0, 400),
    planned=st.integers(1, 400),
    failed=st.integers(0, 9),
    time=st.just("1:02:03, about 25 min left"),
    activity=TEXTS,
    cost=TEXTS,
    floor=TEXTS,
    goals=st.just(("clean", "robust")),
    running=TRIALS,
    best=st.lists(st.just("most robust: clean 0.912, robust 0.587"), max_size=5),
    failures=st.lists(st.just("trial 12 failed: out of memory"), max_size=3),
)


@given(SNAPSHOTS, st.integers(40, 250), st.integers(10, 80))
def test_it_fits_every_terminal(shown: Snapshot, width: int, height: int) -> None:
    lines = frame(shown, width, height)
    assert len(lines) <= height
    assert max(len(line.text) for line in lines) <= width


def snapshot(trials: int, reported: int) -> Snapshot:
    about = "cross_entropy last_blocks lambda_reg=0.316 blocks=2 learning_rate=0.00032"
    running = [
        RunningTrial(number, "1.33/3", ("0.948", "0.596"), about)
        if number < reported
        else RunningTrial(number, "starting", (), about)
        for number in range(trials)
    ]
    return Snapshot(
        name="typo-reduced",
        finished=12,
        planned=64,
        failed=1,
        time="12:34, about 25 min left",
        activity=None,
        cost="cost: 0.42 of 12 cpu-h, at 2 CPUs; forecast 0.8 cpu-h in 25 min",
        floor=None,
        goals=("clean", "robust"),
        running=running,
        best=["knee: clean 0.948, robust 0.596"],
    )


def test_at_80_columns_goals_have_three_digits_and_parameters_give_way() -> None:
    lines = [line.text for line in frame(snapshot(2, 1), 80, 23)]
    assert lines[0].startswith("typo-reduced  ━") and lines[0].endswith(
        "12 of 64 trials, 1 failed  12:34, about 25 min left"
    )
    assert lines[2:5] == [
        "trial  epoch      clean  robust  parameters",
        "0      1.33/3     0.948  0.596   cross_entropy last_blocks lambda_reg=0.316 blo…",
        "1      starting                  cross_entropy last_blocks lambda_reg=0.316 blo…",
    ]


def test_columns_do_not_move_when_trials_report() -> None:
    before, after = frame(snapshot(4, 0), 80, 23), frame(snapshot(4, 4), 80, 23)
    heads = [next(line.text for line in lines if line.text.startswith("trial ")) for lines in (before, after)]
    assert heads[0] == heads[1]
    assert {
        line.text.index("cross_entropy") for lines in (before, after) for line in lines if "cross" in line.text
    } == {33}


def test_of_64_slots_a_low_terminal_shows_some_and_how_many_more() -> None:
    lines = [line.text for line in frame(snapshot(64, 64), 80, 23)]
    shown = sum("cross_entropy" in line for line in lines)
    assert f"... and {64 - shown} more running" in lines
    assert shown >= 15 and "  knee: clean 0.948, robust 0.596" in lines

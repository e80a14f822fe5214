"""The confirm phase: which trials are trained again, what stays, and intervals over seeds and images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import UserError
from sweeper.front.build import build_front, confirmed
from sweeper.front.confirm import Hits, confirm_seed, confirmations, plan, ranked_trials
from sweeper.front.intervals import interval, interval_of_values
from sweeper.front.load import load_front
from sweeper.front.rendering.plot import plot
from sweeper.front.rendering.table import markdown, table
from sweeper.jobs import MeasureJob
from sweeper.models.export import export_point
from sweeper.records import Confirmation, Front, PointName, Retraining, TrialRecord
from sweeper.run.measurements import Measurements
from sweeper.run.progress import Progress
from sweeper.run.signals import StopSignal
from sweeper.search.scheduler import NoLimits, TrialScheduler
from sweeper.search.study import Study, read_trials
from sweeper.search.trial_files import FolderTrialFiles
from sweeper.spec.sections import Confirm
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.finished_sweep import SPEC, InProcessSlots, SilentListener, finished_sweep
from tests.helpers.goals import GOALS, TYPOGRAPHIC, floors
from tests.helpers.reports import make_untouched
from tests.paths import ROOT
from trainables.records import Goal, Measurement, Point

UNTOUCHED = {"clean_accuracy": 0.90, "robust_accuracy": 0.30}
FLOOR = floors(clean_accuracy=0.80)


def trial(number: int, *points: tuple[float, float], **about: Any) -> TrialRecord:
    """The first point has strength 1, the next 0.5, 0.25, ..."""
    trial_points = tuple(
        Point(weights="last", strength=0.5**i, values=dict(zip(GOALS, values, strict=True)))
        for i, values in enumerate(points)
    )
    about = {"state": "complete" if points else "failed", "parameters": {}, "seed": number, **about}
    return TrialRecord(number=number, points=trial_points, **about)


SEARCH = (
    trial(0, (0.82, 0.60)),
    trial(1, (0.86, 0.55), (0.885, 0.40)),
    trial(2, (0.84, 0.57)),
    trial(3, (0.80, 0.30)),
    trial(4, (0.81, 0.605)),
)
"""All but trial 3 are on the front: the knee is trial 1 at strength 1, the most robust 4, the cleanest 1 at 0.5."""


def front(*trials: TrialRecord) -> Front:
    return build_front(
        "demo",
        trials,
        goals=TYPOGRAPHIC,
        bounds=FLOOR,
        untouched=make_untouched(goals=UNTOUCHED),
        measurements={},
        planned=5,
    )


def test_knee_and_ends_are_trained_again_first_then_what_adds_most_to_the_hypervolume() -> None:
    searched = front(*SEARCH)
    names = {point.name: point.trial for point in searched.points if point.name}
    assert (names["knee"], names["most robust"], names["cleanest"]) == (1, 4, 1)
    # Alone trial 0 adds (0.82 - 0.81) x (0.60 - 0.57), trial 2 adds (0.84 - 0.82) x (0.57 - 0.55).
    assert ranked_trials(searched) == [1, 4, 2, 0]


def test_each_member_gets_its_seeds_and_a_resumed_phase_goes_on_with_the_same_ones() -> None:
    searched, settings = front(*SEARCH), Confirm(members=2, seeds=3, share=0.5)
    whole = plan(searched, SEARCH, settings, seed=7, most=6)
    assert [retraining.confirms for retraining in whole.missing] == [1, 1, 1, 4, 4, 4]
    assert len({retraining.seed for retraining in whole.missing}) == 6
    begun = [
        trial(5 + i, confirms=retraining.confirms, seed=retraining.seed)
        for i, retraining in enumerate(whole.missing[:4])
    ]
    assert plan(searched, [*SEARCH, *begun], settings, seed=7, most=6).missing == whole.missing[4:]


def test_the_share_of_the_budget_leaves_out_whole_members_and_says_so() -> None:
    settings = Confirm(members=3, seeds=3, share=0.2)
    assert (settings.most_trainings(16), settings.most_trainings(36)) == (4, 9)
    cut = plan(front(*SEARCH), SEARCH, settings, seed=0, most=8)
    assert [retraining.confirms for retraining in cut.missing] == [1, 1, 1, 4, 4, 4]
    assert "leaves out trials 2" in cut.note
    nothing = plan(front(*SEARCH), SEARCH, settings, seed=0, most=2)
    assert nothing.missing == () and "none" in nothing.note
    assert len(plan(front(*SEARCH), SEARCH, settings, seed=0, most=None).missing) == 9


def test_what_earlier_members_took_of_the_share_is_gone() -> None:
    """The search went on after a confirm phase: trial 3 is no longer on the front."""
    old = [trial(5 + i, (0.8, 0.3), confirms=3, seed=confirm_seed(0, 3, i)) for i in range(3)]
    rest = plan(front(*SEARCH), [*SEARCH, *old], Confirm(members=2, seeds=3), seed=0, most=8)
    assert [retraining.confirms for retraining in rest.missing] == [1, 1, 1]


def test_an_empty_front_has_nobody_to_train_again() -> None:
    assert plan(front(SEARCH[3]), SEARCH[3:4], Confirm(), seed=0, most=9).missing == ()


@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 9)), min_size=2))
def test_seeds_differ_for_each_sweep_member_and_training(names: set[tuple[int, int, int]]) -> None:
    assert len({confirm_seed(*name) for name in names}) == len(names)


def again(member: int, *points: tuple[float, float], number: int) -> TrialRecord:
    return trial(number, *points, confirms=member, seed=number)


def hits(rows: int, right: float) -> Hits:
    return {goal: [np.arange(rows) < right * rows] for goal in GOALS}


def confirmed_by(*trainings: TrialRecord, tested: dict[PointName, Hits] | None = None) -> dict[PointName, Confirmation]:
    shown = front(*SEARCH, *trainings)
    assert shown == front(*SEARCH), "what is trained again is no candidate of the front"
    return confirmations(shown, [*SEARCH, *trainings], tested or {}, bounds=FLOOR, untouched_goals=UNTOUCHED)


def test_members_stay_by_the_means_of_their_new_seeds_alone() -> None:
    by_member = confirmed_by(
        again(1, (0.84, 0.52), (0.89, 0.38), number=5),
        again(1, (0.86, 0.54), (0.88, 0.36), number=6),
        again(2, (0.85, 0.51), number=7),
        again(2, (0.83, 0.53), number=8),
        again(4, (0.79, 0.62), number=9),
        again(4, (0.80, 0.64), number=10),
    )
    assert by_member[1, "last", 1.0].validation == pytest.approx({"clean_accuracy": 0.85, "robust_accuracy": 0.53})
    stays = {name[::2]: confirmation.stays for name, confirmation in by_member.items()}
    # Trial 2 is now worse than trial 1 in both goals, trial 4 below the floor of 0.80.
    assert stays == {(1, 1.0): True, (1, 0.5): True, (2, 1.0): False, (4, 1.0): False}


def test_a_member_no_better_than_the_untouched_model_does_not_stay() -> None:
    by_member = confirmed_by(again(2, (0.89, 0.29), number=5), again(2, (0.90, 0.30), number=6))
    assert not by_member[2, "last", 1.0].stays


def test_a_recipe_that_failed_with_a_new_seed_does_not_stay() -> None:
    good = again(2, (0.85, 0.58), number=5), again(2, (0.86, 0.58), number=6)
    assert confirmed_by(*good)[2, "last", 1.0].stays
    failed = confirmed_by(*good, again(2, number=7))[2, "last", 1.0]
    assert (failed.seeds, failed.failed, failed.stays) == (2, 1, False)
    ruined = confirmed_by(again(2, number=5))[2, "last", 1.0]
    assert (ruined.seeds, ruined.failed, ruined.validation, ruined.values) == (0, 1, None, None)


def test_test_values_are_means_over_seeds_and_decide_nothing() -> None:
    pair = again(2, (0.85, 0.58), number=5), again(2, (0.86, 0.58), number=6)
    other = again(0, (0.82, 0.60), number=7), again(0, (0.82, 0.60), number=8)
    tested: dict[PointName, Hits] = {(5, "last", 1.0): hits(100, 0.1), (6, "last", 1.0): hits(100, 0.2)}
    tested |= {(7, "last", 1.0): hits(100, 0.9), (8, "last", 1.0): hits(100, 0.9)}
    member = confirmed_by(*pair, *other, tested=tested)[2, "last", 1.0]
    assert member.stays and member.values == pytest.approx(dict.fromkeys(GOALS, 0.15))
    assert member.intervals is not None and member.simultaneous is not None
    assert member.intervals["clean_accuracy"] == interval([np.stack([hits(100, s)[GOALS[0]][0] for s in (0.1, 0.2)])])
    for low, high in member.intervals.values():
        wide = member.simultaneous["clean_accuracy"]
        assert wide[0] < low < 0.15 < high < wide[1]
    assert confirmed_by(*pair, tested={(5, "last", 1.0): hits(100, 0.1)})[2, "last", 1.0].values is None


def test_shown_points_carry_it_and_nothing_moves() -> None:
    before = front(*SEARCH)
    after = confirmed(before, confirmed_by(again(2, (0.1, 0.1), number=5), again(2, (0.1, 0.1), number=6)))
    assert [replace(point, confirmation=None) for point in after.points] == list(before.points)
    assert {point.trial for point in after.points if point.confirmation} == {2}


def wilson(right: int, images: int) -> tuple[float, float]:
    """The roots of (p - right / images)^2 = z^2 p (1 - p) / images."""
    share, z2 = right / images, 1.959964**2 / images
    low, high = np.sort(np.roots([1 + z2, -2 * share - z2, share**2]))
    return float(low), float(high)


def test_equal_seeds_are_one_seed() -> None:
    """Without spread between seeds it is Wilson's interval of the images, but for t instead of z."""
    scores = np.tile(np.arange(1000) < 600, (3, 1))
    assert interval([scores]) == pytest.approx(wilson(600, 1000), abs=2e-4)


def test_equal_images_leave_the_spread_of_seeds() -> None:
    """Seeds that are right independently on each image: Student's interval of the seeds' means, around one half."""
    rng = np.random.default_rng(0)
    chances = np.array([0.40, 0.46, 0.50, 0.54, 0.60])
    scores = np.stack([rng.permutation(20000) < chance * 20000 for chance in chances])
    low, high = interval([scores])
    reach = 2.776 * chances.std(ddof=1) / 5**0.5  # t quantile of 4 degrees of freedom
    assert (low, high) == pytest.approx((0.5 - reach, 0.5 + reach), abs=0.005)


def test_all_right_leaves_room_below() -> None:
    low, high = interval([np.ones((3, 100), bool)])
    assert (low, high) == pytest.approx(wilson(100, 100), abs=2e-3)
    assert interval([np.zeros((3, 100), bool)]) == pytest.approx((1 - high, 1 - low))
    assert interval([np.ones((3, 1), bool)]) == (0.0, 1.0)


def test_sets_count_the_same_whatever_their_size() -> None:
    rng = np.random.default_rng(1)
    small, large = rng.random((3, 200)) < 0.2, rng.random((3, 20000)) < 0.8
    low, high = interval([small, large])
    assert (low + high) / 2 == pytest.approx((small.mean() + large.mean()) / 2, abs=0.005)
    alone = interval([small])
    assert high - low < alone[1] - alone[0]


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("share", "between_seeds"), [(0.6, 0.0), (0.6, 0.02), (0.6, 0.1), (0.95, 0.0), (0.95, 0.02)])
def test_it_covers_whatever_varies(seeds: int, share: float, between_seeds: float) -> None:
    """Right where seed + image + noise, all normal, is above 0. 400 draws: 0.92 is 2.8 standard errors below 0.95."""
    normal = NormalDist()
    rng = np.random.default_rng(seeds)
    mean = normal.inv_cdf(share)
    seed_scale = between_seeds / normal.pdf(mean)
    truth = normal.cdf(mean / (1 + seed_scale**2) ** 0.5)
    covered = 0
    for _ in range(400):
        of_seeds = seed_scale * rng.standard_normal((seeds, 1))
        of_images = 0.85**0.5 * rng.standard_normal((1, 300))
        noise = 0.15**0.5 * rng.standard_normal((seeds, 300))
        low, high = interval([mean + of_seeds + of_images + noise > 0])
        covered += low <= truth <= high
    assert covered >= 0.92 * 400


score_tables = st.integers(2, 5).flatmap(
    lambda seeds: st.lists(st.lists(st.booleans(), min_size=seeds, max_size=seeds), min_size=2, max_size=30)
)


@given(score_tables)
def test_intervals_lie_within_0_and_1_around_the_mean_and_grow_with_the_level(table: list[list[bool]]) -> None:
    scores = np.array(table).T
    low, high = interval([scores])
    assert 0.0 <= low <= scores.mean() + 1e-12 and scores.mean() - 1e-12 <= high <= 1.0
    wider = interval([scores], level=0.99)
    assert wider[0] <= low + 1e-12 and high <= wider[1] + 1e-12


QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


def test_a_spec_whose_share_holds_no_member_is_refused() -> None:
    with pytest.raises(UserError, match=r"0\.1 allows 1 re-training after 16 trials.* write 0\.16 or more"):
        load_spec(QUICKSTART, ["confirm={share: 0.1}"])
    settings = load_spec(QUICKSTART, ["confirm={share: 0.16}"]).confirm
    assert settings is not None and settings.most_trainings(16) == settings.seeds
    assert load_spec(QUICKSTART, ["confirm={share: 0.1}", "search.trials=3"]).confirm is not None
    assert load_spec(QUICKSTART, ["confirm={share: 0.1}", "limits.budget=1cpu-h"]).confirm is not None
    assert load_spec(QUICKSTART).confirm is None


class RetrainMembers(NoLimits):
    """The control of a sweep without limits whose confirm phase retrains members of the front."""

    def __init__(self, folder: SweepFolder, spec: Spec) -> None:
        self._folder, self._spec = folder, spec

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining]:
        front, confirm = load_front(self._folder, self._spec, trials), self._spec.confirm
        assert front is not None and confirm is not None
        return plan(front, trials, confirm, seed=self._spec.search.seed, most=4).missing


def confirm_session(folder: SweepFolder, spec: Spec, slots: InProcessSlots, *, trials: int) -> None:
    """A session of the confirm phase that ends after so many trainings."""
    study, untouched = Study.open(folder.study_path, spec.parameters), folder.untouched()
    assert untouched is not None
    files, control = FolderTrialFiles(folder, spec), RetrainMembers(folder, spec)
    scheduler = TrialScheduler(spec, study, files, untouched.goals, SilentListener(), control)
    for _ in range(trials):
        job = scheduler.next_job()
        assert job is not None
        scheduler.on_end(job.key, slots.submit(job).result())
    stop = StopSignal("sweeper resume demo", 30.0)
    measurements = Measurements(slots.submit, folder, Progress("demo", 2, TYPOGRAPHIC), stop=stop, tick=lambda: None)
    measurements.confirm(current_front(folder, spec), study.trials(), spec)
    study.close()


def current_front(folder: SweepFolder, spec: Spec) -> Front:
    front = load_front(folder, spec, read_trials(folder, spec))
    assert front is not None
    return front


def test_members_are_trained_again_measured_once_and_shown(tmp_path: Path) -> None:
    text = SPEC.replace("test: {sets: [world]}", "test: {sets: [world], variants: false}")
    folder, spec = finished_sweep(tmp_path, text + "confirm: {members: 1, seeds: 3, share: 0.7}\n")
    before = current_front(folder, spec)
    assert any(point.member for point in before.points)
    slots = InProcessSlots(folder, spec)
    confirm_session(folder, spec, slots, trials=1)
    confirm_session(folder, spec, slots, trials=2)
    confirm_session(folder, spec, slots, trials=0)
    after = current_front(folder, spec)
    assert [replace(point, confirmation=None) for point in after.points] == list(before.points)
    retrained = [point for point in after.points if point.confirmation is not None]
    assert retrained and all(point.member for point in retrained)
    for point in retrained:
        confirmation = point.confirmation
        assert confirmation is not None and confirmation.seeds == 3
        assert confirmation.values is not None and confirmation.intervals is not None
        for goal in GOALS:
            low, high = confirmation.intervals[goal]
            assert low <= confirmation.values[goal] <= high
    export_point(folder, spec, after, retrained[0], tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "trained again with 3 new seeds: " in text and "| test, trained again |" in text
    jobs = [job.point for job in slots.jobs if isinstance(job, MeasureJob)]
    measured = [(point.folder, point.weights, point.strength) for point in jobs if point is not None]
    assert len(set(measured)) == len(jobs) == 3 * len(retrained), "each once, over three sessions"


def test_what_was_confirmed_is_in_every_view_of_the_front() -> None:
    pair = again(2, (0.85, 0.51), number=5), again(2, (0.83, 0.53), number=6), again(2, number=7)
    tested: dict[PointName, Hits] = {(5, "last", 1.0): hits(100, 0.4), (6, "last", 1.0): hits(100, 0.6)}
    before = front(*SEARCH)
    before = replace(before, points=tuple(replace(point, values=point.validation) for point in before.points))
    after = confirmed(before, confirmed_by(*pair, tested=tested))
    assert "trained again" not in table(before, "table") and "confirmed" not in table(before, "csv")
    low, high = interval([np.stack([np.arange(100) < 40, np.arange(100) < 60])])
    line = next(line for line in table(after, "table").splitlines() if "2 (1 failed)" in line)
    assert f"0.500 [{low:.3f}, {high:.3f}]" in line and line.endswith("no")
    assert f"0.500 [{low:.3f}, {high:.3f}] | no |" in markdown(after, limit=6500)
    rows = {row["trial"]: row for row in csv.DictReader(io.StringIO(table(after, "csv"))) if row["member"] == "True"}
    assert (rows["2"]["confirmed_seeds"], rows["2"]["confirmed_failed"], rows["2"]["confirmed_stays"]) == (
        "2",
        "1",
        "False",
    )
    assert float(rows["2"]["confirmed_test_robust_accuracy_low"]) == low
    assert rows["1"]["confirmed_seeds"] == ""
    entry = next(entry for entry in json.loads(table(after, "json")) if entry["trial"] == 2)
    assert entry["confirmation"]["intervals"]["clean_accuracy"] == [low, high]
    assert plot(after).startswith(b"\x89PNG")


@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.03, 0.01), (0.01, 0.03), (0.02, 0.02)])
def test_intervals_of_a_goal_that_is_no_mean_cover_what_a_fresh_recipe_reaches(
    of_seeds: float, of_images: float
) -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        shared = rng.normal(0, of_images)  # every seed is measured on the same images
        values = [0.4 + shared + rng.normal(0, of_seeds) for _ in range(3)]
        low, high = interval_of_values(
            values, [(value - 1.96 * of_images, value + 1.96 * of_images) for value in values]
        )
        covered += low <= 0.4 <= high
    assert covered / 2000 >= 0.945


def test_a_goal_that_is_no_mean_is_confirmed_by_its_measurements() -> None:
    skew = Goal(metric="skew", direction="minimize", short="skew", title="skew", best="least biased", view=None)
    goals = (TYPOGRAPHIC[0], skew)

    def with_skew(number: int, clean: float, value: float, **about: Any) -> TrialRecord:
        point = Point(weights="last", strength=1.0, values={"clean_accuracy": clean, "skew": value})
        return TrialRecord(number=number, state="complete", parameters={}, seed=number, points=(point,), **about)

    searched = [with_skew(0, 0.9, 0.3)]
    again = [with_skew(number, 0.88, 0.3 + 0.02 * number, confirms=0) for number in (1, 2)]
    untouched = {"clean_accuracy": 0.9, "skew": 0.5}
    shown = build_front(
        "demo", searched, goals=goals, bounds=(), untouched=make_untouched(goals=untouched), measurements={}, planned=1
    )
    names: list[PointName] = [(number, "last", 1.0) for number in (1, 2)]
    hits = {name: {"clean_accuracy": [np.arange(100) < 88]} for name in names}
    measured = {
        name: Measurement(
            values={"clean_accuracy": 0.88, "skew": value}, intervals={"skew": (value - 0.04, value + 0.04)}, images=100
        )
        for name, value in zip(names, (0.30, 0.34), strict=True)
    }
    ((_, confirmation),) = confirmations(
        shown, [*searched, *again], hits, bounds=(), untouched_goals=untouched, measurements=measured
    ).items()
    assert confirmation.values is not None and confirmation.intervals is not None
    assert confirmation.values == {"clean_accuracy": pytest.approx(0.88), "skew": pytest.approx(0.32)}
    low, high = confirmation.intervals["skew"]
    assert low < 0.30 and high > 0.34 and confirmation.stays

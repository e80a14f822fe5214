"""What a sweep's study says beside its front."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.front.search_state import final_state, search_state
from sweeper.search.importance import importance
from sweeper.spec.spec import Spec, load_spec
from sweeper.storage.sweep_folder import SweepFolder
from tests.helpers.fronts import front_of_trials
from tests.helpers.pages import searched_trials
from tests.helpers.reports import make_report, make_untouched

UNTOUCHED = make_untouched()


@pytest.fixture(scope="module")
def spec() -> Spec:
    """The reduced space, whose parameters ``searched_trials`` draws."""
    return load_spec(Path(__file__).resolve().parents[3] / "search_spaces" / "reduced" / "typo.yaml")


def test_hypervolume_after_each_trial_is_that_of_the_front_of_the_trials_so_far(tmp_path: Path, spec: Spec) -> None:
    trials = searched_trials(12)
    trials[4] = replace(trials[4], state="failed", values=None, points=())
    state = search_state(SweepFolder(tmp_path, "demo"), spec, UNTOUCHED, trials, running=False)
    assert [ended for ended, _ in state.hypervolumes] == list(range(1, 13))
    bounds = spec.bounds(UNTOUCHED.goals)
    assert bounds
    for ended, volume in state.hypervolumes:
        assert volume == pytest.approx(front_of_trials(trials[:ended], bounds=bounds).hypervolume)
    assert state.hypervolumes[-1][1] > 0
    assert state.ended == 12 and state.planned == spec.search.trials


def test_running_trials_have_their_latest_report_and_retrainings_are_left_out(tmp_path: Path, spec: Spec) -> None:
    trials = searched_trials(12, running=2)
    retraining = replace(trials[1], number=14, confirms=1)
    folder = SweepFolder(tmp_path, "demo")
    metrics = folder.trial(13).path / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    reports = [make_report({"clean_accuracy": 0.8, "robust_accuracy": 0.1 * step}, step=step) for step in (1, 2, 3)]
    metrics.write_text("".join(json.dumps(report.to_json()) + "\n" for report in reports))
    state = search_state(folder, spec, UNTOUCHED, [*trials, retraining], running=True)
    assert [trial.number for trial in state.trials] == list(range(14))
    assert state.latest == {13: reports[-1]}
    assert state.running
    assert state.importance["robust_accuracy"] == importance(spec.parameters, trials, "robust_accuracy")


def test_a_sweep_that_has_not_measured_anything_has_no_state(tmp_path: Path, spec: Spec) -> None:
    assert final_state(SweepFolder(tmp_path, "demo"), spec, []) is None

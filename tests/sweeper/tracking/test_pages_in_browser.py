"""MLflow's pages of a sweep of 300 trials, from the start page on, in headless Chromium: `make browser`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeper.front.rendering.writer import write_front
from sweeper.records import Front
from sweeper.spec.spec import load_spec
from sweeper.tracking.runs import Runs, find_runs, find_store
from sweeper.tracking.server import free_port, serving
from sweeper.tracking.tracker import Tracker
from tests.helpers.pages import made_up, searched_trials, state_of
from tests.paths import ROOT

pytestmark = pytest.mark.browser

TRIALS = 300
FLUSH_S = 600.0
LOAD_MS = 60_000


@dataclass(frozen=True)
class Served:
    base: str
    runs: Runs
    front: Front


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Served]:
    """A finished sweep in MLflow, with a server in front of it."""
    storage = tmp_path_factory.mktemp("sweeps")
    shutil.copy(empty_database, storage / "mlflow.db")
    folder = storage / "quickstart"
    folder.mkdir()
    trials = searched_trials(TRIALS)
    front = made_up(trials)
    write_front(front, folder / "front", search=state_of(trials))
    tracker = Tracker(folder, None, storage, "quickstart", "id-1")
    spec = load_spec(ROOT / "search_spaces" / "quickstart.yaml", [])
    tracker.sweep_started(spec.resolved(), {"sweeper.data_digest": "d1"})
    for trial in trials:
        tracker.trial_started(trial.number, trial.parameters, trial.seed, 0, {})
        tracker.trial_ended(trial, {"usage/device_h": 0.01})
    tracker.front_updated(front)
    tracker.sweep_ended("complete", {"usage/device_h": 3.0})
    assert tracker.flush(FLUSH_S), tracker.problem()
    tracker.close()
    store, port, runs = find_store(storage), free_port("127.0.0.1", 5600), find_runs(folder)
    assert runs is not None
    with serving(store, storage, "127.0.0.1", port):
        yield Served(f"http://127.0.0.1:{port}", runs, front)


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(LOAD_MS)
    yield page
    page.close()


def in_view(page: Any, locator: Any) -> bool:
    """Return whether an element is drawn inside the window."""
    box = locator.bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"]


def test_from_the_page_of_all_sweeps_to_a_front(page: Any, served: Served) -> None:
    page.goto(served.runs.experiment_link(served.base))
    page.get_by_text("Newest sweeps:").wait_for()
    link = page.get_by_role("link", name="front", exact=True).first
    assert in_view(page, link)
    with page.context.expect_page() as opened:  # MLflow opens links of descriptions in a new tab
        link.click()
    front_page = opened.value.frame_locator("iframe")
    front_page.locator("#validation svg").wait_for()
    assert front_page.locator("h1").inner_text() == f"Pareto front of {served.front.sweep}"


def test_the_picture_of_a_sweep_is_in_view_and_its_settings_are_parameters(page: Any, served: Served) -> None:
    page.goto(served.runs.links(served.base)["sweep"])
    strip = page.locator("img[src*='strip.png']")
    strip.wait_for()
    page.wait_for_function("""document.querySelector("img[src*='strip.png']").naturalWidth > 600""")
    assert in_view(page, strip), "without 'Show more'"
    metrics = [text for text in page.locator("a").all_inner_texts() if text.startswith(("front/", "usage/"))]
    assert metrics[0] == "front/hypervolume"
    for shown in ("dpo, ipo, kto, cross_entropy", "world ("):  # a parameter, an image set
        page.get_by_text(shown).first.scroll_into_view_if_needed()


def test_trials_on_the_front_have_the_values_of_the_front(page: Any, served: Served) -> None:
    members = [point for point in served.front.points if point.member and point.trial is not None]
    page.goto(served.runs.links(served.base)["trials on the front"])
    page.get_by_text("matching runs").wait_for()
    knee = next(point for point in members if point.name == "knee")
    row = page.locator("[role=row]", has_text=f"{round(knee.validation['robust_accuracy'], 3):g}")
    row.first.wait_for()
    assert page.locator("strong", has_text=str(len({point.trial for point in members}))).count() > 0
    cells = page.locator("[role=gridcell]").all_inner_texts()
    for member in [point for point in members if point.name in ("knee", "cleanest", "most robust")]:
        for goal, value in member.validation.items():
            assert goal == "text_confusion_rate" or f"{round(value, 3):g}" in cells, (member.name, goal)


def test_300_trials_are_listed_and_charts_begin_with_the_front(page: Any, served: Served) -> None:
    page.goto(served.runs.links(served.base)["all trials"])
    page.locator("[role=row]", has_text="trial 0").first.wait_for()
    assert page.locator("[role=row]").count() > 10
    trial = next(point.trial for point in served.front.points if point.name == "knee")
    assert trial is not None
    address = served.runs.links(served.base)["sweep"].replace(served.runs.parent, served.runs.trials[trial])
    page.goto("about:blank")  # else only the fragment changes, and the old page is still there
    page.goto(address.replace("?", "/model-metrics?"))
    first, strengths = (page.get_by_text(name, exact=True) for name in ("front", "strength_percent"))
    first.wait_for()
    strengths.scroll_into_view_if_needed()
    assert first.bounding_box()["y"] < strengths.bounding_box()["y"]

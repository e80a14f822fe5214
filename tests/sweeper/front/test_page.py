"""The page of a front: what it shows, its size, and that no text of a user becomes part of its code."""

from __future__ import annotations

import datetime
import io
import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sweeper.front.build import merged
from sweeper.front.rendering.page.data import PageData, page_data
from sweeper.front.rendering.page.page import MOST_BYTES, html_page, to_json
from sweeper.front.rendering.style import baseline_curves, label
from sweeper.front.rendering.table import table
from sweeper.front.rendering.writer import FrontFiles, write_front
from sweeper.front.search_state import SearchState
from sweeper.records import Front
from tests.helpers.pages import attribute_front, confirmed_knee, made_up, searched_trials, state_of


class _Page(HTMLParser):
    """Elements by name, addresses of other files, and the data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data

    def addresses(self) -> list[str]:
        named = [str(values[key]) for _, values in self.elements for key in ("src", "href") if key in values]
        return [address for address in named if not address.startswith("data:")]

    def data(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.scripts[0])
        return parsed


def shown(front: Front, search: SearchState | None = None) -> PageData:
    return page_data(front, search, datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC))


def noise(width: int, height: int) -> bytes:
    """Return a PNG that no compression makes small."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return png.getvalue()


def test_page_is_self_contained_and_harmless() -> None:
    evil = "</script><script>alert(1)</script><!--"
    trials = [replace(trial, parameters=trial.parameters | {"tune": evil}) for trial in searched_trials(12)]
    text = html_page(replace(made_up(trials), sweep=evil), state_of(trials))
    page = _Page(text)
    assert "<script>alert(1)" not in text
    assert len(page.scripts) == 2
    assert page.addresses() == []
    assert page.data()["sweep"] == evil
    assert {scope["name"] for scope in page.data()["scopes"]} == {evil}
    assert "Pareto front of &lt;/script&gt;" in text
    languages = [values.get("lang") for tag, values in page.elements if tag == "html"]
    assert languages == ["en"]


@pytest.mark.parametrize("worst", [False, True], ids=["as sampled", "every point on the front"])
def test_page_of_300_trials_at_ten_strengths_with_photographs_is_below_a_megabyte(worst: bool) -> None:
    trials = searched_trials(300, strengths=10)
    front = confirmed_knee(made_up(trials))
    if worst:
        front = replace(front, points=(*front.points, *(replace(p, member=True) for p in front.others)), others=())
    page = html_page(front, state_of(trials), over_strength=noise(400, 120), drawn=noise(1080, 680))
    assert len(page.encode()) < MOST_BYTES
    images = [values for tag, values in _Page(page).elements if tag == "img"]
    assert len(images) == 2 and all(image["alt"] for image in images)
    data = _Page(page).data()
    assert len(data["points"]) + len(data["others"]) == len(front.points) + len(front.others)
    assert data["table"]["left_out"] == (len(front.points) - len(data["points"]))
    assert [point["name"] for point in data["points"] if point["name"]] == [
        label(point) for point in front.points if point.name
    ]


def test_numbers_are_those_of_front_json() -> None:
    front = confirmed_knee(made_up(searched_trials(20)))
    data, entries = shown(front), json.loads(table(front, "json"))
    assert len(data.points) == len(entries)
    for point, entry in zip(data.points, entries, strict=True):
        goals = ("clean_accuracy", "robust_accuracy")
        assert point.at == tuple(entry["validation"][goal] for goal in goals)
        assert point.test is not None
        assert point.test.at == tuple(entry["values"][goal] for goal in goals)
        assert (point.test.low[0], point.test.high[0]) == tuple(entry["intervals"]["clean_accuracy"])
    titles = [column.title for column in data.table.more]
    cells = data.table.cells[0]
    assert cells[titles.index("validation text confusion rate")] == 0.1
    assert cells[titles.index("test clean accuracy")] == round(entries[0]["values"]["clean_accuracy"], 3)
    knee = next(point for point in data.points if point.name == "knee")
    assert knee.retrained is not None and knee.retrained.seeds == 3 and knee.retrained.test is not None


def test_named_points_and_their_kinds() -> None:
    data = shown(made_up(searched_trials(20)))
    named = {point.name: point.kind for point in data.points if point.name}
    assert named == {
        "knee": "member", "cleanest": "member", "most robust": "member", "untouched": "untouched", "PAINT": "baseline",
    }  # fmt: skip
    exempt = {trial.number for trial in data.trials if trial.baseline}
    assert exempt == {None, 0}
    curve = data.baselines[0].curve
    assert data.baselines[0].title == "PAINT" and len(curve) == 5 and curve[0] == (0.9, 0.3)


def test_search_panels_say_what_the_study_says() -> None:
    trials = searched_trials(24, running=2)
    search = shown(made_up(trials, test=False), state_of(trials, running=True)).search
    assert search is not None
    assert (search.running, search.ended, search.planned) == (True, 24, 26)
    assert [trial.number for trial in search.now] == [24, 25]
    assert search.now[0].goals == (0.9, 0.5) and search.now[0].progress == 0.3
    axes = {parameter.name: parameter for parameter in search.parameters}
    assert axes["beta"].log and axes["beta"].choices is None
    assert axes["blocks"].choices == ["1", "2"]
    for place, axis in enumerate(search.parameters):
        drawn = {trial.values[place] for trial in search.trials} - {None}
        assert axis.choices is None or drawn <= set(axis.choices)
    assert axes["penalty"].choices == ["0", "0.001"]
    numbers = [trial.number for trial in search.trials]
    assert numbers == list(range(1, 24))  # PAINT lies outside the space
    place = [parameter.name for parameter in search.parameters].index("beta")
    without = {trial.objective for trial in search.trials if trial.values[place] is None}
    assert without == {"cross_entropy"}
    assert {one.goal for one in search.importance} == {"clean", "robust"} and search.no_importance is None


def test_stopped_trials_are_shown_with_their_goals_then_and_failed_ones_are_not() -> None:
    trials = searched_trials(14)
    then = {"clean_accuracy": 0.8, "robust_accuracy": 0.4}
    trials[5] = replace(trials[5], state="stopped", values=None, values_then=then, stopped_at=0.5, points=())
    trials[6] = replace(trials[6], state="stopped", values=None, points=())  # an earlier version kept no goals of it
    trials[7] = replace(trials[7], state="failed", values=None, points=())
    search = shown(made_up(trials), state_of(trials)).search
    assert search is not None
    by_number = {trial.number: trial for trial in search.trials}
    assert by_number.keys() == set(range(1, 14)) - {6, 7}
    assert by_number[5].stopped and by_number[5].goals == (0.8, 0.4)


def test_importance_is_hidden_with_its_reason_where_trials_are_few() -> None:
    trials = searched_trials(8)
    search = shown(made_up(trials), state_of(trials)).search
    assert search is not None
    assert search.importance == []
    assert search.no_importance == "Hidden: 7 complete trials of the search; below 10 it would be chance."


def test_without_trials_the_page_is_of_the_front_alone() -> None:
    assert shown(made_up(searched_trials(12))).search is None
    text = html_page(made_up(searched_trials(12)))
    hidden = [values["id"] for tag, values in _Page(text).elements if tag == "details" and "hidden" in values]
    assert hidden == ["running", "hypervolume", "slices", "importance", "parallel"]


def test_an_attribute_task_shows_its_own_goals() -> None:
    data = shown(attribute_front())
    assert [(goal.short, goal.direction) for goal in data.goals] == [("content", "maximize"), ("skew", "minimize")]
    assert data.window.high[1] > 1.02 > data.window.high[0]  # only a share of right answers ends at 1


def test_a_front_of_several_sweeps_keeps_their_trials_apart() -> None:
    few, more = (made_up(searched_trials(count, seed=count)) for count in (12, 14))
    front = merged([replace(few, sweep="few"), replace(more, sweep="more")])
    data = shown(front)
    named = [(trial.sweep, trial.number) for trial in data.trials]
    assert len(named) == len(set(named))
    assert {trial.sweep for trial in data.trials if trial.number is not None} == {"few", "more"}
    for curve in baseline_curves(front).values():
        assert len({point.sweep for point in curve[1:]}) == 1


@pytest.mark.parametrize("text", ["</script>", "<!--", "é 你好"])
def test_json_survives_in_a_script_element(text: str) -> None:
    written = to_json(shown(replace(made_up(searched_trials(3)), sweep=text)))
    assert "<" not in written
    assert json.loads(written)["sweep"] == text


def test_a_page_is_drawn_while_trials_run_without_the_other_files(tmp_path: Path) -> None:
    trials = searched_trials(6, running=1)
    front, search = made_up(trials, test=False), state_of(trials, running=True)
    built, written = threading.Event(), list[Front]()
    files = FrontFiles(tmp_path, written.append)
    try:
        files.offer_page(_building(front, search, built))
        assert built.wait(60)
    finally:
        files.close()
    assert [path.name for path in tmp_path.iterdir()] == ["front.html"]
    assert written == []
    assert _Page((tmp_path / "front.html").read_text(encoding="utf-8")).data()["search"]["running"] is True


def test_a_front_takes_the_place_of_a_page_that_waits(tmp_path: Path) -> None:
    trials = searched_trials(6, running=1)
    front, search = made_up(trials, test=False), state_of(trials, running=True)
    built, drawn = threading.Event(), threading.Event()
    files = FrontFiles(tmp_path, lambda _: drawn.set())
    try:
        files.offer_page(_building(front, search, built))
        assert built.wait(60)
        files.offer(_building(front, search, threading.Event()))
        assert drawn.wait(60)
    finally:
        files.close()
    assert (tmp_path / "front.json").exists()


def _building(front: Front, search: SearchState, built: threading.Event) -> Callable[[], tuple[Front, SearchState]]:
    def build() -> tuple[Front, SearchState]:
        built.set()
        return front, search

    return build


def test_pictures_of_the_folder_stay_on_the_page(tmp_path: Path) -> None:
    write_front(replace(made_up(searched_trials(12)), curves=("clean_accuracy", "robust_accuracy")), tmp_path)
    text = (tmp_path / "front.html").read_text(encoding="utf-8")
    assert re.findall(r'<img alt="Over the strength [^"]*" src="data:image/png;base64,', text)

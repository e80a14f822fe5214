"""The page of a front by what is visible, in headless Chromium at three widths: `make browser`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.front.build import merged
from sweeper.front.rendering.table import table
from sweeper.front.rendering.writer import write_front
from sweeper.front.search_state import SearchState
from sweeper.records import Front
from tests.helpers.pages import attribute_front, confirmed_knee, far_trial, made_up, searched_trials, state_of

pytestmark = pytest.mark.browser

WIDTHS = (1400, 800, 400)
SHARE = 1 / 3
"""Of a panel, at least, for its front."""
LEAST_FONT_PX = 10
RELOAD_MS = 15_100
SECTIONS = ("hypervolume", "slices", "importance", "parallel")
OPEN = "#" + "&".join(f"open={section}" for section in SECTIONS)

RECTANGLES = """selector => [...document.querySelectorAll(selector)].map(element => {
  const {left, right, top, bottom} = element.getBoundingClientRect();
  return {left, right, top, bottom, text: element.textContent};
})"""
TWO_FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
VISIBLE_FONTS = """() => {
  const sizes = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || ["SCRIPT", "STYLE", "NOSCRIPT", "title"].includes(parent.tagName)) continue;
    if (!parent.getClientRects().length) continue;
    const scale = parent.ownerSVGElement ? parent.getScreenCTM().a : 1;
    sizes.push([parseFloat(getComputedStyle(parent).fontSize) * scale, text]);
  }
  return sizes;
}"""


def _fronts() -> dict[str, tuple[Front, SearchState | None]]:
    trials = searched_trials(24)
    many = searched_trials(300, strengths=10)
    alone = [replace(searched_trials(1, strengths=1)[0], baseline=None)]
    far = [*trials, far_trial(len(trials))]
    return {
        "some": (confirmed_knee(made_up(trials)), state_of(trials)),
        "many": (made_up(many), state_of(many)),
        "alone": (made_up(alone), None),
        "far": (made_up(far), state_of(far)),
        "untested": (made_up(trials, test=False), state_of(trials)),
        "attribute": (attribute_front(), None),
        "joint": (merged([replace(made_up(trials), sweep="first"), replace(made_up(many), sweep="second")]), None),
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return front.html of each made-up front, by its name."""
    written = {}
    for name, (front, search) in _fronts().items():
        folder = tmp_path_factory.mktemp(name)
        write_front(front, folder, search=search)
        written[name] = folder / "front.html"
    return written


class _Tab:
    """A page in the browser, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, width: int, fragment: str = "", height: int = 900) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.clock.install()
        self.page.goto(path.as_uri() + fragment)

    def rectangles(self, selector: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate(RECTANGLES, selector)
        return found

    def column(self, title: str) -> list[str]:
        """Return the cells of a column of the table."""
        titles = self.page.locator("#points th").all_inner_texts()
        place = next(i for i, text in enumerate(titles) if text.rstrip(" ▲▼") == title)
        return [text for text in self.page.locator(f"#points td:nth-child({place + 1})").all_inner_texts() if text]

    def shown(self, panel: str = "validation", kind: str = "") -> int:
        return int(self.page.locator(f"#{panel} .point{kind}").count())


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """Return a function that opens a page; at the end no page may have had an error or asked for another file."""
    opened: list[_Tab] = []

    def open_page(path: Path, width: int = 1400, fragment: str = "", height: int = 900) -> _Tab:
        opened.append(_Tab(browser, path, width, fragment, height))
        return opened[-1]

    yield open_page
    for page in opened:
        page.page.close()
        assert page.errors == []
        assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)


def _overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a["left"] < b["right"] and b["left"] < a["right"] and a["top"] < b["bottom"] and b["top"] < a["bottom"])


def _inside(inner: dict[str, Any], outer: dict[str, Any], slack: float = 0.5) -> bool:
    return bool(
        inner["left"] >= outer["left"] - slack
        and inner["right"] <= outer["right"] + slack
        and inner["top"] >= outer["top"] - slack
        and inner["bottom"] <= outer["bottom"] + slack
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["some", "many", "alone", "far", "untested", "attribute", "joint"])
def test_labels_lie_in_their_panel_and_not_on_each_other(
    name: str, width: int, pages: dict[str, Path], tab: Any
) -> None:
    page = tab(pages[name], width)
    panels = ["validation"] if name == "untested" else ["validation", "test"]
    for panel in panels:
        (svg,) = page.rectangles(f"#{panel} svg")
        labels = page.rectangles(f"#{panel} text.label")
        assert any(label["text"] == "knee" for label in labels)
        assert any(label["text"].startswith("untouched") for label in labels)
        assert [label["text"] for label in labels if not _inside(label, svg)] == []
        pairs = itertools.combinations(labels, 2)
        assert [(a["text"], b["text"]) for a, b in pairs if _overlap(a, b)] == []
        texts = page.rectangles(f"#{panel} svg text")
        assert [text["text"] for text in texts if not _inside(text, svg)] == []
        ticks = page.rectangles(f"#{panel} svg text.tick")
        assert [(a["text"], b["text"]) for a, b in itertools.combinations(ticks, 2) if _overlap(a, b)] == []
    assert page.page.locator("#test").is_visible() == (name != "untested")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["some", "many", "far", "untested", "attribute", "joint"])
def test_the_front_takes_a_third_of_its_panel(name: str, width: int, pages: dict[str, Path], tab: Any) -> None:
    page = tab(pages[name], width)
    (frame,) = page.rectangles("#validation .frame")
    members = page.rectangles("#validation .point.member")
    assert len(members) > 1
    across = max(m["right"] for m in members) - min(m["left"] for m in members)
    down = max(m["bottom"] for m in members) - min(m["top"] for m in members)
    assert across >= SHARE * (frame["right"] - frame["left"])
    assert down >= SHARE * (frame["bottom"] - frame["top"])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["some", "many", "alone", "attribute", "joint"])
def test_the_page_never_scrolls_sideways_and_its_text_is_readable(
    name: str, width: int, pages: dict[str, Path], tab: Any
) -> None:
    page = tab(pages[name], width, OPEN).page
    for columns in ("eight", "all"):
        if columns == "all":
            page.click("#columns")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = [(size, text) for size, text in page.evaluate(VISIBLE_FONTS) if size < LEAST_FONT_PX]
    assert small == []


@pytest.mark.parametrize(("width", "beside"), [(1400, True), (800, True), (700, True), (699, False), (400, False)])
def test_panels_stand_beside_each_other_from_700_px_with_the_legend_below(
    width: int, beside: bool, pages: dict[str, Path], tab: Any
) -> None:
    page = tab(pages["some"], width)
    validation, test = (page.rectangles(f"#{panel}")[0] for panel in ("validation", "test"))
    assert (test["left"] >= validation["right"]) == beside
    assert (test["top"] >= validation["bottom"]) == (not beside)
    (legend,) = page.rectangles("#legend")
    assert legend["top"] >= max(validation["bottom"], test["bottom"])
    scales = [page.page.locator(f"#{panel} svg text.tick").all_text_contents() for panel in ("validation", "test")]
    assert scales[0] == scales[1]


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_of_sections_keep_their_texts_inside(width: int, pages: dict[str, Path], tab: Any) -> None:
    page = tab(pages["some"], width, OPEN)
    for section in ("hypervolume", "slices", "parallel"):
        drawn = page.page.locator(f"#{section} svg")
        assert drawn.count() > 0
        for i in range(drawn.count()):
            box = drawn.nth(i).bounding_box()
            outer = {
                "left": box["x"], "right": box["x"] + box["width"], "top": box["y"], "bottom": box["y"] + box["height"],
            }  # fmt: skip
            texts = (
                drawn.nth(i)
                .locator("text")
                .evaluate_all(
                    "texts => texts.map(text => { const {left, right, top, bottom} = text.getBoundingClientRect();"
                    " return {left, right, top, bottom, text: text.textContent}; })"
                )
            )
            assert [text["text"] for text in texts if not _inside(text, outer)] == []
            assert [(a["text"], b["text"]) for a, b in itertools.combinations(texts, 2) if _overlap(a, b)] == []
    assert page.page.locator("#importance .bar").count() > 0
    assert page.page.locator("#importance .bars").first.bounding_box()["width"] <= width


def test_points_outside_the_window_are_counted_not_drawn(pages: dict[str, Path], tab: Any) -> None:
    page, without = tab(pages["far"]), tab(pages["some"])
    said = [int("".join(filter(str.isdigit, one.page.inner_text("#outside"))) or 0) for one in (page, without)]
    assert said[0] == said[1] + 1
    assert page.shown() == without.shown()


@pytest.mark.parametrize("width", WIDTHS)
def test_filters_act_on_panels_table_and_slices_and_survive_a_reload(
    width: int, pages: dict[str, Path], tab: Any
) -> None:
    page = tab(pages["some"], width, "#open=slices")
    slices = "#slices svg path[fill]:not([fill=none]), #slices svg path[stroke][fill='#fff']"
    before = page.shown(kind=".other"), page.page.locator(slices).count()
    assert "kto" in page.column("objective")
    page.page.uncheck("input[name='objective:kto']")
    page.page.uncheck("input[name='scope:visual']")
    after = page.shown(kind=".other"), page.page.locator(slices).count()
    assert after[0] < before[0] and after[1] < before[1]
    assert "kto" not in page.column("objective")
    names = page.column("point")
    assert any(name.startswith("PAINT") for name in names) and "untouched" in names  # whatever the filters are
    page.page.reload()
    assert not page.page.is_checked("input[name='objective:kto']")
    assert not page.page.is_checked("input[name='scope:visual']")
    assert (page.shown(kind=".other"), page.page.locator(slices).count()) == after
    page.page.check("input[name='objective:kto']")
    page.page.check("input[name='scope:visual']")
    assert (page.shown(kind=".other"), page.page.locator(slices).count()) == before


@pytest.mark.parametrize("width", WIDTHS)
def test_pointing_at_any_point_joins_its_trial_and_says_what_it_is(
    width: int, pages: dict[str, Path], tab: Any
) -> None:
    page = tab(pages["some"], width, height=700)
    for panel in ("validation", "test"):
        page.page.locator(f"#{panel}").scroll_into_view_if_needed()
        page.page.evaluate(TWO_FRAMES)  # scrolling closes the box, a frame later
        for member in page.rectangles(f"#{panel} .point.member"):
            page.page.mouse.move((member["left"] + member["right"]) / 2, (member["top"] + member["bottom"]) / 2)
            assert page.page.locator("#box").is_visible()
            (box,) = page.rectangles("#box")
            assert _inside(box, {"left": 0, "top": 0, "right": width, "bottom": 700})
            assert page.page.evaluate("box => box.scrollWidth <= box.clientWidth", page.page.query_selector("#box"))
            assert page.page.evaluate("box => box.scrollHeight <= box.clientHeight", page.page.query_selector("#box"))
            assert "at strength" in box["text"] and "learning rate" in box["text"]
            assert page.page.locator("#validation .strengths").count() == 1
        page.page.mouse.move(1, 1)
        assert page.page.locator("#box").is_hidden()
        assert page.page.locator(".strengths").count() == 0


def test_keyboard_walks_over_all_points(pages: dict[str, Path], tab: Any) -> None:
    page = tab(pages["untested"])
    page.page.locator("#columns").focus()
    while not page.page.evaluate("document.activeElement.matches('#validation .point')"):
        page.page.keyboard.press("Shift+Tab")
    seen = set()
    for _ in range(page.shown()):
        assert page.page.locator("#box").is_visible()
        seen.add(page.page.evaluate("document.activeElement.dataset.point"))
        assert "strength" in page.page.evaluate("document.activeElement.getAttribute('aria-label')")
        page.page.keyboard.press("ArrowRight")
    assert len(seen) == page.shown()
    page.page.keyboard.press("Escape")
    assert page.page.locator("#box").is_hidden()


def test_a_tap_opens_the_box_and_a_second_one_beside_closes_it(pages: dict[str, Path], browser: Any) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto(pages["some"].as_uri())
    page.locator("#validation .point.untouched").tap()
    assert page.locator("#box").is_visible()
    page.locator("h1").tap()
    assert page.locator("#box").is_hidden()
    context.close()


def test_table_has_eight_columns_with_the_numbers_of_front_json(pages: dict[str, Path], tab: Any) -> None:
    front = _fronts()["some"][0]
    page = tab(pages["some"])
    assert page.page.locator("#points th").count() == 8
    for title, key, metric in (
        ("validation clean", "validation", "clean_accuracy"),
        ("validation robust", "validation", "robust_accuracy"),
        ("test clean", "values", "clean_accuracy"),
        ("test robust", "values", "robust_accuracy"),
    ):
        expected = [f"{entry[key][metric]:.3f}" for entry in json.loads(table(front, "json"))]
        assert page.column(title) == expected
    page.page.click("#points th:nth-child(5) button")
    assert page.column("validation clean") == sorted(page.column("validation clean"), reverse=True)
    page.page.click("#points th:nth-child(5) button")
    assert page.column("validation clean") == sorted(page.column("validation clean"))
    page.page.click("#columns")
    assert page.page.locator("#points th").count() > 8
    assert "beta" in page.page.locator("#points th").all_inner_texts()


def test_exact_ties_are_rounded_as_in_python(tmp_path: Path, tab: Any) -> None:
    trials = searched_trials(6)
    ties = [n / 16 for n in range(1, 16, 2)] + [0.0005, 0.1235, 0.2345, 0.9995]
    for place, value in enumerate(ties):
        front = made_up(trials, test=False)
        first = replace(front.points[0], validation={"clean_accuracy": value, "robust_accuracy": 0.5})
        write_front(replace(front, points=(first, *front.points[1:])), tmp_path / str(place))
        page = tab(tmp_path / str(place) / "front.html")
        assert page.column("validation clean")[0] == f"{value:.3f}"


def test_a_running_sweep_reloads_itself_with_filters_and_place_kept(tmp_path: Path, tab: Any, browser: Any) -> None:
    trials = searched_trials(24, running=2)
    front, search = made_up(trials, test=False), state_of(trials, running=True)
    write_front(front, tmp_path, search=search)
    page = tab(tmp_path / "front.html", 800, "#open=running", height=500)
    assert "running: 24 of 26 trials, as of " in page.page.inner_text("#state")
    assert page.page.locator("#running tbody tr").count() == 2
    page.page.uncheck("input[name='objective:dpo']")
    page.page.evaluate("scrollTo(0, 300)")
    write_front(replace(front, sweep="later"), tmp_path, search=search)
    page.page.clock.fast_forward(RELOAD_MS)
    page.page.wait_for_function("document.title.includes('later')")
    assert not page.page.is_checked("input[name='objective:dpo']")
    assert page.page.evaluate("scrollY") == 300
    page.page.click("#pause")
    assert "paused=1" in page.page.url
    ended = tmp_path / "ended"
    write_front(front, ended, search=replace(search, running=False))
    over = tab(ended / "front.html")
    assert not over.page.locator("#pause").is_visible()
    framed = tmp_path / "frame.html"
    framed.write_text('<iframe src="front.html" sandbox="allow-scripts" width="700" height="900"></iframe>')
    inside = tab(framed)
    frame = inside.page.frames[1]
    assert frame.locator("#validation .point.member").count() > 0
    assert not frame.locator("#pause").is_visible()
    for one in (page, over, inside):
        one.page.evaluate("window.stays = true")
        frame.evaluate("window.stays = true")
        one.page.clock.fast_forward(2 * RELOAD_MS)
        one.page.evaluate(TWO_FRAMES)
        assert one.page.evaluate("window.stays") and frame.evaluate("window.stays")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sweep_that_has_just_begun_has_a_page(tmp_path: Path, width: int, tab: Any) -> None:
    trials = searched_trials(0, running=2)
    write_front(made_up(trials, test=False), tmp_path, search=state_of(trials, running=True))
    page = tab(tmp_path / "front.html", width, OPEN + "&open=running").page
    assert "running: 0 of 2 trials" in page.inner_text("#state")
    assert page.locator("#running tbody tr").count() == 2
    for section in SECTIONS:
        assert page.inner_text(f"#{section} .body") != ""
    assert page.locator("#validation .point.untouched").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_works_in_a_frame_like_that_of_mlflow(tmp_path: Path, pages: dict[str, Path], tab: Any) -> None:
    """MLflow 3.17 shows an artifact as a blob in a sandboxed frame, 100 % wide."""
    text = json.dumps(pages["some"].read_text(encoding="utf-8")).replace("<", "\\u003c")
    script = f"const text = {text}; const blob = new Blob([text], {{type: 'text/html'}});"
    script += "document.querySelector('iframe').src = URL.createObjectURL(blob);"
    framed = tmp_path / "frame.html"
    frame_element = '<iframe sandbox="allow-scripts" style="width: 100%; height: 900px; border: 0"></iframe>'
    framed.write_text(f"<!doctype html><meta charset=utf-8>{frame_element}<script>{script}</script>")
    page = tab(framed, 900).page
    frame = page.frame_locator("iframe")
    frame.locator("#validation .point.untouched").hover()
    assert frame.locator("#box").is_visible()
    frame.locator("input[name='objective:kto']").uncheck()
    objectives = frame.locator("#points td:nth-child(2)").all_inner_texts()
    assert objectives and "kto" not in objectives
    frame.locator("#slices summary").click()
    frame.locator("#slices svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 900


def test_strings_of_users_are_shown_as_text(tmp_path: Path, tab: Any) -> None:
    evil = "</script><img src=x onerror=document.title='hit'>"
    trials = [replace(trial, parameters=trial.parameters | {"tune": evil}) for trial in searched_trials(12)]
    write_front(replace(made_up(trials), sweep=evil), tmp_path, search=state_of(trials))
    page = tab(tmp_path / "front.html", 1400, OPEN)
    assert page.page.locator("img[src=x]").count() == 0
    assert evil in page.page.inner_text("h1")
    assert page.page.title() == f"Pareto front of {evil}"
    assert evil.replace("_", " ") in page.column("scope")

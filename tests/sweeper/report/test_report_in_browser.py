"""A report as a browser shows it, on wide and narrow screens and on paper: `make browser`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweeper.cli.main import app
from tests.helpers.finished_sweep import finished_sweep

pytestmark = pytest.mark.browser

LEAST_FONT_PX = 10


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, _ = finished_sweep(tmp_path_factory.mktemp("report"))
    result = CliRunner().invoke(app, ["report", folder.name, "--storage", str(folder.storage)])
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


@pytest.mark.parametrize(("width", "media"), [(1200, "screen"), (400, "screen"), (720, "print")])
def test_a_report_fits_and_asks_for_nothing(report: Path, browser: Any, width: int, media: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.emulate_media(media=media)
    page.goto(report.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()] and not errors
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing but tables scrolls sideways"
    drawn = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert len(drawn) > 3 and all(drawn)
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, td, li')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert media == "print" or min(sizes) >= LEAST_FONT_PX
    page.close()


def test_a_report_is_read_without_scripts(report: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#front table").is_visible() and page.locator("#gallery li").first.is_visible()
    context.close()

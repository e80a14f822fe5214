"""A shipped spec is run by its name; a file of that name comes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.errors import UserError
from sweeper.spec.shipped import shipped_specs, spec_file
from tests.paths import ROOT


def test_shipped_specs_are_those_of_search_spaces() -> None:
    files = {file.relative_to(ROOT / "search_spaces") for file in (ROOT / "search_spaces").rglob("*.yaml")}
    assert {Path(f"{name}.yaml") for name in shipped_specs()} == files
    assert spec_file(Path("quickstart")) == ROOT / "search_spaces" / "quickstart.yaml"
    assert spec_file(Path("reduced/typo")) == ROOT / "search_spaces" / "reduced" / "typo.yaml"


def test_a_path_that_exists_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("name: mine")
    assert spec_file(Path("quickstart")) == Path("quickstart")
    assert spec_file(Path("quickstart.yaml")) == Path("quickstart.yaml"), "whoever reads it says that it is not there"


@pytest.mark.parametrize("command", ["run", "check", "preview"])
def test_an_unknown_name_is_told_with_those_that_ship(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, [command, "quikstart"])
    text = str(told.exception) if isinstance(told.exception, UserError) else told.output
    assert "quikstart is neither a file nor a spec that ships with sweeper; did you mean `quickstart`?" in text
    assert told.exit_code != 0 and "reduced/typo" in text


def test_preview_draws_a_shipped_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = CliRunner().invoke(app, ["preview", "quickstart", "--images", "1"])
    assert drawn.exit_code == 0 and Path("preview.png").stat().st_size > 0

"""The Python API on a finished sweep: its docstrings' examples, and the same numbers and words as the command line."""

from __future__ import annotations

import doctest
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper import api
from sweeper.cli.main import app
from tests.helpers.finished_sweep import finished_sweep
from tests.paths import ROOT

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
START_RAY = {"sweeper.api.run"}
"""Its examples run in ``tests/integration/test_api.py``."""


def examples() -> list[doctest.DocTest]:
    return [found for found in doctest.DocTestFinder().find(api, globs=dict(vars(api))) if found.examples]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``demo.yaml`` and the storage ``sweeps``, which holds the finished sweep ``demo``."""
    home = tmp_path_factory.mktemp("home")
    finished_sweep(home)
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, as working directory with the default storage."""
    monkeypatch.chdir(home)
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    return home


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_public_function_has_examples() -> None:
    named = {found.name.removeprefix("sweeper.api.").partition(".")[0] for found in examples()}
    errors = {"SweepFailed", "SweepStopped", "UnavailableError", "UserError"}
    assert named - {"sweeper"} == set(api.__all__) - errors


@pytest.mark.parametrize(
    "example", [found for found in examples() if found.name not in START_RAY], ids=lambda found: found.name
)
def test_examples_of_docstrings_are_true(example: doctest.DocTest, here: Path) -> None:
    told = io.StringIO()
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=told.write)
    assert told.getvalue() == ""


@pytest.mark.parametrize("command", [("front", "demo"), ("trials", "demo"), ("list",)], ids=lambda words: words[0])
def test_tables_are_those_of_the_command_line(command: tuple[str, ...], here: Path) -> None:
    import pandas

    tables = {"front": lambda: api.open_sweep("demo").front(), "trials": lambda: api.open_sweep("demo").trials(),
              "list": lambda: api.sweeps()}  # fmt: skip
    as_csv = printed(*command, "--format", "csv")
    table = tables[command[0]]()
    assert table.to_csv(index=False) == pandas.read_csv(io.StringIO(as_csv), dtype=str, keep_default_na=False).to_csv(
        index=False
    )
    assert list(table.columns) == as_csv.splitlines()[0].split(",")


def test_measurements_are_those_of_the_command_line(here: Path) -> None:
    data = ["--data", "demo.yaml", "--images", "20"]
    printed_rows = json.loads(printed("evaluate", "local-dir:clip", *data, "--format", "json"))
    rows = json.loads(
        api.evaluate("local-dir:clip", "demo.yaml", images=20).to_json(orient="records", double_precision=15)
    )
    assert [row["set"] for row in rows] == [row["set"] for row in printed_rows] and len(rows) > 1
    for row, printed_row in zip(rows, printed_rows, strict=True):
        assert row == pytest.approx(printed_row, abs=1e-12)
    compared = api.compare("demo:untouched", "demo:paint")
    printed_rows = json.loads(printed("compare", "demo:untouched", "demo:paint", "--format", "json"))
    assert compared["low"].tolist() == [row["low"] for row in printed_rows]
    assert compared["verdict"].tolist() == [row["verdict"] for row in printed_rows]


def test_status_is_that_of_the_command_line(here: Path) -> None:
    assert api.open_sweep("demo").status() == printed("status", "demo").removesuffix("\n")


def test_a_picture_is_shown_inline_by_a_notebook(here: Path) -> None:
    picture = api.open_sweep("demo").picture()
    assert picture._repr_png_().startswith(b"\x89PNG") and len(repr(picture)) < 100


def test_errors_have_the_words_of_the_command_line(here: Path, tmp_path: Path) -> None:
    spec = (here / "demo.yaml").read_text().replace("beta:", "betta:").replace("trials: 2", "trials: many")
    (tmp_path / "bad.yaml").write_text(spec)
    many, demo = "search.trials=many", api.open_sweep("demo")
    for call, words in (
        (lambda: api.run(tmp_path / "bad.yaml"), ("run", str(tmp_path / "bad.yaml"))),
        (lambda: api.run("quickstrat"), ("run", "quickstrat")),
        (lambda: api.run("demo.yaml", changes={"search.trials": "many"}), ("run", "demo.yaml", "--set", many)),
        (lambda: api.open_sweep("absent"), ("status", "absent")),
        (lambda: api.resume("absent"), ("resume", "absent")),
        (lambda: demo.export("demo.yaml"), ("export", "demo", "demo.yaml", "--no-register")),
        (lambda: demo.export("other", pick="tallest"), ("export", "demo", "other", "--pick", "tallest")),
        (lambda: api.evaluate("clip", "world", attack="paper"), ("evaluate", "clip", "--attack", "paper")),
    ):
        with pytest.raises(api.UserError) as raised:
            call()
        said = CliRunner().invoke(app, list(words))
        assert isinstance(said.exception, api.UserError) and str(said.exception) == str(raised.value)


def test_errors_of_the_process_of_a_sweep_are_exceptions(here: Path) -> None:
    with pytest.raises(api.UserError, match=r"^a sweep 'demo' exists.*sweeper resume demo"):
        api.run("demo.yaml")
    with pytest.raises(api.UserError, match=r"^--budget seven: "):
        api.resume("demo", budget="seven")
    with pytest.raises(api.UnavailableError, match=r"127\.0\.0\.1:1"):
        api.resume("demo", address="127.0.0.1:1")


def test_a_mapping_is_a_spec(here: Path) -> None:
    import yaml

    spec = yaml.safe_load((here / "demo.yaml").read_text())
    with pytest.raises(api.UserError, match="needs a name"):
        api.run(spec)
    with pytest.raises(api.UserError, match=r"^a sweep 'demo' exists"):
        api.run({**spec, "name": "demo"})  # local-dir:clip is that of the working directory
    with pytest.raises(api.UserError, match="of type set"):
        api.run({**spec, "name": "demo", "points": {1}})


def test_a_sweep_that_cannot_be_read_is_a_warning(here: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "spec.resolved.json").write_text("")
    with pytest.warns(UserWarning, match="^broken: "):
        assert api.sweeps(tmp_path)["state"].tolist() == ["unreadable"]


def test_the_api_is_imported_without_what_is_heavy() -> None:
    script = "import sys, sweeper.api; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"pandas", "numpy", "torch", "ray", "mlflow", "optuna", "pydantic"} & set(out.split())

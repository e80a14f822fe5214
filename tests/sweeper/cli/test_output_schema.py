"""What commands print for scripts follows the schema that they state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError
from typer.testing import CliRunner

from sweeper.cli.main import app
from sweeper.cli.output_schema import page, schemas
from sweeper.cli.tables import as_csv, as_json
from sweeper.models.rerun import Rerun
from tests.helpers.output import assert_csv_fits, assert_json_fits
from tests.paths import ROOT


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sweep whose members were trained again, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("storage")
    shutil.copytree(ROOT / "tests" / "sweeper" / "storage" / "early_sweep", folder / "early")
    shutil.copytree(folder / "early", folder / "torn")
    (folder / "torn" / "spec.resolved.json").write_text("{")
    return folder


def printed(storage: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--storage", str(storage)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


COMMANDS = {
    "list": ("list",),
    "status": ("status", "early"),
    "trials": ("trials", "early"),
    "show": ("show", "early", "3"),
    "front": ("front", "early"),
}


@pytest.mark.parametrize("listing", COMMANDS)
def test_json_and_csv_follow_the_stated_schema(storage: Path, listing: str) -> None:
    data = assert_json_fits(listing, printed(storage, *COMMANDS[listing], "--format", "json"))
    rows = assert_csv_fits(listing, printed(storage, *COMMANDS[listing], "--format", "csv"))
    assert data and rows
    if isinstance(data, list):
        assert len(rows) == len(data)


def test_a_front_of_several_sweeps_follows_it_too(storage: Path, tmp_path: Path) -> None:
    for name in ("early", "other"):
        shutil.copytree(storage / "early", tmp_path / name)
    sweep = json.loads((tmp_path / "other" / "sweep.json").read_text())
    (tmp_path / "other" / "sweep.json").write_text(json.dumps({**sweep, "name": "other"}))
    merged = assert_json_fits("front", printed(tmp_path, "front", "early", "other", "--format", "json"))
    assert {point["sweep"] for point in merged} & {"early", "other"}
    assert_csv_fits("front", printed(tmp_path, "front", "early", "other", "--format", "csv"))


def test_a_sweep_that_cannot_be_read_has_the_same_keys(storage: Path, tmp_path: Path) -> None:
    shutil.copytree(storage / "torn", tmp_path / "torn")
    (row,) = assert_json_fits("list", printed(tmp_path, "list", "--format", "json"))
    assert row["state"] == "unreadable" and row["device_h"] is None


def test_show_has_what_its_text_has(storage: Path) -> None:
    front = json.loads(printed(storage, "front", "early", "--format", "json"))
    number = str(front[0]["trial"])
    text = printed(storage, "show", "early", number)
    record = json.loads(printed(storage, "show", "early", number, "--format", "json"))
    assert f"trial {number} of early: {record['state']}" in text
    for name, value in record["parameters"].items():
        assert f"  {name}: {value}" in text
    for epoch in record["epochs"]:
        assert f"{epoch['clean_accuracy']:.3f}" in text and f"{epoch['loss']:.4f}" in text
    assert len(record["points"]) == len(text.split("points (")[1].splitlines()) - 2


def test_versions_for_scripts() -> None:
    result = CliRunner().invoke(app, ["env", "--format", "json"])
    values = {row["name"]: row["value"] for row in assert_json_fits("env", result.stdout)}
    assert set(values) >= {"sweeper", "python", "torch", "optuna"}
    assert f"torch: {values['torch']}\n" in CliRunner().invoke(app, ["env"]).stdout


def test_numbers_that_are_not_finite_are_missing() -> None:
    rows: list[dict[str, object]] = [{"loss": float("nan"), "bounds": [1.0, float("inf")], "kept": 0.5}]
    assert json.loads(as_json(rows)) == [{"loss": None, "bounds": [1.0, None], "kept": 0.5}]
    assert as_csv([{"loss": float("nan"), "kept": 0.5}]) == "loss,kept\n,0.5\n"


def test_the_schema_is_printed_and_is_no_empty_promise() -> None:
    result = CliRunner().invoke(app, ["schema", "output"])
    assert json.loads(result.stdout) == schemas()
    for schema in schemas().values():
        Draft202012Validator.check_schema(schema)
    for wrong in ([{}], [{"name": 3, "state": "complete"}], {}):
        with pytest.raises(ValidationError):
            Draft202012Validator(schemas()["list"]).validate(wrong)


def test_the_page_is_made_from_it() -> None:
    result = CliRunner().invoke(app, ["schema", "output", "--markdown"])
    assert result.stdout == page() == (ROOT / "docs" / "formats.md").read_text(), (
        "make it again: sweeper schema output --markdown > docs/formats.md"
    )


@pytest.mark.parametrize("recorded", [True, False])
def test_a_training_again_follows_it(recorded: bool) -> None:
    goals = {"clean_accuracy": 0.9, "robust_accuracy": 0.5}
    again = Rerun(
        sweep="early",
        trial=3,
        state="complete" if recorded else "failed",
        seed=7,
        recorded=goals if recorded else None,
        intervals={goal: (value - 0.1, value + 0.1) for goal, value in goals.items()} if recorded else {},
        again=goals,
        other_seeds={8: goals},
    )
    assert_json_fits("rerun", as_json(again.as_json()))
    assert len(assert_csv_fits("rerun", as_csv(again.rows()))) == 2

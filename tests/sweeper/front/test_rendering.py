"""The front's table, JSON, CSV, plot and HTML page."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from sweeper.front.rendering.table import markdown, table
from sweeper.front.rendering.writer import write_front
from sweeper.records import Front, FrontPoint
from tests.helpers.goals import TYPOGRAPHIC


def point(trial: int | None, clean: float, robust: float, measured: bool = True, **more: Any) -> FrontPoint:
    """Test values lie 0.01 below validation, intervals reach 0.02 to either side."""
    parameters = {"objective": "kto", "tune": "visual", "beta": 0.12345678901} if trial is not None else {}
    test = {"clean_accuracy": clean - 0.01, "robust_accuracy": robust - 0.01, "reading": 0.25}
    intervals = {key: (test[key] - 0.02, test[key] + 0.02) for key in ("clean_accuracy", "robust_accuracy")}
    about: dict[str, Any] = {"weights": "last", "strength": 0.5, "parameters": parameters, **more}
    about |= {"values": test, "intervals": intervals} if measured else {}
    return FrontPoint(trial=trial, validation={"clean_accuracy": clean, "robust_accuracy": robust}, **about)


def front(measured: bool = True, name: str = "demo") -> Front:
    return Front(
        goals=TYPOGRAPHIC,
        sweep=name,
        points=(
            point(3, 0.9, 0.4, measured, name="cleanest"),
            point(5, 0.85, 0.5, measured, name="knee", weights="averaged"),
            point(7, 0.8, 0.55, measured, parameters={"objective": "cross_entropy", "tune": "transform", "rank": 32}),
            point(None, 0.92, 0.3, measured, name="untouched", member=False),
            point(0, 0.84, 0.45, measured, name="paint", member=False),
        ),
        others=(point(0, 0.7, 0.47, False, member=False, strength=1.0), point(9, 0.1, 0.1, False, member=False)),
        hypervolume=0.0321,
        reference_point=(0.78, 0.3),
        finished=9,
        trials=12,
    )


EMPTY = Front(
    goals=TYPOGRAPHIC,
    sweep="empty",
    points=(),
    others=(),
    hypervolume=0.0,
    reference_point=(0.1, 0.3),
    finished=0,
    trials=12,
)


def test_json_is_a_list_that_scripts_can_rely_on() -> None:
    entries = json.loads(table(front(), "json"))
    assert [entry["trial"] for entry in entries] == [3, 5, 7, None, 0]
    knee = entries[1]
    assert knee == {
        "trial": 5, "weights": "averaged", "strength": 0.5, "name": "knee", "member": True,
        "params": {"objective": "kto", "tune": "visual", "beta": 0.12345678901},
        "validation": {"clean_accuracy": 0.85, "robust_accuracy": 0.5}, "validation_images": None,
        "values": {"clean_accuracy": 0.84, "robust_accuracy": 0.49, "reading": 0.25},
        "intervals": {"clean_accuracy": [0.82, 0.86], "robust_accuracy": [0.47, 0.51]},
        "confirmation": None,
    }  # fmt: skip
    assert json.loads(table(front(measured=False), "json"))[1]["values"] is None
    assert json.loads(table(EMPTY, "json")) == []


def test_csv_has_a_row_per_point_and_says_which_numbers_are_test() -> None:
    rows = list(csv.DictReader(io.StringIO(table(front(), "csv"))))
    assert [row["trial"] for row in rows] == ["3", "5", "7", "", "0"]
    knee = rows[1]
    assert float(knee["validation_robust_accuracy"]) == 0.5
    assert float(knee["test_robust_accuracy"]) == 0.49
    assert (float(knee["test_robust_accuracy_low"]), float(knee["test_robust_accuracy_high"])) == (0.47, 0.51)
    assert float(knee["beta"]) == 0.12345678901
    assert (rows[2]["beta"], rows[2]["rank"]) == ("", "32")
    assert not any(
        key.startswith("test_") for key in csv.DictReader(io.StringIO(table(front(False), "csv"))).fieldnames or []
    )


def test_table_lines_up_and_keeps_validation_and_test_apart() -> None:
    lines = table(front(), "table").splitlines()
    knee = next(line for line in lines if line.startswith("knee"))
    assert knee[lines[0].index("validation robust") :].startswith("0.500")
    assert knee[lines[0].index("test robust") :].startswith("0.490 [0.470, 0.510]")
    assert "3 points on the front, hypervolume 0.0321 over (clean 0.780, robust 0.300), 9 of 12 trials" in lines[-1]
    unmeasured = next(line for line in table(front(False), "table").splitlines() if line.startswith("knee"))
    assert unmeasured.split()[-2:] == ["-", "-"]
    assert all("\x1b" not in line and line.isascii() for line in lines)
    assert "0 points on the front" in table(EMPTY, "table")


def test_markdown_keeps_to_its_limit_and_says_what_it_left_out() -> None:
    many = Front(
        goals=TYPOGRAPHIC,
        sweep="many",
        points=tuple(point(number, 0.9, 0.4) for number in range(200)),
        others=(),
        hypervolume=0.1,
        reference_point=(0.8, 0.3),
        finished=200,
        trials=200,
    )
    text = markdown(many, limit=3000)
    assert len(text) <= 3000
    shown = sum(line.startswith("|") for line in text.splitlines()) - 2
    assert f"{200 - shown} more in front/front.csv." in text
    assert "more in" not in markdown(front(), limit=3000)


@pytest.mark.parametrize("shown", [front(), front(measured=False), EMPTY], ids=["measured", "unmeasured", "empty"])
def test_all_files_are_written_whatever_there_is_to_show(shown: Front, tmp_path: Path) -> None:
    write_front(shown, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(["curves.png"] if shown.points else []),
        "front.csv", "front.html", "front.json", "front.png", "proxy.json", "strip.png",
    ]  # fmt: skip
    png = (tmp_path / "front.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.rstrip().endswith(b"IEND\xaeB`\x82")


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    write_front(front(), tmp_path)
    written = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not written.is_set():
            seen.add((tmp_path / "front.json").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for shown in (EMPTY, front(), front(measured=False)):
        write_front(shown, tmp_path)
    written.set()
    reader.join()
    assert seen <= {table(shown, "json") for shown in (EMPTY, front(), front(measured=False))}
    assert json.loads((tmp_path / "front.json").read_text()) == json.loads(table(front(measured=False), "json"))

"""The paper's table: what is there and what is damaged, its values by hand, and the whole of it on stand-ins."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.paper import layouts, sources, table, writing
from benchmarks.paper.results import Cell, Statement, cell, difference, read_predictions
from benchmarks.paper.rows import NINE, REAL, ROWS, Column, columns
from sweeper.errors import UserError
from tests.helpers.image_files import content, list_split, photo
from trainables.evaluation.answers import Answers


def source(digest: str | None) -> sources.Source:
    archive = sources.Archive(name="own.zip", address="https://example.org/own.zip", digest=digest)
    return sources.Source(name="own", folder="own/images", archives=[archive], size="1 GB", licence="none")


def test_a_missing_set_and_a_damaged_archive_are_told(tmp_path: Path) -> None:
    md5 = hashlib.md5(b"what was published").hexdigest()
    nothing = sources.state_of(source(md5), tmp_path)
    assert nothing.missing and nothing.damaged == () and "folder own/images: not there" in nothing.lines
    photo(tmp_path / "own" / "images" / "a.jpg", 1)
    unpacked = sources.state_of(source(md5), tmp_path)
    assert not unpacked.missing and "own.zip: not there, digest not checked" in unpacked.lines
    (tmp_path / "own" / "own.zip").write_bytes(b"what was published")  # where torchvision leaves it
    assert f"own.zip: md5 {md5}, as published" in sources.state_of(source(md5), tmp_path).lines
    (tmp_path / "own.zip").write_bytes(b"half of it")
    damaged = sources.state_of(source(md5), tmp_path)
    assert damaged.damaged == ("own.zip",) and any("damaged or another file" in line for line in damaged.lines)
    seen = hashlib.sha256(b"half of it").hexdigest()
    unknown = sources.state_of(source(None), tmp_path)
    assert unknown.damaged == () and f"own.zip: no digest is published; seen: sha256 {seen}" in unknown.lines


def test_addresses_and_digests_are_those_of_torchvision_and_open_clip() -> None:
    by_name = {own.name: own for own in sources.sources()}
    for name in set(NINE) - {"stanford_cars", "fgvc_aircraft"}:
        assert by_name[name].archives, name
        for archive in by_name[name].archives:
            assert archive.address.startswith("http") and archive.address.endswith(archive.name)
            assert archive.digest is not None and len(archive.digest) == 32, (name, archive)
    weights = sources.weights_source()
    assert weights.name == "ViT-B-32.pt" and weights.digest is not None and len(weights.digest) == 64
    assert weights.digest.startswith("40d36571")


def test_the_digest_of_files_is_over_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    first = sources.files_digest(tmp_path)
    lines = "".join(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in (("a", b"1"), ("b", b"2")))
    assert first == f"sha256 {hashlib.sha256(lines.encode()).hexdigest()}"
    (tmp_path / "b").rename(tmp_path / "c")
    assert sources.files_digest(tmp_path) != first


def test_the_command_says_what_is_missing_and_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ViT-B-32.pt").write_bytes(b"cut off")
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / "dtd-r1.0.1.tar.gz").write_bytes(b"cut off")
    words = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--weights", str(tmp_path / "ViT-B-32.pt")]
    assert table.main([*words, "--until", "list", "--without", "food101"]) == 2
    told = capsys.readouterr()
    assert "food101: left out" in told.out and "https://www.kaggle.com/datasets/ambityga/imagenet100" in told.out
    assert f"sun397: {tmp_path / 'SUN397'} is not there" in told.err
    assert "dtd: dtd-r1.0.1.tar.gz is damaged or another file; fetch it again" in told.err
    assert "ViT-B-32.pt: sha256 is " in told.err and "--without caltech101 " in told.err
    assert "--without imagenet100" not in told.err and "food101" not in told.err
    assert not (tmp_path / "out").exists()
    for wrong, problem in (
        ([], "name the folder of all sets"),
        (["--stand-in", "--data", "."], "--stand-in makes its own sets"),
        (["--data", str(tmp_path), "--without", "imagenet100"], "--without imagenet100: sets that can be left out"),
        (["--data", str(tmp_path), "--set", "model.text"], "--set model.text: write KEY=VALUE"),
    ):
        assert table.main([*wrong, "--until", "list"]) == 2
        assert problem in capsys.readouterr().err


def order(words: Sequence[str]) -> table.Order:
    return table.order_of(table._parser().parse_args(words))


def test_the_spec_as_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    words = ["--data", "/sets", "--weights", str(tmp_path / "w.pt"), "--without", "dtd", "--set", "model.text=trained"]
    spec = table.working_spec(order(words), {"sets.dtd.templates": ["{}"], "training.epochs": 1})
    assert spec["sets"]["imagenet100"]["train"][3] == "/sets/imagenet100/train.X4"
    assert "dtd" not in spec["sets"] and "dtd" not in spec["evaluate"]["test"]["sets"]
    assert spec["model"] == {
        "architecture": "ViT-B-32-quickgelu", "pretrained": str(tmp_path / "w.pt"), "quick_gelu": True,
        "preprocess": "openai", "text": "trained",
    }  # fmt: skip
    assert spec["training"]["epochs"] == 1 and spec["training"]["optimizer"] == "adamax"
    untouched = yaml.safe_load(table.SPEC.read_text().replace("2e-5", "2.0e-5"))
    assert set(untouched["sets"]) == {column for one in columns(list(untouched["sets"])) for column in one.sets}


def answers(name: str, view: str, right: str, *, two: str | None = None) -> Answers:
    """Answers that are right (``+``) or wrong (``-``); ``two``: the same for the two-way choice."""
    images = tuple(f"{name}{number}" for number in range(len(right)))
    return Answers(
        set=f"{name}/test",
        view=view,
        images=images,
        true=("cat",) * len(right),
        written=("dog" if view == "attacked" else "",) * len(right),
        answer=tuple("cat" if letter == "+" else "dog" for letter in right),
        margin=None if two is None else np.array([1.0 if letter == "+" else -1.0 for letter in two]),
    )


FIRST = [
    answers("dtd", "clean", "++++"), answers("dtd", "attacked", "+---", two="++--"),
    answers("eurosat", "clean", "+-"), answers("eurosat", "attacked", "--", two="+-"),
    answers("rta100", "attacked", "+++-", two="++++"),
]  # fmt: skip
SECOND = [
    answers("dtd", "clean", "+++-"), answers("dtd", "attacked", "+++-", two="++--"),
    answers("eurosat", "clean", "+-"), answers("eurosat", "attacked", "+-", two="+-"),
    answers("rta100", "attacked", "++--", two="++++"),
]  # fmt: skip


def by_key() -> dict[str, Column]:
    return {column.key: column for column in columns(["dtd", "eurosat", "rta100"])}


def test_values_are_those_of_a_calculation_by_hand() -> None:
    shown = by_key()
    assert list(shown) == [
        "dtd/O", "dtd/T", "eurosat/O", "eurosat/T", "mean/O", "mean/T", "rta100/all", "rta100/two", "real/all",
        "real/two",
    ]  # fmt: skip
    assert shown["mean/T"].title == "mean of 2 of 9 T" and not shown["mean/T"].whole and not shown["real/all"].whole
    values = {key: cell("dpo/last", column, [FIRST], None).value for key, column in shown.items()}
    assert values == {
        "dtd/O": 100.0, "dtd/T": 25.0, "eurosat/O": 50.0, "eurosat/T": 0.0, "mean/O": 75.0, "mean/T": 12.5,
        "rta100/all": 75.0, "rta100/two": 100.0, "real/all": 75.0, "real/two": 100.0,
    }  # fmt: skip
    both = cell("dpo/last", shown["mean/T"], [FIRST, SECOND], None)
    assert (both.value, both.seeds, both.images) == (pytest.approx((12.5 + 62.5) / 2), 2, 6)
    assert 0 <= both.low < both.value < both.high <= 100
    with pytest.raises(UserError, match="no accuracy of the set eurosat, view clean"):
        cell("dpo/last", shown["mean/O"], [FIRST[:2]], None)


def test_differences_are_paired() -> None:
    shown = by_key()
    one = Statement(row="kto/last", minus="dpo/last", column="mean/T", interval=(0.0, 60.0), says="more")
    apart = difference(one, shown["mean/T"], [SECOND], [FIRST])
    assert apart.value == pytest.approx(100 * (2 / 4 + 1 / 2) / 2) and apart.row == "kto/last - dpo/last"
    assert apart.low <= apart.value <= apart.high
    none = difference(one, shown["mean/T"], [FIRST], [FIRST])
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0), "equal answers have no spread"
    seeds = difference(one, shown["mean/T"], [SECOND, FIRST], [FIRST])
    assert seeds.value == pytest.approx(25.0) and seeds.low < 0 < seeds.high, "two seeds that disagree"
    # Of one set with two seeds, by hand: t(1) = 12.706 over seeds; images differ by no more than chance.
    half = difference(one, shown["eurosat/T"], [SECOND, FIRST], [FIRST])
    by_seed = np.array([50.0, 0.0])
    assert half.high - half.value == pytest.approx(12.7062 * by_seed.std(ddof=1) / np.sqrt(2), rel=1e-4)


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (41.0, 45.0, 49.0, "inside"),
        (38.0, 45.0, 52.0, "inside, undecided"),
        (51.0, 53.0, 55.0, "outside"),
        (49.0, 53.0, 57.0, "outside, undecided"),
    ],
)
def test_verdicts(low: float, value: float, high: float, verdict: str) -> None:
    numbers: dict[str, Any] = {"value": value, "low": low, "high": high, "seeds": 1, "images": 9}
    assert Cell(row="kto/last", column="mean/T", predicted=(40.0, 50.0), **numbers).verdict == verdict
    assert Cell(row="kto/last", column="mean/T", predicted=None, **numbers).verdict == "not predicted"


def test_every_value_is_predicted_and_every_prediction_names_one(tmp_path: Path) -> None:
    predictions = read_predictions(table.PREDICTIONS)
    spec = yaml.safe_load(table.SPEC.read_text())
    shown = {column.key for column in columns(spec["evaluate"]["test"]["sets"])}
    assert {"mean/O", "mean/T", "imagenet100/T", "real/all", "scam/two"} <= shown and len(REAL) == 3
    for row in ROWS:
        assert set(predictions.rows[row.key]) == shown - {"real/two"}, row.key
    assert set(predictions.rows) == {row.key for row in ROWS}
    assert all(one.column in shown for one in predictions.statements) and len(predictions.statements) == 13
    assert predictions.date and predictions.reasoning
    text = table.PREDICTIONS.read_text()
    wrong = {
        text.replace("row: kto/last", "row: kto"): "kto is no row of the table",
        text.replace("interval: [-4, 2]", "interval: [2, -4]"): "ends below its beginning",
    }
    for number, (changed, problem) in enumerate(wrong.items()):
        file = tmp_path / f"{number}.yaml"
        file.write_text(changed)
        with pytest.raises(UserError, match=problem):
            read_predictions(file)


def test_the_table_as_text(tmp_path: Path) -> None:
    shown, rows = list(by_key().values()), ROWS[:2]
    cells = {(row.key, column.key): cell(row.key, column, [FIRST], (0.0, 60.0)) for row in rows for column in shown}
    one = Statement(row="kto/last", minus="dpo/last", column="mean/T", interval=(0.0, 60.0), says="more")
    made = writing.Table(
        rows=rows,
        columns=shown,
        cells=cells,
        statements=[(one, difference(one, by_key()["mean/T"], [SECOND], [FIRST]))],
        predicted="2026-11-27",
        facts=["model small"],
        left_out=["sun397"],
        stand_in=True,
    )
    files = {file.suffix: file.read_text() for file in writing.write_table(made, tmp_path)}
    assert all(text.splitlines()[0].lstrip("#% ").startswith("OF STAND-INS") for text in files.values())
    assert "| PAINT | 100.0 ± " in files[".md"] and "left out: sun397" in files[".md"]
    lines = list(csv.DictReader(files[".csv"].splitlines()[1:]))
    assert len(lines) == 2 * len(shown) + 1
    assert (lines[1]["model"], lines[1]["column"], lines[1]["value"]) == ("untouched/last", "dtd/T", "25.00")
    assert (lines[-1]["model"], lines[-1]["value"]) == ("kto/last - dpo/last", "50.00")
    assert files[".tex"].count(r"\begin{tabular}") == files[".tex"].count(r"\end{tabular}") == 2


def colour(split: str, label: int, number: int) -> np.ndarray:
    """An image that its pixels identify."""
    place = ("train", "validation", "test").index(split)
    return np.full((8, 8, 3), (80 * place, 20 * label, 20 * number), np.uint8)


def test_layouts_are_those_that_torchvision_reads(tmp_path: Path) -> None:
    from torchvision import datasets

    class Flowers(datasets.Flowers102):
        """Without the checksums of the real files."""

        def _check_integrity(self) -> bool:
            return True

    names = ["boat", "kite"]
    layouts.write_caltech101(tmp_path, names, colour, images=10)
    layouts.write_eurosat(tmp_path, colour, images=10)
    layouts.write_sun397(tmp_path, names, colour, images=10)
    layouts.write_food101(tmp_path, names, colour, images=2)
    layouts.write_oxford_pets(tmp_path, names, colour, images=2)
    layouts.write_dtd(tmp_path, names, colour, images=2)
    layouts.write_fgvc_aircraft(tmp_path, names, colour, images=2)
    layouts.write_flowers102(tmp_path, 2, colour, images=2)
    layouts.write_stanford_cars(tmp_path, names, colour, images=2)
    published = {
        "food101": datasets.Food101, "oxford_iiit_pet": datasets.OxfordIIITPet, "dtd": datasets.DTD,
        "fgvc_aircraft": datasets.FGVCAircraft, "flowers102": Flowers, "stanford_cars": datasets.StanfordCars,
    }  # fmt: skip
    for name, kind in published.items():
        read = {(image.convert("RGB").tobytes(), label) for image, label in kind(str(tmp_path), split="test")}
        assert len(read) == 4 and content(list_split("test", kind="torchvision", dataset=name, root=tmp_path)) == read
    for name, kind in (("caltech101", datasets.Caltech101), ("eurosat", datasets.EuroSAT), ("sun397", datasets.SUN397)):
        read = {(image.convert("RGB").tobytes(), label) for image, label in kind(str(tmp_path))}
        raw = {"kind": "torchvision", "dataset": name, "root": tmp_path}
        splits = [content(list_split(split, **raw)) for split in ("train", "validation", "test")]
        assert set().union(*splits) <= read and [len(split) for split in splits] == (
            [50, 20, 30] if name == "eurosat" else [10, 4, 6]
        )


@pytest.mark.drill
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_whole_protocol_on_stand_ins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--stand-in", "--output", str(tmp_path / "out")]
    assert table.main(words) == 0
    told = capsys.readouterr().out
    assert "forecast, an estimate: 6 trials" in told and "KTO, averaged (12 of 12)" in told
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.startswith("OF STAND-INS")
    lines = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()[1:]))
    values = {(line["model"], line["column"]): float(line["value"]) for line in lines}
    assert len({column for _, column in values}) == 32 and len(lines) == 12 * 32 + 13
    assert values["untouched/last", "mean/O"] > 70, "the small model knows the drawn images of every layout"
    assert values["cross_entropy/last", "mean/T"] > values["untouched/last", "mean/T"] + 10
    assert table.main(words) == 0
    again = capsys.readouterr().out
    assert "complete already" in again and "of 12)" not in again, "nothing is trained or measured again"
    assert (tmp_path / "out" / "table.md").read_text() == text
    assert table.main([*words, "--set", "training.epochs=1"]) == 2, "results of other settings"

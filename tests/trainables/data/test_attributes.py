"""Sets with an attribute of every image, in the layouts that people have: what is read, what is left out and named."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from sweeper.errors import UserError
from sweeper.spec.spec import load_spec
from trainables.data.listing import Listing
from trainables.data.readers.kinds import list_images, reader_of
from trainables.settings.sets import ImageSetSettings, Split


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return path


def listing(raw: dict[str, Any], split: Split = "train") -> Listing:
    settings: Any = TypeAdapter(ImageSetSettings).validate_python(raw)
    return list_images("faces", settings, split)


def groups(read: Listing) -> dict[tuple[str, str], int]:
    """How many images each content and value has."""
    assert read.values is not None
    counts: dict[tuple[str, str], int] = {}
    for label, value in zip(read.labels.tolist(), read.values.tolist(), strict=True):
        group = read.class_names[label], read.value_names[value]
        counts[group] = counts.get(group, 0) + 1
    return counts


def test_folders_of_content_and_value(tmp_path: Path) -> None:
    for content in ("nurse", "pilot"):
        for value, count in (("woman", 4), ("man", 3)):
            for i in range(count):
                picture(tmp_path / "train" / content / value / f"{i}.png", i)
    raw = {
        "kind": "attribute_folder",
        "train": str(tmp_path / "train"),
        "validation": {"from": "train", "per_class": 1},
    }
    assert groups(listing(raw)) == {
        ("nurse", "man"): 2, ("nurse", "woman"): 3, ("pilot", "man"): 2, ("pilot", "woman"): 3,
    }  # fmt: skip
    assert set(groups(listing(raw, "validation")).values()) == {1}, "some of every group are held back"
    few = {**raw, "contents": {"nurse": "ward nurse", "pilot": "pilot"}, "values": {"woman": "female", "man": "male"}}
    assert listing(few).class_names == ("ward nurse", "pilot") and listing(few).value_names == ("female", "male")


@pytest.fixture
def fairface(tmp_path: Path) -> Path:
    """As the set is published, with a row that a spreadsheet has damaged and one without a value."""
    rows = [["file", "age", "gender", "race", "service_test"]]
    for split, count in (("train", 16), ("val", 8)):
        for i in range(count):
            picture(tmp_path / split / f"{i}.jpg", i)
            race = "Black" if i % 4 < 2 else "East Asian"
            rows.append([f"{split}/{i}.jpg", "20-29" if i else "03-Sep", "Male" if i % 2 else "Female", race, "True"])
        if split == "train":
            rows[3][2] = ""
        text = io.StringIO()
        csv.writer(text).writerows([rows[0], *[row for row in rows[1:] if row[0].startswith(split)]])
        (tmp_path / f"fairface_label_{split}.csv").write_text(text.getvalue())
    return tmp_path


def fairface_set(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "attribute_table",
        "train": str(folder / "fairface_label_train.csv"),
        "validation": {"from": "train", "share": 0.25},
        "test": str(folder / "fairface_label_val.csv"),
        "content": "race",
        "attribute": "gender",
        **changes,
    }


def test_fairface_as_it_is_published(fairface: Path) -> None:
    train, validation = (listing(fairface_set(fairface), split) for split in ("train", "validation"))
    assert len(train.keys) + len(validation.keys) == 15 and not set(train.keys) & set(validation.keys)
    assert (train.class_names, train.value_names) == (("Black", "East Asian"), ("Female", "Male"))
    assert train.left_out == ("fairface_label_train.csv:4: no gender",)
    assert sum(groups(listing(fairface_set(fairface), "test")).values()) == 8
    by_age = listing(fairface_set(fairface, content="age", validation=None, contents={"20-29": "young", "x": "old"}))
    reason = "'03-Sep' is a date: a spreadsheet has changed a range into it"
    assert by_age.left_out[0] == f"fairface_label_train.csv:2: {reason}"


def test_what_a_table_lacks_is_said(fairface: Path) -> None:
    with pytest.raises(ValueError, match=r"has no column 'sex'; there are file, age, gender"):
        listing(fairface_set(fairface, attribute="sex"))
    with pytest.raises(ValueError, match="no image can be used: .*its value 'Female' is not one of woman, man"):
        listing(fairface_set(fairface, values={"woman": "woman", "man": "man"}))
    (fairface / "train" / "5.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of \d+ listed images not there, first .*5\.jpg"):
        for split in ("train", "validation"):
            listing(fairface_set(fairface), split)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="content and attribute must be different columns"):
        listing(fairface_set(fairface, content="gender"))


def test_utkface_by_its_names(tmp_path: Path) -> None:
    for i in range(40):
        picture(tmp_path / f"{20 + i}_{i % 2}_{i // 2 % 2}_2017010{i % 9}.jpg.chip.jpg", i)
    for name in ("61_1_20170109150557335.jpg.chip.jpg", "39_1_20170116174525125.jpg"):
        picture(tmp_path / name)
    raw = {"kind": "utkface", "path": str(tmp_path)}
    splits = {split: listing(raw, split) for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert sum(len(read.keys) for read in splits.values()) == 40
    assert splits["train"].class_names == ("black", "white") and splits["train"].value_names == ("female", "male")
    assert set(groups(splits["train"]).values()) == {5} and set(groups(splits["test"]).values()) == {3}
    assert [reason.partition(":")[0] for reason in splits["train"].left_out] == [
        "39_1_20170116174525125.jpg", "61_1_20170109150557335.jpg.chip.jpg",
    ]  # fmt: skip
    by_age = listing({**raw, "content": "age", "attribute": "race"})
    assert by_age.class_names == ("20-29", "30-39", "40-49", "50-59") and by_age.value_names == ("black", "white")


def test_celeba_with_and_without_its_partition(tmp_path: Path) -> None:
    lines, partition = ["24", "Blond_Hair Male Smiling"], []
    for i in range(24):
        picture(tmp_path / "Img" / "img_align_celeba" / f"{i:06d}.jpg", i)
        lines.append(f"{i:06d}.jpg  {1 if i % 2 else -1} {1 if i // 2 % 2 else -1}  1")
        partition.append(f"{i:06d}.jpg {i % 3}")
    lines[5] = "000003.jpg 1 1"
    (tmp_path / "Anno").mkdir()
    (tmp_path / "Anno" / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    raw = {"kind": "celeba", "path": str(tmp_path), "content": "Blond_Hair", "values": {"1": "man", "-1": "woman"},
           "contents": {"1": "blond", "-1": "dark-haired"}}  # fmt: skip
    drawn = listing(raw)
    assert drawn.class_names == ("blond", "dark-haired") and drawn.value_names == ("man", "woman")
    assert drawn.left_out == ("list_attr_celeba.txt:6: 2 values for 3 columns",)
    (tmp_path / "Eval").mkdir()
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text("\n".join(partition))
    assert listing(raw, "test").keys == tuple(f"{i:06d}.jpg" for i in range(24) if i % 3 == 2)
    with pytest.raises(ValueError, match="has no column 'Blonde'; there are"):
        listing({**raw, "content": "Blonde"})


def test_webdataset_with_a_member_for_the_attribute(tmp_path: Path) -> None:
    image = picture(tmp_path / "x.png").read_bytes()
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for i in range(8):
            members = {"png": image, "txt": b"nurse" if i % 2 else b"pilot", "gender.txt": b"f" if i < 4 else b"m"}
            if i == 7:
                del members["gender.txt"]
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{i:03d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    raw = {"kind": "webdataset", "train": str(tmp_path / "shard.tar"), "attribute_key": "gender.txt",
           "values": {"f": "woman", "m": "man"}}  # fmt: skip
    read = listing(raw)
    assert groups(read) == {("pilot", "woman"): 2, ("nurse", "woman"): 2, ("pilot", "man"): 2, ("nurse", "man"): 1}
    assert read.left_out == ("shard.tar/007: its value None is not used",)


SPEC = """\
task: attribute
model: {architecture: world}
sets:
  faces: {kind: utkface, path: faces}
  plain: {kind: world}
train: {set: faces}
attribute: {name: gender, prompts: ["a photo of a {content} {value}"]}
evaluate: {search: {sets: [faces]}, test: {sets: [faces]}}
parameters:
  target: {choices: [flipped, neutral]}
  objective: {choices: [ipo, cross_entropy]}
  beta: {when: {target: flipped, objective: ipo}, low: 0.1, high: 1.0}
  tune: transform
  learning_rate: 0.01
"""


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for i in range(40):
        picture(tmp_path / "faces" / f"{20 + i}_{i % 2}_{i // 2 % 2}_2017010{i % 9}.jpg.chip.jpg", i)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[ipo, cross_entropy]", "[ipo, dpo]", "target neutral has no loss with objective dpo"),
        ("when: {target: flipped, objective: ipo}", "when: {objective: ipo}", "target neutral sets beta itself"),
        ("tune: transform", "tune: transform\n  rank: 8", "a W of lower rank is not the untouched model at t = 0"),
        ("tune: transform", "tune: transform\n  copies: 2", "`copies` does not apply to the task attribute"),
        ('"a photo of a {content} {value}"', '"a photo of a {content}"', "each prompt needs {value} and {content}"),
        ("task: attribute", "task: atribute", "task 'atribute' is unknown; choose typographic, attribute"),
        ("train: {set: faces}", "train: {set: faces, copies: 2}", "unknown key `copies` in `train`"),
        (
            "parameters:",
            "search: {until: noise_floor}\nparameters:",
            "`search.until`: the task attribute has no noise floor, because max_skew_at_60 is no share of",
        ),
        ("path: faces", "path: nowhere", "nowhere does not exist"),
        ("kind: utkface, path: faces", "kind: image_folder, train: faces", "has no class folders"),
    ],
)
def test_mistakes_of_an_attribute_spec_are_named_with_their_place(faces: Path, old: str, new: str, says: str) -> None:
    assert old in SPEC
    (faces / "spec.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_spec(faces / "spec.yaml")
    assert any(says in line and line.split(": ")[0].count(":") == 2 for line in str(caught.value).splitlines()), caught


def test_an_attribute_spec_is_read_and_comes_back(faces: Path) -> None:
    (faces / "spec.yaml").write_text(SPEC)
    spec = load_spec(faces / "spec.yaml")
    assert [goal.metric for goal in spec.task_goals()] == ["content_accuracy", "max_skew_at_60"]
    assert [goal.direction for goal in spec.task_goals()] == ["maximize", "minimize"]
    assert [baseline.name for baseline in spec.baseline_trials()] == ["projection", "closed_form", "balanced"]
    assert type(spec).from_resolved(spec.resolved()) == spec
    other = load_spec(faces / "spec.yaml", ["attribute.bias=attribute_gap", "baselines=[]", "keep={reference_kl: 0.1}"])
    assert other.task_goals()[1].metric == "attribute_gap" and other.baseline_trials() == []
    assert [str(bound) for bound in other.bounds({"reference_kl": 0.0})] == ["reference_kl <= 0.1"]


def write_table(file: Path, rows: list[str], line_end: str = "\n") -> dict[str, Any]:
    for i, row in enumerate(rows):
        picture(file.parent / row.partition(",")[0], i)
    file.write_bytes(line_end.join(["file,job,gender", *rows, ""]).encode())
    return {"kind": "attribute_table", "train": str(file), "content": "job", "attribute": "gender"}


def test_a_table_with_old_line_ends_and_nothing_in_a_cell(tmp_path: Path) -> None:
    rows = ["a.png,nurse,man", "b.png,pilot,woman", "c.png,nan,man"]
    read = listing(write_table(tmp_path / "t.csv", rows, "\r"))
    assert groups(read) == {("nurse", "man"): 1, ("pilot", "woman"): 1} and read.left_out == ("t.csv:4: no job",)


def test_values_in_several_spellings(tmp_path: Path) -> None:
    rows = ["a.png,nurse,man", "b.png,pilot,woman", "c.png,nurse,Man"]
    raw = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(ValueError, match=r"t.csv:4: gender is 'Man', but 'man' in line 2; .* in values"):
        listing(raw)
    named = listing({**raw, "values": {"MAN": "man", "woman": "woman"}})
    assert groups(named) == {("nurse", "man"): 2, ("pilot", "woman"): 1}
    test = write_table(tmp_path / "test" / "t.csv", ["a.png,Nurse,MAN", "b.png,pilot,woman"])
    both = {**write_table(tmp_path / "t.csv", rows[:2]), "test": test["train"]}
    assert groups(listing(both, "test")) == {("nurse", "man"): 1, ("pilot", "woman"): 1}
    settings: Any = TypeAdapter(ImageSetSettings).validate_python(both)
    assert len([note for note in reader_of(settings).notes() if "are read as one class" in note]) == 2
    with pytest.raises(ValueError, match="two classes are called 'man' and 'Man'"):
        listing({**raw, "values": {"man": "man", "woman": "Man"}})


def test_a_table_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    raw = write_table(tmp_path / "t.csv", ["a.png,nurse,man"])
    (tmp_path / "t.csv").write_text('file,job,gender\na.png,nurse,man\n"b.png,pilot,woman\n')
    with pytest.raises(ValueError, match=r"t.csv:3: a quotation mark is opened"):
        listing(raw)


def test_files_of_attribute_folders_that_are_not_read(tmp_path: Path) -> None:
    for place in ("nurse/man/a.png", "nurse/woman/a.png", "pilot/man/a.png", "pilot/woman/more/b.png", "pilot/c.png"):
        picture(tmp_path / place)
    settings: Any = TypeAdapter(ImageSetSettings).validate_python({"kind": "attribute_folder", "train": str(tmp_path)})
    lines = reader_of(settings).notes()
    assert [line.partition(",")[0] for line in lines] == ["train: 1 image is not read"] * 2
    assert "pilot/c.png" in lines[0] and "pilot/woman/more/b.png" in lines[1]

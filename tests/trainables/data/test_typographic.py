"""Photographs of written words: RTA-100 and PAINT, Disentangling, SCAM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sweeper.spec.set_checks import set_problems
from tests.helpers.image_files import content, image_source, list_split, photo, settings_of, write_text
from trainables.attack.rendering import variants
from trainables.data.readers.kinds import list_clean, list_images, reader_of
from trainables.data.typographic import held_out_variants
from trainables.settings.sets import ScamSet
from trainables.settings.typographic import AttackSettings


def write_scam(folder: Path) -> Path:
    """Two scenes of SCAM's three types, out of order."""
    rows = []
    scenes = (("0002", "cup", "taxi"), ("0001", "apple", "fan"))
    for j, kind in enumerate(("SCAM", "NoSCAM", "SynthSCAM")):
        for i, (scene, label, word) in enumerate(scenes[:: -1 if j else 1]):
            photo(folder / "images" / "train" / f"{kind}_{scene}.png", 4 * j + i)
            row = {"file_name": f"{kind}_{scene}.png", "id": f"{kind}_{scene}", "type": kind, "object_label": label}
            rows.append(row | {"attack_word": word, "postit_area_pct": 1.5})
    write_text(folder / "images" / "train" / "metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_no_attack_writes_more_wrong_names_than_there_are() -> None:
    attack = AttackSettings(recipe="sign")
    assert held_out_variants(attack, ["cat", "dog", "fox"]) == variants("sign")
    for names in (["cat", "dog"], ["crane", "Crane", "dog"]):
        assert held_out_variants(attack, names).keys() == variants("sign").keys() - {"two_words"}


def test_labels_and_texts_in_file_names(tmp_path: Path) -> None:
    for name in ("label=light bulb_text=dog.jpg", "label=dog_text=pen_case.png", "label=dog_text=TV.jpg"):
        photo(tmp_path / name, 1)
    write_text(tmp_path / "README.txt", "no image")
    listing = list_split("test", kind="rta100", path=tmp_path)
    assert listing.class_names == ("TV", "dog", "light bulb", "pen_case")
    assert listing.templates == ("a photo of a {}.",) and listing.written is not None
    classes = zip(listing.labels, listing.written, strict=True)
    assert [(listing.class_names[i], listing.class_names[j]) for i, j in classes] == [
        ("dog", "TV"), ("dog", "pen_case"), ("light bulb", "dog"),
    ]  # fmt: skip
    photo(tmp_path / "other.jpg", 1)
    with pytest.raises(ValueError, match="other.jpg is not named label="):
        list_split("test", kind="paint", path=tmp_path)


def test_disentangling(tmp_path: Path) -> None:
    base = tmp_path / "typographic_attack_dataset"
    entries = {
        "IMG_2.JPG": {"true object": "cup", "typographic attack label": "good"},
        "IMG_1.JPG": {"true object": "pen", "typographic attack label": "cup"},
        "IMG_3.JPG": {"true object": "cup", "typographic attack label": ""},
        "IMG_4.JPG": {"true object": "cup"},
    }
    for i in range(1, 5):
        photo(base / "images" / f"IMG_{i}.JPG", i)
    write_text(base / "annotations.json", json.dumps(entries))
    write_text(base / "classes.json", json.dumps({"cup": 0, "pen": 1, "fan": 2}))
    listing = list_split("test", kind="disentangling", path=tmp_path)
    assert listing.keys == ("IMG_1.JPG", "IMG_2.JPG") and listing.templates == ("a photo of {}.",)
    assert listing.class_names == ("cup", "fan", "good", "pen") and listing.written is not None
    assert (listing.labels.tolist(), listing.written.tolist()) == ([3, 0], [0, 2])
    (base / "images" / "IMG_2.JPG").unlink()
    with pytest.raises(ValueError, match="1 of 2 listed images not there, first .*IMG_2.JPG"):
        list_split("test", kind="disentangling", path=tmp_path)


def test_scam_and_its_clean_twin(tmp_path: Path) -> None:
    settings = ScamSet(kind="scam", path=write_scam(tmp_path))
    handwritten, clean = list_images("scam", settings, "test"), list_clean("scam", settings)
    assert clean is not None and handwritten.keys == clean.keys == ("0001", "0002")
    assert handwritten.class_names == clean.class_names == ("apple", "cup", "fan", "taxi")
    assert handwritten.labels.tolist() == clean.labels.tolist() == [0, 1]
    assert handwritten.written is not None and clean.written is not None
    assert handwritten.written.tolist() == clean.written.tolist() == [2, 3]
    synthetic = list_images("scam", ScamSet(kind="scam", path=tmp_path, attack="SynthSCAM"), "test")
    assert synthetic.keys == handwritten.keys and len(content(synthetic) | content(handwritten) | content(clean)) == 6
    file = tmp_path / "images" / "train" / "metadata.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if '"NoSCAM_0002"' not in line))
    with pytest.raises(ValueError, match="1 scene of .* without a NoSCAM image: 0002"):
        list_clean("scam", settings)
    file.write_text("\n".join(line for line in lines if '"NoSCAM"' not in line))
    assert list_clean("scam", settings) is None
    (problem,) = set_problems("scam", {"kind": "scam", "path": tmp_path / "images" / "none"})
    assert problem.path == ("sets", "scam", "path")


def test_scenes_and_their_clean_twins_as_pixels(tmp_path: Path) -> None:
    settings = ScamSet(kind="scam", path=write_scam(tmp_path / "scam"))
    data = image_source(tmp_path / "cache")
    attacked, clean = data.load("scam", settings, "test"), data.load_clean("scam", settings)
    assert clean is not None and clean.keys == attacked.keys and torch.equal(clean.labels, attacked.labels)
    assert clean.name == "scam/clean" and not torch.equal(clean.images, attacked.images)


def test_marks_of_copies_are_no_words(tmp_path: Path) -> None:
    names = ["dog (1).jpg", "dog(2).jpg", "dog copy.png", "dog - Copy (3).png", "dog copy 2.png", "dog.jfif"]
    for i, name in enumerate(names):
        photo(tmp_path / f"label=cat_text={name.replace('jfif', 'jpg')}", i)
    raw = {"kind": "rta100", "path": tmp_path}
    listing = list_split("test", **raw)
    assert listing.class_names == ("cat", "dog") and len(listing.keys) == 6
    (note,) = reader_of(settings_of(**raw)).notes()
    assert note.startswith("5 file names with a browser's or desktop's mark of a copy") and "'dog'" in note
    photo(tmp_path / "label=hard copy_text=cat.jpg", 9)
    photo(tmp_path / "label=cat_text=hard copy.jpg", 9)
    assert "hard copy" in list_split("test", **raw).class_names, "a label is what it says"
    photo(tmp_path / "label=cat_text=owl (1).jpg", 9)
    with pytest.raises(ValueError, match=r"is label=cat_text=owl \(1\).jpg a copy made by a browser"):
        list_split("test", **raw)


def test_objects_and_words_in_several_spellings_are_one_class(tmp_path: Path) -> None:
    for name in ("label=Cat_text=red_dog.jpg", "label=red dog_text=cat.jpg"):
        photo(tmp_path / name, 1)
    raw = {"kind": "paint", "path": tmp_path}
    listing = list_split("test", **raw)
    assert listing.class_names == ("Cat", "red dog") and listing.written is not None
    assert (listing.labels.tolist(), listing.written.tolist()) == ([0, 1], [1, 0])
    assert "'Cat' and 'cat' are read as one class" in reader_of(settings_of(**raw)).notes()


def test_metadata_of_scam_with_byte_order_mark_odd_separators_and_nan(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.png", "id": "1", "type": "SCAM", "object_label": "cup\u2028x", "attack_word": "pen"},
        {"file_name": "b.png", "id": "1", "type": "NoSCAM", "object_label": "cup\u2028x", "attack_word": float("nan")},
    ]
    for row in rows:
        photo(tmp_path / str(row["file_name"]), 1)
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    listing = list_split("test", kind="scam", path=tmp_path)
    assert listing.class_names == ("cup\u2028x", "pen"), "nan is no word"
    rows[0]["attack_word"] = "None"
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"metadata.jsonl:1: `attack_word` is empty"):
        list_split("test", kind="scam", path=tmp_path)
    (tmp_path / "metadata.jsonl").write_text(json.dumps(rows[1], indent=1))
    with pytest.raises(ValueError, match=r"metadata.jsonl:1: .*one object over several lines"):
        list_split("test", kind="scam", path=tmp_path)

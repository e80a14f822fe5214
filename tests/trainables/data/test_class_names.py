"""Words for classes: WordNet ids, files and mappings of names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.image_files import list_split, photos, settings_of, write_text
from trainables.data.readers.kinds import reader_of


def test_class_names_of_wordnet_folders(tmp_path: Path) -> None:
    ids = ["n01558993", "n02099601", "n02084071"]
    photos(tmp_path / "train", ids, 1)
    own = {"kind": "image_folder", "train": tmp_path / "train"}
    listing = list_split("train", **own, class_names="imagenet")
    assert listing.class_names == ("American robin", "dog", "Golden Retriever")
    labels = {ids[0]: "robin, American robin, Turdus migratorius", ids[1]: "golden retriever", ids[2]: "dog, domestic"}
    file = write_text(tmp_path / "Labels.json", json.dumps({**labels, "n01440764": "tench, Tinca tinca"}))
    assert list_split("train", **own, class_names=file).class_names == ("robin", "dog", "golden retriever")
    inline = reader_of(settings_of(**own, class_names=labels)).class_names()
    assert inline == (labels[ids[0]], "dog, domestic", "golden retriever"), "what is written out is taken as it stands"
    photos(tmp_path / "train", ["notes"], 1)
    with pytest.raises(ValueError, match="'notes' is not a WordNet id"):
        list_split("train", **own, class_names="imagenet")
    wanted = write_text(tmp_path / "classes.txt", f"{ids[1]}\n{ids[0]}\n")
    some = list_split("train", **own, class_names="imagenet", classes=wanted)
    assert some.class_names == ("American robin", "Golden Retriever") and len(some.keys) == 2


def test_names_that_the_tokenizer_cannot_tell_apart_are_refused_with_their_line(tmp_path: Path) -> None:
    raw = {"kind": "webdataset", "test": str(tmp_path / "a.tar")}
    for text, message in (
        ("red_apple\r\ndog\r\nRed  Apple\r\n", r"names.txt:3: two classes are called 'red_apple' and 'Red  Apple'"),
        ("cat\rdog\rcat", r"names.txt:3: two classes are both called 'cat'"),
        ('["Cat", "dog", "cat"]', r"names.json: two classes are called 'Cat' and 'cat'"),
        ('["Cat", "\\u200b"]', r"names.json: every class name must be text"),
    ):
        file = tmp_path / ("names.json" if text.startswith("[") else "names.txt")
        file.write_bytes(text.encode())
        with pytest.raises(ValueError, match=message):
            reader_of(settings_of(**raw, class_names=file)).class_names()


def test_the_classes_of_equal_words_are_named(tmp_path: Path) -> None:
    photos(tmp_path / "train", ["a", "b"], 1)
    names = write_text(tmp_path / "names.json", json.dumps({"a": "Crane", "b": "crane"}))
    with pytest.raises(
        ValueError, match=r"names.json: two classes are called 'Crane' and 'crane'.* \(of 'a' and 'b'\)"
    ):
        list_split("train", kind="image_folder", train=tmp_path / "train", class_names=names)

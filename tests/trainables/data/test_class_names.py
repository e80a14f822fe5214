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
    with pytest.raises(ValueError, match="'notes' is no WordNet id"):
        list_split("train", **own, class_names="imagenet")
    wanted = write_text(tmp_path / "classes.txt", f"{ids[1]}\n{ids[0]}\n")
    some = list_split("train", **own, class_names="imagenet", classes=wanted)
    assert some.class_names == ("American robin", "Golden Retriever") and len(some.keys) == 2

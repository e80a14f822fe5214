"""Image folders: validation held back, several folders as a split."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.image_files import list_split, photos


def test_what_is_held_back_depends_on_the_image_alone(tmp_path: Path) -> None:
    names = ["cat", "dog", "owl"]
    photos(tmp_path / "a", names, 10)
    own = {"kind": "image_folder", "validation": {"from": "train", "share": 0.3, "seed": 1}}
    first = list_split("validation", train=tmp_path / "a", **own)
    train = list_split("train", train=tmp_path / "a", **own)
    assert len(first.keys) == 9 and len(train.keys) == 21 and not set(first.keys) & set(train.keys)
    assert sorted(first.labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    other = {**own, "validation": {"from": "train", "share": 0.3, "seed": 2}}
    assert set(list_split("validation", train=tmp_path / "a", **other).keys) != set(first.keys)
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    photos(tmp_path / "more", ["zebra"], 5)
    moved = list_split("validation", train=[tmp_path / "more", tmp_path / "elsewhere"], **own)
    assert set(first.keys) < set(moved.keys), "another place and another class change nothing for the others"


def test_equal_names_in_two_folders_of_a_split_stay_apart(tmp_path: Path) -> None:
    for part in ("a", "b"):
        photos(tmp_path / part, ["cat", "dog"], 2)
    listing = list_split("train", kind="image_folder", train=[tmp_path / "a", tmp_path / "b"])
    assert len(set(listing.keys)) == 8

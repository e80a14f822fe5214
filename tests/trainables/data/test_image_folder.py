"""Image folders: validation held back, several folders as a split."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, features

from sweeper.errors import UserError
from sweeper.spec.set_checks import set_notes, set_problems
from tests.helpers.image_files import image_source, list_split, photo, photos, settings_of, write_text
from trainables.data.readers.kinds import reader_of


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


FOLDERS: dict[str, Any] = {"kind": "image_folder"}


def notes(**raw: Any) -> list[str]:
    return reader_of(settings_of(**FOLDERS, **raw)).notes()


@pytest.mark.parametrize(
    ("train", "test"),
    [("Cat", "cat"), ("red_cat", "red cat"), ("caf\u00e9", "cafe\u0301"), ("A&W", "a&amp;w")],
)
def test_a_class_that_splits_spell_differently_is_one_class(train: str, test: str, tmp_path: Path) -> None:
    photos(tmp_path / "train", [train, "dog"], 2)
    photos(tmp_path / "test", [test, "dog"], 3)
    raw = {"train": tmp_path / "train", "test": tmp_path / "test"}
    listing = list_split("test", **FOLDERS, **raw)
    assert len(listing.class_names) == 2 and sorted(listing.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    (note,) = notes(**raw)
    assert f"{train!r} ({tmp_path / 'train'}) and {test!r} ({tmp_path / 'test'}) are read as one class" in note


def test_two_such_classes_in_one_folder_are_refused_unless_they_have_words_of_their_own(tmp_path: Path) -> None:
    photos(tmp_path / "train", ["A", "dog"], 2)
    photos(tmp_path / "test", ["A", "a", "dog"], 2)
    raw = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    (problem,) = set_problems("mine", {**FOLDERS, **raw})
    assert problem.path == ("sets", "mine", "test", 0)
    assert f"{tmp_path / 'test'}: two classes are called 'A' and 'a'" in problem.message
    with pytest.raises(UserError, match="set 'mine'.*'A' and 'a'"):
        set_notes({"mine": settings_of(**FOLDERS, **raw)})
    words = {"A": "capital a", "a": "small a", "dog": "dog"}
    listing = list_split("test", **FOLDERS, **raw, class_names=words)
    assert listing.class_names == ("capital a", "small a", "dog")
    with pytest.raises(ValueError, match="two classes are called 'A' and 'a'"):
        list_split("test", **FOLDERS, **raw, class_names={**words, "a": "Capital A"})


def test_names_in_the_settings_need_not_be_spelled_as_the_folders(tmp_path: Path) -> None:
    photos(tmp_path / "train", ["Cat", "dog", "owl"], 2)
    raw = {"train": tmp_path / "train", "classes": ["cat", "DOG"]}
    listing = list_split("train", **FOLDERS, **raw, class_names={"CAT": "a cat", "dog": "a dog"})
    assert listing.class_names == ("a cat", "a dog")
    with pytest.raises(ValueError, match="the class 'CAT' is named twice"):
        list_split("train", **FOLDERS, **{**raw, "classes": ["cat", "CAT"]})


def test_what_is_not_read_is_counted_and_said(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 2)
    assert notes(train=root) == []
    for name in ("._x.jpg", ".DS_Store", "Thumbs.db"):
        write_text(root / "cat" / name, "")
    write_text(root / "README.txt", "")
    assert notes(train=root) == [], "these are no images"
    for name in ("cat/more/1.jpg", "cat/more/again/2.jpg", "loose.jpg"):
        photo(root / name, 3)
    for name in ("cat/a.heic", "dog/b.heic", "dog/list.txt"):
        write_text(root / name, "")
    (root / "dog" / "gone").symlink_to(root / "nothing")
    (root / "cat" / "more" / "up").symlink_to(root / "cat")
    assert notes(train=root) == [
        "train: 1 image is not read, beside the folders of the classes (expected: <folder>/<class>/<image>), "
        f"first {root}/loose.jpg",
        "train: 2 images are not read, in folders further down (expected: <folder>/<class>/<image>), "
        f"first {root}/cat/more/1.jpg",
        f"train: 3 files are not read, no image by the suffix (2 .heic, 1 .txt), first {root}/cat/a.heic",
        f"train: 1 link is not read, because the target does not exist, first {root}/dog/gone",
    ]
    assert len(list_split("train", **FOLDERS, train=root).keys) == 4


def test_a_copy_of_a_class_folder_is_said(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "cat copy", "mars (1)"], 1)
    assert notes(train=root) == ["the class folder 'cat copy' is a class of its own beside 'cat'; is it a copy?"]


def test_a_class_with_images_further_down_only_is_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 1)
    photo(root / "owl" / "more" / "1.jpg", 3)
    (problem,) = set_problems("mine", {**FOLDERS, "train": str(root)})
    assert "no images in the class folder owl" in problem.message and "1 image is not read" in problem.message


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPEG", "ppm", "tiff", "jp2", "avif", "bmp", "tga"])
def test_what_pillow_reads_is_read(suffix: str, tmp_path: Path) -> None:
    if suffix in ("jp2", "avif") and not features.check({"jp2": "jpg_2000", "avif": "avif"}[suffix]):
        pytest.skip("this build of Pillow cannot")
    root = tmp_path / "train"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        form = {"jfif": "JPEG", "jpe": "JPEG"}.get(suffix)
        Image.new("RGB", (8, 8), (200, 0, 0)).save(root / name / f"1.{suffix}", form)
    listing = list_split("train", **FOLDERS, train=root)
    assert len(listing.keys) == 2 and listing.open(0).convert("RGB").getpixel((4, 4)) is not None


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 3)
    os.rename(root / "cat" / "image_0001.jpg", os.fsencode(root / "cat") + b"/caf\xe9.jpg")
    raw = {"train": root, "validation": {"from": "train", "per_class": 1}}
    splits = [list_split(split, **FOLDERS, **raw) for split in ("train", "validation")]
    keys = [key for listing in splits for key in listing.keys]
    assert len(keys) == 6 and r"cat/caf\xe9.jpg" in keys
    images = image_source(tmp_path / "cache").load("mine", settings_of(**FOLDERS, train=root), "train")
    assert len(images.keys) == 6
    os.rename(root / "cat", os.fsencode(root) + b"/c\xe2t")
    (problem,) = set_problems("mine", {**FOLDERS, "train": str(root)})
    assert rf"{root}: the name of the folder c\xe2t is not UTF-8" in problem.message


def test_a_folder_that_links_to_itself(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 1)
    (root / "cat" / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="set 'mine': .*cat/loop: Too many levels of symbolic links"):
        set_notes({"mine": settings_of(**FOLDERS, train=root)})
    (root / "loop").symlink_to("loop")
    (problem,) = set_problems("mine", {**FOLDERS, "train": str(root)})
    assert f"{root}/loop: Too many levels of symbolic links" in problem.message


def test_a_class_folder_that_may_not_be_read(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 1)
    (root / "cat").chmod(0)
    try:
        if os.access(root / "cat", os.R_OK):
            pytest.skip("this user may read everything")
        (problem,) = set_problems("mine", {**FOLDERS, "train": str(root)})
        assert f"{root}/cat: Permission denied" in problem.message
    finally:
        (root / "cat").chmod(0o755)


def test_git_lfs_pointers_are_named_as_such(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 1)
    write_text(root / "cat" / "image_0001.jpg", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"cat/image_0001.jpg: is a Git LFS pointer.*git lfs pull"):
        image_source(tmp_path / "cache").load("mine", settings_of(**FOLDERS, train=root), "train")


def test_class_folders_with_the_same_images_are_said(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 2)
    shutil.copytree(root / "cat", root / "cat - Kopie")
    assert notes(train=root) == [
        f"the class folders 'cat' and 'cat - Kopie' of {root} hold the same images; is one a copy?"
    ]


def test_what_is_hidden_special_or_beside_the_folders_is_counted(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 2)
    photo(root / ".owl" / "1.jpg", 3)
    photo(root / "dog" / ".2.jpg", 4)
    os.mkfifo(root / "cat" / "pipe.jpg")
    (root / "cat" / "folder.jpg").mkdir()
    for name in ("owl", "more.zip", "README", "names.json"):
        write_text(root / name, "")
    assert notes(train=root) == [
        f"train: 2 files are not read, no image by the suffix (1 .zip, 1 no suffix), first {root}/more.zip",
        f"train: 2 images are not read, hidden by a dot at the beginning of a name, first {root}/.owl/1.jpg",
        f"train: 1 file is not read, a pipe, socket or device, first {root}/cat/pipe.jpg",
    ]
    assert len(list_split("train", **FOLDERS, train=root).keys) == 4, "nothing waits for the pipe"


def test_characters_that_nobody_sees_are_no_part_of_words(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat\u200e", "dog"], 1)
    assert list_split("train", **FOLDERS, train=root).class_names == ("cat", "dog")
    photos(root, ["cat"], 1)
    with pytest.raises(ValueError, match=r"two classes are called 'cat' and 'cat\\u200e'"):
        list_split("train", **FOLDERS, train=root)

"""WebDataset shards: offsets, class indices and names, shards that are refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sweeper.spec.set_checks import class_problems, set_problems
from tests.helpers.image_files import list_split, settings_of, write_shard
from trainables.data.readers.kinds import reader_of
from trainables.settings.task import TrainSettings


def encoded(value: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), (value * 16, 0, 128)).save(buffer, form)
    return buffer.getvalue()


def write_shards(folder: Path, first: int = 0) -> Path:
    for shard in range(2):
        members = {
            f"{i:05d}": {"jpg": encoded(first + 3 * shard + i), "cls": str(i % 2).encode(), "txt": b"a caption"}
            for i in range(3)
        }
        write_shard(folder / f"in-{shard:03d}.tar", members)
    return folder


def test_shards_are_read_at_their_offsets(tmp_path: Path) -> None:
    write_shards(tmp_path / "train")
    raw: dict[str, Any] = {"kind": "webdataset", "class_names": ["cat", "dog"]}
    listing = list_split("train", **raw, train=str(tmp_path / "train" / "in-{000..001}.tar"))
    assert listing.keys[4] == "in-001.tar/00001"
    assert listing.labels.tolist() == [0, 1, 0, 0, 1, 0]
    for i in (5, 0, 3):
        assert np.abs(np.asarray(listing.open(i).convert("RGB"))[0, 0, 0].astype(int) - 16 * i) < 6
    starred = list_split("train", **raw, train=[str(tmp_path / "train" / "in-*.tar")])
    assert starred.keys == listing.keys and starred.inputs == listing.inputs
    held = list_split("validation", **raw, train=str(tmp_path / "train" / "in-*.tar"),
                   validation={"from": "train", "per_class": 1})  # fmt: skip
    assert sorted(held.labels.tolist()) == [0, 1] and set(held.keys) < set(listing.keys)


def test_shards_whose_texts_are_class_names(tmp_path: Path) -> None:
    image = encoded(1, "PNG")
    members = {f"{name}{i}": {"png": image, "txt": name.encode()} for name in ("owl", "cat") for i in (1, 2)}
    file = write_shard(tmp_path / "a.tar", members)
    listing = list_split("test", kind="webdataset", test=str(file))
    assert listing.class_names == ("cat", "owl") and listing.labels.tolist() == [1, 1, 0, 0]
    assert reader_of(settings_of(kind="webdataset", test=str(file))).class_names() is None
    train = TrainSettings(set="x", classes=["zebra", "cat"])
    assert class_problems(train, settings_of(kind="webdataset", test=str(file))) == [], "said when shards are read"


@pytest.mark.parametrize(
    ("members", "names", "message"),
    [
        ({"a": {"jpg": b"", "cls": b"2"}}, ["cat", "dog"], "class 2, but class_names has 2 names"),
        ({"a": {"jpg": b"", "cls": b"dog"}}, ["cat", "dog"], "is no class index"),
        ({"a": {"jpg": b"", "txt": b"owl"}}, ["cat", "dog"], "'owl' is none of class_names"),
        ({"a": {"jpg": b""}}, ["cat", "dog"], "no .cls and no .txt"),
        ({"a": {"cls": b"1"}}, ["cat", "dog"], "has a class but no image"),
        ({"a": {"jpg": b"", "cls": b"1"}}, None, "say their words in class_names"),
    ],
)
def test_shards_that_do_not_do(
    tmp_path: Path, members: dict[str, dict[str, bytes]], names: list[str] | None, message: str
) -> None:
    file = write_shard(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        list_split("test", kind="webdataset", test=str(file), class_names=names)


def test_a_compressed_shard_and_one_that_is_not_there(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"a": {"jpg": b"", "cls": b"0"}})
    with tarfile.open(tmp_path / "b.tar", "w:gz") as archive:
        archive.add(tmp_path / "a.tar")
    with pytest.raises(ValueError, match="b.tar cannot be read as an uncompressed tar"):
        list_split("test", kind="webdataset", test=str(tmp_path / "b.tar"), class_names=["cat", "dog"])
    raw = {"kind": "webdataset", "train": [str(tmp_path / "{a,b,c}.tar")], "class_names": ["cat", "cat"]}
    messages = {problem.path: problem.message for problem in set_problems("w", raw)}
    assert "no shard" in messages["sets", "w", "train", 0] and "c.tar" in messages["sets", "w", "train", 0]
    assert "both called 'cat'" in messages["sets", "w", "class_names", 1]

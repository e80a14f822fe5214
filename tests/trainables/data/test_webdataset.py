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
        ({"a": {"jpg": b"", "cls": b"dog"}}, ["cat", "dog"], "is not a class index"),
        ({"a": {"jpg": b"", "txt": b"owl"}}, ["cat", "dog"], "'owl' is not one of class_names"),
        ({"a": {"jpg": b""}}, ["cat", "dog"], "no .cls and no .txt"),
        ({"a": {"cls": b"1"}}, ["cat", "dog"], "has a class but no image"),
        ({"a": {"jpg": b"", "cls": b"1"}}, None, "write their words in class_names"),
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
    with pytest.raises(ValueError, match="b.tar is compressed; unpack it"):
        list_split("test", kind="webdataset", test=str(tmp_path / "b.tar"), class_names=["cat", "dog"])
    raw = {"kind": "webdataset", "train": [str(tmp_path / "{a,b,c}.tar")], "class_names": ["cat", "cat"]}
    messages = {problem.path: problem.message for problem in set_problems("w", raw)}
    assert "no shard" in messages["sets", "w", "train", 0] and "c.tar" in messages["sets", "w", "train", 0]
    assert "both called 'cat'" in messages["sets", "w", "class_names", 1]


def notes(**raw: Any) -> list[str]:
    return reader_of(settings_of(kind="webdataset", **raw)).notes()


def test_a_key_names_one_sample(tmp_path: Path) -> None:
    raw = {"test": str(tmp_path / "a.tar"), "class_names": ["cat", "dog"]}
    write_shard(tmp_path / "a.tar", {"k": {"jpg": encoded(1), "png": encoded(2, "PNG"), "cls": b"0"}})
    with pytest.raises(ValueError, match=r"a.tar: the key k has two images, ./k.jpg and ./k.png"):
        list_split("test", kind="webdataset", **raw)
    write_shard(tmp_path / "a.tar", {"k": {"jpg": encoded(1), "cls": b"0"}, "./k": {"cls": b"1"}})
    with pytest.raises(ValueError, match=r"a.tar: the key k has two .cls members"):
        list_split("test", kind="webdataset", **raw)


def test_keys_with_dots_are_counted_and_named(tmp_path: Path) -> None:
    samples = {f"img_{i}{'.v2' * (i % 2)}": {"png": encoded(i, "PNG"), "cls": b"0"} for i in range(4)}
    write_shard(tmp_path / "a.tar", samples)
    raw = {"test": str(tmp_path / "a.tar"), "class_names": ["cat", "dog"]}
    assert len(list_split("test", kind="webdataset", **raw).keys) == 2
    (note,) = notes(**raw)
    assert note.startswith("test: 2 images are not read") and f"img_1.v2.png in {tmp_path / 'a.tar'}" in note
    write_shard(tmp_path / "a.tar", {"x.1": samples["img_0"], "y.2": samples["img_0"]})
    with pytest.raises(ValueError, match=r"no images in the test shards .*2 images are not read.* x.1.png"):
        list_split("test", kind="webdataset", **raw)
    with pytest.raises(ValueError, match=r"only one class .*2 images are not read.* x.1.png"):
        list_split("test", kind="webdataset", test=raw["test"])


def test_further_formats_are_read_where_a_sample_has_no_other_image(tmp_path: Path) -> None:
    with_mask = {"png": encoded(1, "PNG"), "pgm": encoded(2, "PPM"), "cls": b"0"}
    write_shard(tmp_path / "a.tar", {"a": with_mask, "b": {"bmp": encoded(3, "BMP"), "cls": b"1"}})
    listing = list_split("test", kind="webdataset", test=str(tmp_path / "a.tar"), class_names=["cat", "dog"])
    assert [listing.open(i).format for i in range(2)] == ["PNG", "BMP"]


def test_classes_in_several_spellings(tmp_path: Path) -> None:
    def shard(name: str, *classes: bytes) -> str:
        samples = {f"k{i}": {"png": encoded(i, "PNG"), "txt": of_class} for i, of_class in enumerate(classes)}
        return str(write_shard(tmp_path / name, samples))

    raw = {"train": shard("train.tar", b"Cat", b"dog"), "test": shard("test.tar", b"\xef\xbb\xbfcat", b"dog", b"dog")}
    listing = list_split("test", kind="webdataset", **raw)
    assert listing.class_names == ("Cat", "dog") and listing.labels.tolist() == [0, 1, 1]
    assert "'Cat'" in notes(**raw)[0] and "are read as one class" in notes(**raw)[0]
    mixed = {"train": shard("mixed.tar", b"Cat", b"cat", b"dog")}
    with pytest.raises(ValueError, match="train shards: two classes are called 'Cat' and 'cat'"):
        list_split("train", kind="webdataset", **mixed)
    named = list_split("train", kind="webdataset", **mixed, class_names=["CAT", "Dog"])
    assert named.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("folder", ["brackets [v2]", "{a,b}", "what?", "star*", "a{0..1}"])
@pytest.mark.parametrize("name", ["in-000.tar", "in-*.tar", "in-{000..000}.tar"])
def test_folders_that_exist_are_taken_literally(folder: str, name: str, tmp_path: Path) -> None:
    write_shards(tmp_path / folder)
    raw = {"test": str(tmp_path / folder / name), "class_names": ["cat", "dog"]}
    assert len(list_split("test", kind="webdataset", **raw).keys) == (6 if "*" in name else 3)


def test_a_file_that_exists_is_taken_literally(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "in-000.tar").rename(tmp_path / "in-[0].tar")
    (tmp_path / "in-001.tar").rename(tmp_path / "in-0.tar")
    raw = {"test": str(tmp_path / "in-[0].tar"), "class_names": ["cat", "dog"]}
    assert {key.partition("/")[0] for key in list_split("test", kind="webdataset", **raw).keys} == {"in-[0].tar"}
    (tmp_path / "in-[0].tar").unlink()
    assert {key.partition("/")[0] for key in list_split("test", kind="webdataset", **raw).keys} == {"in-0.tar"}


def test_a_shard_that_git_lfs_has_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"a.tar is a Git LFS pointer"):
        list_split("test", kind="webdataset", test=str(tmp_path / "a.tar"), class_names=["cat", "dog"])


@pytest.mark.parametrize("further", [b"junk" * 200, None])
def test_what_follows_the_end_of_a_tar_is_refused(further: bytes | None, tmp_path: Path) -> None:
    """Python's tarfile ends there without an error, and all samples behind would be missing."""
    file = write_shard(tmp_path / "a.tar", {"a": {"png": encoded(1, "PNG"), "cls": b"0"}})
    file.write_bytes(file.read_bytes() + (file.read_bytes() if further is None else further))
    with pytest.raises(ValueError, match=r"a.tar: its members end at byte .*, and something else follows"):
        list_split("test", kind="webdataset", test=str(file), class_names=["cat", "dog"])


def test_indices_that_a_table_wrote_as_fractions_and_links(tmp_path: Path) -> None:
    file = write_shard(tmp_path / "a.tar", {f"k{i}": {"png": encoded(i, "PNG"), "cls": b"%d.0" % i} for i in range(2)})
    with tarfile.open(file, "a") as archive:
        link = tarfile.TarInfo("k2.png")
        link.type, link.linkname = tarfile.LNKTYPE, "k1.png"
        archive.addfile(link)
    raw = {"test": str(file), "class_names": ["cat", "dog"]}
    assert list_split("test", kind="webdataset", **raw).labels.tolist() == [0, 1]
    assert notes(**raw) == [f"test: 1 link is not read, first k2.png in {file}"]
    write_shard(file, {"k": {"png": encoded(1, "PNG"), "cls": b"9" * 5000}})
    with pytest.raises(ValueError, match=r"a.tar: the .cls member of k: '9{40}' is not a class index"):
        list_split("test", kind="webdataset", **raw)


def test_braces_count_down_and_are_not_expanded_as_a_whole(tmp_path: Path) -> None:
    write_shards(tmp_path)
    raw = {"class_names": ["cat", "dog"]}
    assert len(list_split("test", kind="webdataset", test=str(tmp_path / "in-{001..000}.tar"), **raw).keys) == 6
    with pytest.raises(ValueError, match=r"no shard .*in-0.tar"):
        list_split("test", kind="webdataset", test=str(tmp_path / "in-{0..999999999999}.tar"), **raw)

"""Checks of image sets in a spec that hold for several kinds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sweeper.spec.set_checks import set_problems
from tests.helpers.image_files import photos, write_shard
from trainables.settings.task import absolute_paths


def test_splits_with_images_in_common_are_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog"], 2)
    (tmp_path / "link").symlink_to(root)
    (problem,) = set_problems("own", {"kind": "image_folder", "train": root, "test": tmp_path / "link"})
    assert problem.path == ("sets", "own", "test", 0) and "in train and in test" in problem.message
    write_shard(tmp_path / "a.tar", {"a": {"jpg": b"", "txt": b"cat"}, "b": {"jpg": b"", "txt": b"dog"}})
    raw = {"kind": "webdataset", "train": [str(tmp_path / "*.tar")], "test": [str(tmp_path / "a.tar")]}
    (problem,) = set_problems("own", raw)
    assert problem.path == ("sets", "own", "test", 0) and "in train and in test" in problem.message


def test_paths_of_every_kind_are_taken_from_the_spec(tmp_path: Path) -> None:
    sets = {
        "a": {"kind": "webdataset", "train": "s/in-{000..127}.tar", "test": ["t/*.tar", "/abs/x.tar"],
              "class_names": "names.txt"},
        "b": {"kind": "torchvision", "dataset": "dtd", "root": "data", "classes": "list.txt"},
        "c": {"kind": "scam", "path": "scam"},
        "d": {"kind": "image_folder", "train": ["x"], "class_names": "imagenet", "classes": ["n1", "n2"],
              "validation": {"from": "train", "share": 0.1}},
    }  # fmt: skip
    assert absolute_paths({"sets": sets}, tmp_path)["sets"] == {
        "a": {"kind": "webdataset", "train": f"{tmp_path}/s/in-{{000..127}}.tar",
              "test": [f"{tmp_path}/t/*.tar", "/abs/x.tar"], "class_names": f"{tmp_path}/names.txt"},
        "b": {"kind": "torchvision", "dataset": "dtd", "root": f"{tmp_path}/data", "classes": f"{tmp_path}/list.txt"},
        "c": {"kind": "scam", "path": f"{tmp_path}/scam"},
        "d": {"kind": "image_folder", "train": [f"{tmp_path}/x"], "class_names": "imagenet", "classes": ["n1", "n2"],
              "validation": {"from": "train", "share": 0.1}},
    }  # fmt: skip


def test_checking_sets_is_light() -> None:
    heavy = {"torch", "torchvision", "open_clip"}
    code = f"import sys, trainables.data.readers.kinds; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

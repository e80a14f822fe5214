"""Subsets of image sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.image_files import image_source, photos, settings_of
from trainables.data.cache import Store
from trainables.data.image_set import preference_images, subset, unseen
from trainables.settings.task import TrainSettings


def test_large_choices_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos(tmp_path / "train", ["cat", "dog", "owl"], 4)
    images = image_source(tmp_path / "cache").load("own", settings_of(kind="image_folder", train=root), "train")
    train = TrainSettings(set="own", classes=["cat", "owl"])
    expected = [subset(images, 5, seed=0), preference_images(images, train, seed=0)]
    monkeypatch.setattr("trainables.data.image_set.IN_MEMORY_BYTES", 0)
    store = Store(tmp_path / "cache")
    stored = [subset(images, 5, seed=0, store=store), preference_images(images, train, seed=0, store=store)]
    assert len(list((tmp_path / "cache").glob("*/images.npy"))) == 3
    for first, second in zip(expected, stored, strict=True):
        assert torch.equal(first.images, second.images) and first.keys == second.keys and first.digest == second.digest
    assert stored[1].keys == tuple(key for key in images.keys if not key.startswith("dog"))


def test_what_a_subset_leaves_out_can_be_had_too(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", ["cat", "dog", "owl"], 4)
    images = image_source(tmp_path / "cache").load("own", settings_of(kind="image_folder", train=root), "train")
    seen, rest, some = subset(images, 5, seed=3), unseen(images, 5, 99, seed=3), unseen(images, 5, 4, seed=3)
    assert rest is not None and some is not None
    assert set(seen.keys).isdisjoint(rest.keys) and {*seen.keys, *rest.keys} == set(images.keys)
    assert len(some.keys) == 4 and set(some.keys) < set(rest.keys), "at most so many of them"
    row = {key: i for i, key in enumerate(images.keys)}
    for key, label, pixels in zip(rest.keys, rest.labels, rest.images, strict=True):
        assert label == images.labels[row[key]] and torch.equal(pixels, images.images[row[key]])
    again = unseen(images, 5, 4, seed=3)
    assert again is not None and again.digest == some.digest
    assert unseen(images, 12, 4, seed=3) is None and unseen(images, 13, 4, seed=3) is None

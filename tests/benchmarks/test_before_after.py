"""The picture of README.md is drawn from what a sweep measured."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.pictures.before_after import before_after
from sweeper.errors import UserError
from sweeper.storage.sweep_folder import SweepFolder
from tests.paths import ROOT
from trainables.evaluation.answers import read_answers

EARLY = ROOT / "tests" / "sweeper" / "storage" / "early_sweep"


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    shutil.copytree(EARLY, tmp_path / "early")
    return SweepFolder(tmp_path, "early")


def test_the_picture_is_small_and_the_same_every_time(folder: SweepFolder) -> None:
    png = before_after(folder, "knee")
    assert len(png) < 200_000 and png == before_after(folder, "knee")
    assert Image.open(io.BytesIO(png)).width == 800
    assert png != before_after(folder, "knee", skip=1)


def test_images_that_do_not_show_the_cure_are_not_drawn(folder: SweepFolder) -> None:
    count = len(read_answers(EARLY / "answers" / "untouched.csv.gz")[0].images)
    with pytest.raises(UserError, match="images on which only the untouched model is fooled"):
        before_after(folder, "knee", skip=count)
    with pytest.raises(UserError, match="no such point"):
        before_after(folder, "nothing")

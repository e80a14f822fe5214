"""The generated world as an image set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.image_files import image_source, settings_of
from trainables.data.readers.kinds import list_images, reader_of
from trainables.world.icons import CLASSES
from trainables.world.scenes import empty_scenes, scenes


def test_listed_images_are_the_scenes_of_the_split(tmp_path: Path) -> None:
    settings = settings_of(kind="world", seed=3, test=25)
    listing = list_images("world", settings, "test")
    pixels, labels = scenes("test", 3, 25)
    assert all((np.asarray(listing.open(i)) == pixels[i]).all() for i in range(25))
    assert (listing.labels == labels).all() and reader_of(settings).class_names() == listing.class_names == CLASSES
    images = image_source(tmp_path).load("world", settings, "test")
    assert images.keys[24] == "world/3/test/24" and (images.labels.numpy() == labels).all()
    assert (images.images[24].numpy() == np.asarray(Image.fromarray(pixels[24]).resize((8, 8)))).all()


def test_empty_images_are_drawn_in_the_world_and_left_to_the_caller_elsewhere(tmp_path: Path) -> None:
    drawn = reader_of(settings_of(kind="world", seed=3)).empty_images(2)
    assert drawn is not None and (np.stack([np.asarray(image) for image in drawn]) == empty_scenes("test", 3, 2)).all()
    assert reader_of(settings_of(kind="rta100", path=tmp_path)).empty_images(2) is None

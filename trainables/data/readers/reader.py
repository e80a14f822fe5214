"""The interface of a reader of image sets: questions answered before an image is decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from PIL import Image

from trainables.data.listing import Listing
from trainables.settings.sets import Split


class Reader(ABC):
    """Reader of one image set: its classes, the words for them, and the images of each split."""

    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """Return the words for the classes in the order of the labels; None if only reading all shards could tell.

        Raises:
            SetError: the set cannot be read.
        """

    @abstractmethod
    def list_images(self, split: Split) -> Listing:
        """Return the images of a split that the settings have, in a stable order.

        Raises:
            SetError: files are missing, a class is unknown, or words do not fit the classes.
        """

    def notes(self) -> list[str]:
        """Return a line for each part of the set's files that is not read, or is read under another spelling.

        Raises:
            SetError: the set cannot be read.
        """
        return []

    def list_clean(self) -> Listing | None:
        """Return the test scenes of a typographic set without their words; None if the set does not hold them.

        Keys, labels and ``written`` are in the same order as in ``list_images("test")``.

        Raises:
            SetError: the set cannot be read, or some scenes are missing.
        """
        return None

    def empty_images(self, count: int) -> list[Image.Image] | None:
        """Return ``count`` images in the style of the set without an object; None if the set cannot make them."""
        return None

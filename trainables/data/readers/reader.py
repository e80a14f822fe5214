"""What every kind of image set can be asked, before an image is decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from PIL import Image

from trainables.data.listing import Listing
from trainables.settings.sets import Split


class Reader(ABC):
    """Reads one image set: its classes, the words for them, and the images of each split."""

    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """Return the words for the classes in the order of the labels; None where only reading all shards would tell.

        Raises SetError.
        """

    @abstractmethod
    def list_images(self, split: Split) -> Listing:
        """Return the images of a split that the settings have, in a stable order.

        Raises SetError for missing files, unknown classes, and words that do not fit the classes.
        """

    def notes(self) -> list[str]:
        """Return a line for whatever in the set's files is not read, or is read otherwise than it is spelled.

        Raises SetError.
        """
        return []

    def list_clean(self) -> Listing | None:
        """Return the test scenes of a typographic set without their words: keys, labels and ``written`` in the same
        order as in ``list_images("test")``; None where the set does not hold them.

        Raises SetError.
        """
        return None

    def empty_images(self, count: int) -> list[Image.Image] | None:
        """Return ``count`` images that look like those of the set but show no object; None where the set has none."""
        return None

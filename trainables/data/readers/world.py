"""The generated world: its images are drawn, not read from files."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from trainables.data.listing import Listing
from trainables.data.readers.reader import Reader
from trainables.settings.sets import Split, WorldSet
from trainables.world.icons import CLASSES
from trainables.world.scenes import COLOURS, colours, empty_scenes, labels, scene


@dataclass(frozen=True)
class WorldReader(Reader):
    settings: WorldSet

    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    def list_images(self, split: Split) -> Listing:
        seed, count = self.settings.seed, self.settings.count(split)
        return Listing(
            keys=tuple(f"world/{seed}/{split}/{i}" for i in range(count)),
            labels=labels(count),
            class_names=CLASSES,
            templates=tuple(self.settings.templates),
            inputs={"world": seed, "split": split, "count": count},
            open=lambda i: Image.fromarray(scene(split, seed, i)),
            max_broken_share=0.0,
            values=colours(count),
            value_names=COLOURS,
            generated=True,
        )

    def empty_images(self, count: int) -> list[Image.Image]:
        return [Image.fromarray(pixels) for pixels in empty_scenes("test", self.settings.seed, count)]

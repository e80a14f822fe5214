"""A contact sheet of the images that a sweep trains and evaluates on: the same pixels, for a few images of each set."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sweeper.errors import UserError
from sweeper.spec.spec import Spec
from trainables.attack.rendering import FONTS_FOLDER, Variant
from trainables.settings.sets import Split
from trainables.settings.task import split_of
from trainables.settings.typographic import TypographicSettings

if TYPE_CHECKING:
    from trainables.data.image_set import ImageSet
    from trainables.data.listing import Listing
    from trainables.data.source import DataSource

COPIES = 3
"""Largest number of attacked copies of an image on the sheet."""
SMALLEST_CELL_PX = 140
_MARGIN_PX, _LINE_PX, _FONT_PX = 12, 18, 13
_INK, _TITLE_INK, _WRITTEN_INK = (40, 40, 40), (0, 70, 140), (190, 30, 30)


@dataclass(frozen=True)
class Row:
    """Images side by side, with two lines under each."""

    title: str
    images: Sequence[np.ndarray]
    """(H, W, 3) uint8 each."""
    true: Sequence[str]
    written: Sequence[str]
    """Written words; empty for images without words."""
    values: Sequence[str] = ()
    """Values of the attribute; empty for images without an attribute."""


@dataclass(frozen=True)
class Preview:
    heading: str
    """Title of the sheet."""
    rows: tuple[Row, ...]
    lines: tuple[str, ...]
    """A line for each set and split: number of images and classes, and the images that could not be opened."""


@dataclass(frozen=True)
class _Sample:
    """A few images of a split."""

    images: ImageSet
    clean: Sequence[np.ndarray] | None
    """The same scenes without the word, if a real typographic set has them."""


def preview(spec: Spec, count: int) -> Preview:
    """Decode ``count`` images of each set and attack them as a sweep of ``spec`` would.

    Images are drawn as the sweep draws them, except for broken ones: the sweep opens all images and leaves out the
    broken ones first.

    Raises:
        UserError: the model or the images cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return _Sheet(spec, count, Path(scratch)).rows()
        except ValueError as error:
            raise UserError(str(error)) from error


class _Sheet:
    def __init__(self, spec: Spec, count: int, scratch: Path) -> None:
        from trainables.data.cache import Store
        from trainables.data.source import DataSource
        from trainables.models.clip import image_preparation

        self._spec, self._count, self._seed, self._scratch = spec, count, spec.search.seed, scratch
        self._crop, image_size = image_preparation(spec.model)
        self._source: DataSource = DataSource(Store(scratch), self._crop, image_size, None)
        self._lines: list[str] = []

    def rows(self) -> Preview:
        """Return attacked images if the task is about words on images, else the unchanged images."""
        spec = self._spec
        if isinstance(spec, TypographicSettings):
            return self._typographic_rows(spec)
        rows = [self._clean("training", self._sample(f"{spec.train.set}/train", "train"))]
        for reference in spec.evaluate.search.sets:
            rows.append(self._clean("validation", self._sample(reference, "validation")))
        for reference in spec.evaluate.test.sets:
            rows.append(self._clean("test", self._sample(reference, "test")))
        lines = [*self._lines, *self._findings()]
        return Preview(f"{spec.name}: images, their contents and values", tuple(rows), tuple(lines))

    def _findings(self) -> list[str]:
        """Return the untouched model's findings about the training data, which are all embedded for this."""
        import torch

        from trainables.tasks.known import open_context

        settings, device = self._spec.task_settings(), torch.device("cpu")
        try:
            context = open_context(settings, data_seed=self._seed, cache=self._scratch / "context", device=device)
            return context.measures.findings(context)
        except ValueError as error:
            return [f"the untouched model's findings about the training data are not known: {error}"]

    def _typographic_rows(self, spec: TypographicSettings) -> Preview:
        from trainables.data.typographic import held_out_variants, trained_attack

        attack = trained_attack(spec.attack)
        train = self._sample(f"{spec.train.set}/train", "train")
        rows = [self._clean("training", train)]
        for copy, row in enumerate(self._attacked("training", train, attack, spec.train.copies)[:COPIES]):
            more = f", copy {copy + 1} of {spec.train.copies}" if spec.train.copies > 1 else ""
            rows.append(Row(row.title + more, row.images, row.true, row.written))
        for reference in spec.evaluate.search.sets:
            sample = self._sample(reference, "validation")
            rows += [self._clean("validation", sample), *self._attacked("validation", sample, attack)]
        pasted = []
        for reference in spec.evaluate.test.sets:
            sample = self._sample(reference, "test")
            if sample.images.written is None:
                pasted.append((reference, sample))
                rows += [self._clean("test", sample), *self._attacked("test", sample, attack)]
            else:
                rows += self._real(sample)
        if spec.evaluate.test.variants and pasted:
            reference, sample = pasted[0]
            for name, variant in held_out_variants(spec.attack, sample.images.class_names).items():
                rows += self._attacked(f"test, {name}, never trained on", sample, variant)
            rows.append(self._signs(reference, sample, spec.attack.recipe))
        heading = f"{self._spec.name}: words written by recipe {spec.attack.recipe}; true label, -> written label"
        return Preview(heading, tuple(rows), tuple(self._lines))

    def _sample(self, reference: str, default: Split) -> _Sample:
        from trainables.data.readers.kinds import list_clean, list_images

        name, split = split_of(reference, default)
        settings = self._spec.sets[name]
        listing = list_images(name, settings, cast(Split, split))
        drawn = self._drawn(_row_numbers(f"{name}/{split}", listing), default)
        numbers = drawn.images.flatten().tolist()
        spread = _spread(len(numbers), self._count)
        others = (row for row in range(len(numbers)) if row not in spread)
        shown: dict[int, np.ndarray] = {}
        broken: list[str] = []
        for row in chain(spread, others):
            if len(shown) == self._count or len(broken) > 10 * self._count:
                break
            self._open(listing, numbers[row], row, shown, broken)
        self._lines.append(_about(default, drawn) + _about_broken(broken, len(shown) + len(broken)))
        images = _with_pixels(drawn, list(shown), list(shown.values()))
        clean = list_clean(name, settings)
        if clean is None:
            return _Sample(images, None)
        scenes: dict[int, np.ndarray] = {}
        broken = []
        for row in shown:
            self._open(clean, numbers[row], row, scenes, broken)
        self._lines.append(f"{default}: {name}/clean{_about_broken(broken, len(shown))}")
        nothing = np.zeros_like(next(iter(shown.values())))
        return _Sample(images, [scenes.get(row, nothing) for row in shown])

    def _drawn(self, images: ImageSet, default: Split) -> ImageSet:
        """Return the images of a split that the sweep uses."""
        from trainables.data.image_set import preference_images, subset

        if default == "train":
            return preference_images(images, self._spec.train, seed=self._seed)
        evaluate = self._spec.evaluate
        limit = evaluate.search.images if default == "validation" else evaluate.test.images
        return subset(images, limit, seed=self._seed)

    def _open(self, listing: Listing, number: int, row: int, opened: dict[int, np.ndarray], broken: list[str]) -> None:
        from trainables.data.decoding import decoded

        pixels = decoded(listing, self._crop, number)
        if isinstance(pixels, str):
            broken.append(f"{listing.keys[number]} ({pixels})")
        else:
            opened[row] = pixels

    def _clean(self, what: str, sample: _Sample) -> Row:
        images = sample.images
        prompt = images.templates[0].format(images.class_names[int(images.labels[0])])
        more = f" and {len(images.templates) - 1} more" if len(images.templates) > 1 else ""
        title = f'{what}: {images.name}, clean, prompt "{prompt}"{more}'
        values = [] if images.values is None else [images.value_names[value] for value in images.values.tolist()]
        return Row(title, list(images.images.numpy()), _true(images), [""] * len(images.labels), values)

    def _attacked(self, what: str, sample: _Sample, attack: Variant, copies: int = 1) -> list[Row]:
        """Return a row for each copy."""
        images, count = sample.images, len(sample.images.labels)
        attacked = self._source.attacked(images, attack, seed=self._seed, copies=copies)
        assert attacked.written is not None
        rows = []
        for copy in range(copies):
            part = slice(copy * count, (copy + 1) * count)
            written = [images.class_names[i] if i >= 0 else "(no class)" for i in attacked.written[part].tolist()]
            title = f"{what}: {images.name}, attacked"
            rows.append(Row(title, list(attacked.images[part].numpy()), _true(images), written))
        return rows

    def _real(self, sample: _Sample) -> list[Row]:
        images = sample.images
        assert images.written is not None
        written = [images.class_names[label] for label in images.written.tolist()]
        rows = [Row(f"test: {images.name}, words really there", list(images.images.numpy()), _true(images), written)]
        if sample.clean is not None:
            title = f"test: {images.name}, the same scenes without the word"
            rows.insert(0, Row(title, sample.clean, _true(images), [""] * len(written)))
        return rows

    def _signs(self, reference: str, sample: _Sample, recipe: str) -> Row:
        settings = self._spec.sets[split_of(reference, "test")[0]]
        signs = self._source.signs(sample.images, recipe, settings, seed=self._seed)
        words = _true(signs)
        return Row("test: words on images without an object (reading)", list(signs.images.numpy()), words, words)


def _about(what: str, drawn: ImageSet) -> str:
    return f"{what}: {drawn.name}, {len(drawn.labels)} images, {len(drawn.class_names)} classes"


def _about_broken(broken: Sequence[str], opened: int) -> str:
    return f", {len(broken)} of {opened} opened images are broken: {broken[0]}" if broken else ""


def _true(images: ImageSet) -> list[str]:
    return [images.class_names[label] for label in images.labels.tolist()]


def _row_numbers(name: str, listing: Listing) -> ImageSet:
    """Return a split with row numbers in place of images, so that the sweep's function that draws subsets applies to
    it.
    """
    import torch

    from trainables.data.image_set import ImageSet

    numbers = torch.arange(len(listing.keys)).view(-1, 1, 1, 1)
    labels = torch.from_numpy(np.asarray(listing.labels, np.int64))
    written = None if listing.written is None else torch.from_numpy(listing.written)
    values = None if listing.values is None else torch.from_numpy(listing.values)
    return ImageSet(
        name, numbers, labels, listing.keys, listing.class_names, listing.templates, name, written,
        values=values, value_names=listing.value_names,
    )  # fmt: skip


def _with_pixels(drawn: ImageSet, rows: Sequence[int], pixels: Sequence[np.ndarray]) -> ImageSet:
    import torch

    if not rows:
        raise ValueError(f"{drawn.name}: none of the images tried can be opened; see `sweeper check`")
    taken = drawn.take(rows, drawn.class_names, drawn.labels[list(rows)])
    return replace(taken, images=torch.from_numpy(np.stack(pixels)))


def _spread(total: int, count: int) -> list[int]:
    """Return at most ``count`` different rows of ``total``, evenly spread: images are ordered by class."""
    return sorted({i * total // count for i in range(count)}) if total else []


def contact_sheet(preview: Preview, heading: str) -> Image.Image:
    """Return the rows of a preview as one image, with a heading."""
    side = max(image.shape[1] for row in preview.rows for image in row.images)
    cell = side * -(-SMALLEST_CELL_PX // side)
    columns = max(len(row.images) for row in preview.rows)
    row_px = cell + 3 * _LINE_PX + _MARGIN_PX
    size = columns * (cell + _MARGIN_PX) + _MARGIN_PX, len(preview.rows) * row_px + 2 * _MARGIN_PX + _LINE_PX
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, _MARGIN_PX), _fitted(heading, size[0] - 2 * _MARGIN_PX), fill=_INK, font=_font())
    for number, row in enumerate(preview.rows):
        top = 2 * _MARGIN_PX + _LINE_PX + number * row_px
        title = _fitted(row.title, size[0] - 2 * _MARGIN_PX)
        draw.text((_MARGIN_PX, top), title, fill=_TITLE_INK, font=_font())
        for column, (pixels, true, written) in enumerate(zip(row.images, row.true, row.written, strict=True)):
            left, below = _MARGIN_PX + column * (cell + _MARGIN_PX), top + _LINE_PX + cell + 2
            image = Image.fromarray(pixels)
            image = image.resize((image.width * cell // side, image.height * cell // side), Image.Resampling.NEAREST)
            sheet.paste(image, (left, top + _LINE_PX))
            draw.text((left, below), _fitted(true, cell), fill=_INK, font=_font())
            if written:
                draw.text((left, below + _LINE_PX), _fitted("-> " + written, cell), fill=_WRITTEN_INK, font=_font())
            if row.values:
                draw.text((left, below + _LINE_PX), _fitted(row.values[column], cell), fill=_INK, font=_font())
    return sheet


def _fitted(text: str, width_px: int) -> str:
    font = _font()
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "...") > width_px:
        text = text[:-1]
    return text + "..."


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS_FOLDER / "DejaVuSans.ttf"), _FONT_PX)

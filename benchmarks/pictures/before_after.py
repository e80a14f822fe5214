"""One picture of what a sweep is for: an image, a word pasted on it, and what the model says before and after.

The image is the first of the sweep's test images (or, with ``--skip N``, a later one) on which the untouched model is
right without the word and says the word with it, while the chosen point is right both times. Answers and rates are
those that the sweep measured on test. Run it as

    python -m benchmarks.pictures.before_after quickstart --storage sweeps --output docs/before_after.png
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sweeper.errors import UserError
from sweeper.front.load import load_front
from sweeper.front.pick import pick
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.attack.rendering import FONTS_FOLDER
from trainables.data.cache import Store
from trainables.data.source import DataSource
from trainables.data.typographic import trained_attack
from trainables.evaluation.answers import Answers, read_answers
from trainables.models.clip import image_preparation
from trainables.settings.task import split_of
from trainables.settings.typographic import TypographicSettings
from trainables.spelling import label_form

WIDTH_PX, HEIGHT_PX, MARGIN_PX = 800, 596, 24
IMAGE_PX = 364
RIGHT, WRONG, PLAIN, FAINT = "#00694d", "#b3261e", "#1b1b1b", "#5a5a5a"


@dataclass(frozen=True)
class BothAnswers:
    """What the untouched model and the chosen point answer on one view of the test images."""

    untouched: Answers
    tuned: Answers

    def word(self, answers: Answers, index: int) -> str:
        assert answers.answer is not None
        return answers.answer[index]

    def is_right(self, answers: Answers, index: int) -> bool:
        return label_form(self.word(answers, index)) == label_form(answers.true[index])

    def accuracy(self, answers: Answers) -> float:
        return float(np.mean([self.is_right(answers, index) for index in range(len(answers.true))]))


@dataclass(frozen=True)
class Example:
    """One test image, as it is and with a word on it, and what both models answer."""

    image: np.ndarray
    """uint8 (H, W, 3)."""
    attacked: np.ndarray
    """uint8 (H, W, 3)."""
    answers: tuple[tuple[str, str], tuple[str, str]]
    """Without the word, with it: the untouched model's and the tuned one's."""
    true: str
    written: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", help="name of a finished sweep")
    parser.add_argument("--storage", type=Path, default=Path("sweeps"))
    parser.add_argument("--pick", default="knee")
    parser.add_argument("--skip", type=int, default=0, help="how many suitable images to leave out")
    parser.add_argument("--output", type=Path, default=Path("docs/before_after.png"))
    arguments = parser.parse_args()
    png = before_after(SweepFolder(arguments.storage, arguments.sweep), arguments.pick, arguments.skip)
    arguments.output.write_bytes(png)
    print(f"{arguments.output}: {len(png) / 1000:.0f} kB")


def before_after(folder: SweepFolder, choice: str, skip: int = 0) -> bytes:
    """Return the picture as a PNG. Raise UserError where the sweep has no such point, or no suitable image."""
    spec = folder.spec()
    front = load_front(folder, spec, read_trials(folder, spec))
    if front is None:
        raise UserError(f"sweep {folder.name} has no front yet")
    point = pick(front, choice)
    untouched, tuned = (read_answers(folder.answers_path(name)) for name in ((None, "last", 0.0), point.point_name))
    clean, attacked = (_both(untouched, tuned, view) for view in ("clean", "attacked"))
    suitable = list(_suitable(clean, attacked))
    if len(suitable) <= skip:
        raise UserError(f"sweep {folder.name} has {len(suitable)} images on which only the untouched model is fooled")
    return _drawn(_example(spec, clean, attacked, suitable[skip]), attacked)


def _both(untouched: list[Answers], tuned: list[Answers], view: str) -> BothAnswers:
    first, second = (next(answers for answers in given if answers.view == view) for given in (untouched, tuned))
    if first.images != second.images:
        raise UserError("both models were not shown the same images")
    return BothAnswers(first, second)


def _suitable(clean: BothAnswers, attacked: BothAnswers) -> Iterator[int]:
    """Yield the indices of images that only the untouched model is fooled on, and only by the word."""
    for index, written in enumerate(attacked.untouched.written):
        fooled = label_form(attacked.word(attacked.untouched, index)) == label_form(written)
        both = clean.is_right(clean.untouched, index) and clean.is_right(clean.tuned, index)
        if fooled and both and attacked.is_right(attacked.tuned, index):
            yield index


def _example(spec: Spec, clean: BothAnswers, attacked: BothAnswers, index: int) -> Example:
    assert isinstance(spec, TypographicSettings)
    name, split = split_of(attacked.untouched.set, "test")
    assert split == "test"
    crop, image_size = image_preparation(spec.model)
    with tempfile.TemporaryDirectory() as cache:
        source = DataSource(Store(Path(cache)), crop, image_size, None)
        images = source.load(name, spec.sets[name], "test")
        pasted = source.attacked(images, trained_attack(spec.attack), seed=spec.search.seed)
        row = images.keys.index(attacked.untouched.images[index])
        pair = images.images[row].numpy().copy(), pasted.images[row].numpy().copy()
        assert pasted.written is not None
        word = images.class_names[int(pasted.written[row])]
    if label_form(word) != label_form(attacked.untouched.written[index]):
        raise UserError(f"{word!r} is written on the image, {attacked.untouched.written[index]!r} was in the sweep's")
    without, with_word = (
        (view.word(view.untouched, index), view.word(view.tuned, index)) for view in (clean, attacked)
    )
    return Example(*pair, (without, with_word), attacked.untouched.true[index], word)


def _drawn(example: Example, attacked: BothAnswers) -> bytes:
    canvas = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), "white")
    draw = ImageDraw.Draw(canvas)
    titles = (f"an image of: {example.true}", f'the word "{example.written}" on it')
    for column, (title, pixels, words) in enumerate(
        zip(titles, (example.image, example.attacked), example.answers, strict=True)
    ):
        left = MARGIN_PX + column * (WIDTH_PX - 2 * MARGIN_PX - IMAGE_PX)
        draw.text((left, 14), title, FAINT, _font(27))
        shown = Image.fromarray(pixels).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.LANCZOS)
        canvas.paste(shown, (left, 56))
        for row, (model, word) in enumerate(zip(("untouched CLIP:", "after a sweep:"), words, strict=True)):
            right = label_form(word) == label_form(example.true)
            top = 56 + IMAGE_PX + 14 + 46 * row
            draw.text((left, top), model, PLAIN, _font(27))
            offset = draw.textlength(model + " ", _font(27))
            draw.text(
                (left + offset, top),
                word + (" \N{CHECK MARK}" if right else " \N{BALLOT X}"),
                RIGHT if right else WRONG,
                _font(29),
            )
    rates = [attacked.accuracy(answers) for answers in (attacked.untouched, attacked.tuned)]
    count = len(attacked.untouched.true)
    caption = f"{count} test images with a word: right on {rates[0]:.0%} before, {rates[1]:.0%} after"
    draw.text((MARGIN_PX, HEIGHT_PX - 50), caption, FAINT, _font(23))
    png = io.BytesIO()
    canvas.quantize(128).save(png, format="png", optimize=True)
    return png.getvalue()


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONTS_FOLDER / "DejaVuSans.ttf", size_px)


if __name__ == "__main__":
    main()

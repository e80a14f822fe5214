"""The typographic attack: words written on images.

The renderer writes the words of the preference pairs, of the held-out variants on which front members are tested, and
of the generated world. The text on an image depends on the image's random generator alone, so images may be attacked in
any order, by any number of workers and on any machine.

Recipes: ``sign`` (a word on a contrasting box, as in the generated world) and ``defense_prefix`` (outlined coloured
letters, after Azuma and Matsui, "Defense-Prefix for Preventing Typographic Attacks on CLIP", 2023).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainables.spelling import normal_form

FONTS_FOLDER = Path(__file__).parent / "fonts"
FONTS = ("Aileron", "DejaVuSans", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif")
FALLBACK_FONT = "DejaVuSans"
"""Font for names with letters that the fonts of a style lack; Aileron has few letters beyond ASCII."""

WORDS = ("sale", "open", "exit", "taxi")
"""Words that are not class names, for the variant ``other_words``."""

COLOURS = {
    "white": (255, 255, 255),
    "blue": (0, 0, 255),
    "green": (0, 128, 0),
    "red": (255, 0, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "yellow": (255, 255, 0),
    "black": (0, 0, 0),
}
"""RGB colours of outlined letters; fill and outline differ."""

SMALLEST_FONT_PX = 6

SHAPED_SCRIPTS = {
    *("ARABIC", "HEBREW", "SYRIAC", "THAANA", "NKO", "MANDAIC", "SAMARITAN", "ADLAM", "MONGOLIAN", "PHAGS-PA"),
    *("DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA"),
    *("THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER", "BALINESE", "JAVANESE", "SUNDANESE", "BATAK", "CHAM", "LEPCHA"),
    *("LIMBU", "BUGINESE", "SAURASHTRA", "KAYAH", "REJANG", "MEETEI", "SYLOTI", "CHAKMA", "NEWA", "TAI"),
}
"""Scripts whose letters join, stack or change places, as the first word of their letters' names in Unicode."""

Position = Literal["mix", "anywhere", "top", "bottom", "middle"]
MIXED_POSITIONS: tuple[Position, ...] = ("top", "bottom", "anywhere")


@dataclass(frozen=True, kw_only=True)
class Style:
    """Appearance and position of words."""

    fonts: tuple[str, ...]
    """Names in ``FONTS``; the font of each word is drawn from them."""
    size: tuple[float, float]
    """Smallest and largest font size as fractions of the image's shorter side."""
    box: bool
    """Whether words are light on a dark box or dark on a light box; otherwise coloured letters with an outline."""
    position: Position
    """``mix``: top, bottom or anywhere, a third each. Two words are placed at the top and at the bottom."""
    words: Literal[1, 2] = 1
    bold: bool = False
    slant: bool = False
    upper: bool = False


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An attack: the appearance of its words and their source."""

    style: Style
    source: Literal["classes", "other"] = "classes"
    """``classes``: a wrong class of the same list; ``other``: a word of ``WORDS``."""


RECIPES = {
    "sign": Style(fonts=("Aileron",), size=(12 / 48, 15 / 48), box=True, position="mix"),
    "defense_prefix": Style(
        fonts=("Aileron", "DejaVuSans", "DejaVuSansMono-Bold"),
        size=(20 / 224, 40 / 224),
        box=False,
        position="anywhere",
    ),
}


def variants(recipe: str) -> dict[str, Variant]:
    """Return the held-out attacks of a recipe by name: each changes one property of the attack that is trained on.

    ``unseen_font`` is a serif font that neither the recipes nor the pretraining of the generated world's model contain;
    ``mono_font`` is missing from both recipes, but that model has seen it.
    """
    style = RECIPES[recipe]
    smallest, largest = style.size
    return {
        "unseen_font": Variant(style=replace(style, fonts=("DejaVuSerif",))),
        "mono_font": Variant(style=replace(style, fonts=("DejaVuSansMono",))),
        "upper_case": Variant(style=replace(style, upper=True)),
        "middle": Variant(style=replace(style, position="middle")),
        "smaller": Variant(style=replace(style, size=(0.84 * smallest, 0.92 * smallest))),
        "larger": Variant(style=replace(style, size=(1.07 * largest, 1.2 * largest))),
        "two_words": Variant(style=replace(style, words=2)),
        "other_words": Variant(style=style, source="other"),
    }


def generator(*key: int | str | np.integer) -> np.random.Generator:
    """Return a random generator that is a function of ``key``: the same in every process and on every machine."""
    plain = tuple(part if isinstance(part, str) else int(part) for part in key)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def wrong_words(
    labels: Sequence[int] | np.ndarray, class_names: Sequence[str], generators: Iterable[np.random.Generator]
) -> np.ndarray:
    """Return for each label the class to be written: uniform over the classes with another name, int64 (N,).

    ``attack_image`` writes the same class first on an image with the same label and a generator in the same state.
    """
    pairs = zip(labels, generators, strict=True)
    return np.array([_wrong_classes(int(label), class_names, 1, rng)[0] for label, rng in pairs], np.int64)


def attack_image(
    image: np.ndarray, label: int, class_names: Sequence[str], variant: Variant, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a copy of an image, uint8 (H, W, 3), with a wrong word on it, and the class of each word.

    Two-word styles write two different wrong words. The class of a word that is not a class name is -1.

    Raises:
        ValueError: the class list has fewer wrong names than the style writes.
    """
    count = variant.style.words
    if variant.source == "classes":
        written = _wrong_classes(label, class_names, count, rng)
        return write(image, [class_names[index] for index in written], variant.style, rng), written
    names = set(map(normal_form, class_names))
    words = [word for word in WORDS if word not in names]
    if len(words) < count:
        raise ValueError(f"every word of {', '.join(WORDS)} is a class name: the variant other_words has none to write")
    chosen = [words[int(index)] for index in rng.choice(len(words), count, replace=False)]
    return write(image, chosen, variant.style, rng), (-1,) * count


def write(image: np.ndarray, words: Sequence[str], style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return a copy of ``image``, uint8 (H, W, 3), with ``words`` (one per ``style.words``) written on it.

    Names of several words are broken into two lines. A name too long for the image is shrunk until it fits.

    Raises:
        ValueError: the number of words is wrong, or a word cannot be written, see ``writing_problem``.
    """
    if len(words) != style.words:
        raise ValueError(f"this style writes {style.words} word(s), {len(words)} given: {list(words)}")
    canvas = Image.fromarray(image)
    positions: list[Position] = [style.position] if len(words) == 1 else ["top", "bottom"]
    for word, position in zip(words, positions, strict=True):
        _write_word(canvas, word.upper() if style.upper else word, position, style, rng)
    return np.array(canvas)


@lru_cache(maxsize=8192)
def writing_problem(word: str) -> str | None:
    """Return a line on why a word cannot be written on images; None if it can, in small and in capital letters.

    Letters are drawn one after the other from the left. Arabic, Hebrew, Indic and other scripts, whose letters join,
    move or run from the right, would be wrong; letters that the fonts of this package lack would become boxes.
    """
    text = _break_lines(unicodedata.normalize("NFC", word))
    letters = [letter for letter in text + text.upper() if not letter.isspace()]
    mend = "give the class another name in class_names"
    for letter in letters:
        script = _script(letter)
        if script in SHAPED_SCRIPTS or unicodedata.bidirectional(letter) in ("R", "AL"):
            return f"{word!r} cannot be written on images: its script, {script.title()}, requires shaping; {mend}"
    if not normal_form(word) or not letters:
        return f"{word!r} cannot be written on images: it has no letters; {mend}"
    if lacking := [letter for letter in letters if not _can_write(FALLBACK_FONT, letter)]:
        return (
            f"{word!r} cannot be written on images: the shipped fonts lack {lacking[0]!r} "
            f"({unicodedata.name(lacking[0], 'no letter of Unicode')}); {mend}"
        )
    return None


def _script(letter: str) -> str:
    """Return the script of a letter by its name in Unicode, in capitals: ARABIC LETTER BEH -> ARABIC."""
    return unicodedata.name(letter, "").partition(" ")[0] or "UNKNOWN"


def _wrong_classes(label: int, class_names: Sequence[str], count: int, rng: np.random.Generator) -> tuple[int, ...]:
    # Names are compared, not indices: two classes may share a name (ImageNet has two "crane"), and the name of the
    # other class would be the true word.
    taken = {normal_form(class_names[label])}
    written: list[int] = []
    for _ in range(count):
        wrong = [index for index, name in enumerate(class_names) if normal_form(name) not in taken]
        if not wrong:
            names = ", ".join(class_names)
            raise ValueError(
                f"to write {count} wrong name(s), {count + 1} different class names are needed; there are: {names}"
            )
        written.append(wrong[int(rng.integers(len(wrong)))])
        taken.add(normal_form(class_names[written[-1]]))
    return tuple(written)


def _write_word(canvas: Image.Image, word: str, position: Position, style: Style, rng: np.random.Generator) -> None:
    short_side = min(canvas.size)
    problem = writing_problem(word)
    if problem is not None:
        raise ValueError(problem)
    text = _break_lines(unicodedata.normalize("NFC", word))
    fonts = [name for name in style.fonts if _can_write(name, text)]
    fonts = fonts or [FALLBACK_FONT]
    font = fonts[int(rng.integers(len(fonts)))]
    smallest, largest = (max(SMALLEST_FONT_PX, round(fraction * short_side)) for fraction in style.size)
    size = int(rng.integers(smallest, largest + 1))
    outline = 0 if style.box else max(1, round(short_side / 224))
    letters, outlined = _fitting_letters(text, font, size, style, outline, canvas.size)
    x, y = _place(letters.size, canvas.size, position, rng)
    if style.box:
        light = bool(rng.random() < 0.5)
        ink, paper = rng.uniform(0, 50, 3), rng.uniform(0, 60, 3)
        margin = max(1, round(short_side / 24))
        frame = (x - margin, y - margin, x + letters.width + margin - 1, y + letters.height + margin - 1)
        ImageDraw.Draw(canvas).rectangle(frame, fill=_rgb(paper if light else 255 - paper))
        canvas.paste(_rgb(255 - ink if light else ink), (x, y), letters)
    else:
        fill, edge = rng.choice(len(COLOURS), 2, replace=False)
        colours = list(COLOURS.values())
        canvas.paste(colours[int(edge)], (x, y), outlined)
        canvas.paste(colours[int(fill)], (x, y), letters)


def _place(
    letters: tuple[int, int], canvas: tuple[int, int], position: Position, rng: np.random.Generator
) -> tuple[int, int]:
    """Return the upper left corner (x, y) of the letters, in pixels: at least a pixel from the edges if they fit.

    Args:
        letters, canvas: (width, height) in pixels.
    """
    x = int(rng.integers(1, max(2, canvas[0] - letters[0])))
    if position == "mix":
        position = MIXED_POSITIONS[int(rng.integers(3))]
    lowest = max(1, canvas[1] - letters[1] - 1)
    band = max(1, round(canvas[1] * 5 / 48))
    first, last = {
        "anywhere": (1, lowest),
        "top": (1, band),
        "bottom": (lowest - band + 1, lowest),
        "middle": ((lowest - band) // 2, (lowest + band) // 2),
    }[position]
    return x, min(max(int(rng.integers(first, last + 1)), 1), lowest)


def _break_lines(name: str) -> str:
    """Return the name in at most two lines, as in Defense-Prefix.

    Two or three words break after the first, more words after the second.
    """
    words = name.split()
    if len(words) < 2:
        return name.strip()
    head = 1 if len(words) <= 3 else 2
    return " ".join(words[:head]) + "\n" + " ".join(words[head:])


def _fitting_letters(
    text: str, font: str, size: int, style: Style, outline: int, canvas: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """Return masks (mode L) of the letters without and with their outline, both of the size with outline."""
    room = max(1, canvas[0] - 2), max(1, canvas[1] - 2)
    while True:
        letters, outlined = _letters(text, font, size, style.bold, style.slant, outline)
        if letters.width <= room[0] and letters.height <= room[1]:
            return letters, outlined
        if size > SMALLEST_FONT_PX:
            size -= 1
            continue
        squeezed = min(letters.width, room[0]), min(letters.height, room[1])
        return letters.resize(squeezed, Image.Resampling.BILINEAR), outlined.resize(squeezed, Image.Resampling.BILINEAR)


@lru_cache(maxsize=8192)
def _letters(text: str, font: str, size: int, bold: bool, slant: bool, outline: int) -> tuple[Image.Image, Image.Image]:
    face = _face(font, size)
    weight = 0.045 * size if bold else 0.0
    pad = size + outline
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font=face)
    extent = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
    masks = []
    for stroke in (weight, weight + outline):
        mask = Image.new("L", extent)
        origin = (pad - left, pad - top)
        ImageDraw.Draw(mask).multiline_text(origin, text, fill=255, font=face, align="center", stroke_width=stroke)
        if slant:
            shear = (1, 0.3, -0.15 * extent[1], 0, 1, 0)
            mask = mask.transform(extent, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
        masks.append(mask)
    frame = masks[1].getbbox()
    assert frame is not None, "letters leave ink"
    return masks[0].crop(frame), masks[1].crop(frame)


@lru_cache(maxsize=512)
def _face(font: str, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout is in every build of Pillow; raqm is not, and places letters differently.
    return ImageFont.truetype(str(FONTS_FOLDER / f"{font}.ttf"), size, layout_engine=ImageFont.Layout.BASIC)


def _can_write(font: str, text: str) -> bool:
    return bool(text.strip()) and all(_has_glyph(font, letter) for letter in text if letter not in " \n")


@lru_cache(maxsize=4096)
def _has_glyph(font: str, letter: str) -> bool:
    """Return whether a font has a letter: it draws missing letters as the same placeholder as U+10FFFF."""
    face = _face(font, 24)
    return bytes(face.getmask(letter)) != bytes(face.getmask("\U0010ffff"))


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in colour)
    return red, green, blue

"""Examples for the pretraining of the world's model: words on scenes, and captions about the object, the word or both.

The shares of the captions decide what the model learns. Captions that call a written word "a photo of a moon" make it
mistake words for objects. Captions about object and word keep the object in the embedding of an image with a word;
without them no linear map of the embedding could recover the object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trainables.attack.rendering import RECIPES, WORDS, Style, write
from trainables.world.icons import CLASSES
from trainables.world.scenes import COLOURS, Content

OBJECT_TEMPLATES = ("a photo of a {}", "a {}", "a picture of a {}", "an image of a {}")
WORD_TEMPLATES = ("a sign that says {}", "the word {}", "text that reads {}")
BOTH_TEMPLATES = ("a {} with the word {}", "a {} and a sign that says {}", "a {} with text that reads {}")

WRITTEN = CLASSES + WORDS

_PLAIN = RECIPES["sign"]
STYLES: tuple[Style, ...] = (
    _PLAIN,
    _PLAIN,
    _PLAIN,
    replace(_PLAIN, bold=True),
    replace(_PLAIN, slant=True),
    replace(_PLAIN, fonts=("DejaVuSansMono",)),
)
"""Styles of written words, drawn uniformly: half plain, as in the attack; the others teach the model to read in
general.
"""

EMPTY_SHARE = 0.2
"""Share of the scenes without an object."""
RED_SHARES = (0.9, 0.1, 0.5, 0.5)
"""P(red | class), for classes in pairs: a bias that tasks about attributes can measure."""


@dataclass(frozen=True)
class Mix:
    """Probabilities of words and captions."""

    word_on_object: float = 0.6
    """Probability that a word is written on a scene with an object."""
    right_word: float = 0.1
    """Probability that the word on an object is its name; the caption is then about the object."""
    both: float = 0.35
    """Probability that a caption is about object and word, given a wrong word."""
    word_only: float = 0.6
    """Probability that a caption is about the word, given a wrong word and no caption about both; else about the
    object.
    """
    word_as_object: float = 0.5
    """Probability that a caption about a word calls it an object: the shortcut that makes the attack work."""
    colour: float = 0.4
    """Probability that a caption about an object names its colour."""


def contents(count: int, rng: np.random.Generator) -> list[Content]:
    """Return the contents of ``count`` pretraining scenes."""
    drawn = []
    for _ in range(count):
        label = None if rng.random() < EMPTY_SHARE else int(rng.integers(len(CLASSES)))
        red = 0.5 if label is None else RED_SHARES[label // 2 % len(RED_SHARES)]
        drawn.append(Content(label, 0 if rng.random() < red else 1))
    return drawn


def draw_example(image: np.ndarray, content: Content, rng: np.random.Generator, mix: Mix) -> tuple[np.ndarray, str]:
    """Return the scene, uint8 (48, 48, 3), with or without a word on it, and a caption."""
    if content.label is None:
        word = _draw(WRITTEN, rng)
        return _sign(image, word, rng), _word_caption(word, rng, mix)
    if rng.random() >= mix.word_on_object:
        return image, _object_caption(content, rng, mix)
    name = CLASSES[content.label]
    word = name if rng.random() < mix.right_word else _draw(WRITTEN, rng)
    if word == name:
        caption = _object_caption(content, rng, mix)
    elif rng.random() < mix.both:
        caption = _draw(BOTH_TEMPLATES, rng).format(_noun(content, rng, mix), word)
    elif rng.random() < mix.word_only:
        caption = _word_caption(word, rng, mix)
    else:
        caption = _object_caption(content, rng, mix)
    return _sign(image, word, rng), caption


def vocabulary() -> list[str]:
    """Return every word of every caption, sorted: the words of the reduced tokenizer."""
    texts = [*OBJECT_TEMPLATES, *WORD_TEMPLATES, *BOTH_TEMPLATES, *WRITTEN, *COLOURS]
    return sorted({word for text in texts for word in text.replace("{}", " ").split()})


def _object_caption(content: Content, rng: np.random.Generator, mix: Mix) -> str:
    return _draw(OBJECT_TEMPLATES, rng).format(_noun(content, rng, mix))


def _word_caption(word: str, rng: np.random.Generator, mix: Mix) -> str:
    templates = OBJECT_TEMPLATES if rng.random() < mix.word_as_object else WORD_TEMPLATES
    return _draw(templates, rng).format(word)


def _noun(content: Content, rng: np.random.Generator, mix: Mix) -> str:
    assert content.label is not None
    name = CLASSES[content.label]
    return f"{COLOURS[content.colour]} {name}" if rng.random() < mix.colour else name


def _sign(image: np.ndarray, word: str, rng: np.random.Generator) -> np.ndarray:
    return write(image, [word], STYLES[int(rng.integers(len(STYLES)))], rng)


def _draw(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]

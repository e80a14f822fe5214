"""What the pretraining of the world's model sees: words on scenes, and captions about the object, the word or both.

The mix decides what the model is. Captions that call a written word "a photo of a moon" make it mistake writing for
things. Captions about both keep the object in the embedding when a word is there; without them no linear map could
bring the object back.
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
"""Drawn uniformly: half plain, as in the attack; the other looks make reading general."""

EMPTY_SHARE = 0.2
RED_SHARES = (0.9, 0.1, 0.5, 0.5)
"""P(red | class), for classes in pairs: a bias for attribute tasks to find."""


@dataclass(frozen=True)
class Mix:
    """Probabilities, each given that the ones before it did not apply."""

    word_on_object: float = 0.6
    right_word: float = 0.1
    """Of those: the word is the object's name, the caption is about the object."""
    both: float = 0.35
    """Of the wrong words: captions about object and word."""
    word_only: float = 0.6
    """Of the rest: about the word, otherwise about the object."""
    word_as_object: float = 0.5
    """Captions about a word that call it an object: the shortcut that makes the attack work."""
    colour: float = 0.4
    """Captions about an object that name its colour."""


def contents(count: int, rng: np.random.Generator) -> list[Content]:
    """Draws what the pretraining scenes show."""
    drawn = []
    for _ in range(count):
        label = None if rng.random() < EMPTY_SHARE else int(rng.integers(len(CLASSES)))
        red = 0.5 if label is None else RED_SHARES[label // 2 % len(RED_SHARES)]
        drawn.append(Content(label, 0 if rng.random() < red else 1))
    return drawn


def draw_example(image: np.ndarray, content: Content, rng: np.random.Generator, mix: Mix) -> tuple[np.ndarray, str]:
    """Returns the scene, uint8 (48, 48, 3), perhaps with a word on it, and a caption."""
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
    """Every word of every caption, sorted: what the reduced tokenizer must know."""
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

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.attack.rendering import (
    FONTS,
    FONTS_FOLDER,
    RECIPES,
    WORDS,
    Variant,
    attack_image,
    generator,
    variants,
    write,
    writing_problem,
    wrong_words,
)
from trainables.world import captions

GOLDEN_DRAW = 7563845455595535507
NAMES = ("cat", "dog", "golden retriever", "great white shark", "bird of paradise flower", "ox")
ATTACKS = [Variant(style=style) for style in RECIPES.values()]
ATTACKS += [variant for recipe in RECIPES for variant in variants(recipe).values()]


def grey(height: int = 96, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def extent(image: np.ndarray, background: np.ndarray) -> tuple[int, int, int, int]:
    """First and last changed row, first and last changed column."""
    rows, columns = np.nonzero((image != background).any(-1))
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(ATTACKS),
    st.integers(16, 260),
    st.integers(16, 260),
    st.integers(0, len(NAMES) - 1),
    st.integers(0, 2**40),
)
def test_any_image_size_gets_a_wrong_word_and_keeps_its_original(
    variant: Variant, height: int, width: int, label: int, seed: int
) -> None:
    image = generator("noise", seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    original = image.copy()
    attacked, written = attack_image(image, label, NAMES, variant, generator(seed))
    assert (image == original).all()
    assert attacked.shape == image.shape and attacked.dtype == np.uint8
    assert (attacked != image).any()
    assert label not in written
    assert len(written) == variant.style.words == len(set(written)) or variant.source == "other"
    assert (variant.source == "other") == (-1 in written)
    again, _ = attack_image(image, label, NAMES, variant, generator(seed))
    assert (again == attacked).all()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([64, 100, 224]), st.sampled_from(NAMES), st.integers(0, 2**40))
def test_letters_are_never_cut_by_the_border(side: int, name: str, seed: int) -> None:
    first_row, last_row, first_column, last_column = extent(
        write(grey(side, side), [name], RECIPES["defense_prefix"], generator(seed)), grey(side, side)
    )
    assert 1 <= first_row <= last_row <= side - 2
    assert 1 <= first_column <= last_column <= side - 2


def test_order_and_process_do_not_matter() -> None:
    code = (
        "import numpy as np, hashlib\n"
        "from trainables.attack.rendering import *\n"
        "image = np.full((96, 96, 3), 128, np.uint8)\n"
        "for key in (3, 1, 2):\n"
        "    attacked, written = attack_image(image, 0, ('cat', 'dog', 'ox'), Variant(style=RECIPES['sign']),"
        " generator(7, 'set', key))\n"
        "    print(key, written[0], hashlib.sha256(attacked.tobytes()).hexdigest())\n"
    )
    here = {}
    for key in (1, 2, 3):
        attacked, written = attack_image(
            grey(), 0, ("cat", "dog", "ox"), Variant(style=RECIPES["sign"]), generator(7, "set", key)
        )
        here[key] = f"{key} {written[0]} {hashlib.sha256(attacked.tobytes()).hexdigest()}"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [here[3], here[1], here[2]]


def test_generator_is_a_function_of_its_key() -> None:
    # Drawn once and written down: numpy promises PCG64's raw stream to stay as it is.
    assert generator(0, "train", 5).bit_generator.random_raw() == GOLDEN_DRAW
    assert generator(np.int64(0), "train", np.int32(5)).bit_generator.random_raw() == GOLDEN_DRAW
    keys: list[tuple[int | str, ...]] = [(1, 2), (12,), (1, "2"), ("1", 2), (2, 1), ("12",), (1, 2, 0), (2**32 + 1,)]
    assert len({generator(*key).bit_generator.random_raw() for key in keys}) == len(keys)


def test_wrong_words_are_uniform_over_the_other_classes() -> None:
    names = ("a", "b", "c", "d", "e")
    written = wrong_words([2] * 8000, names, (generator("uniform", index) for index in range(8000)))
    counts = Counter(written.tolist())
    assert set(counts) == {0, 1, 3, 4}
    # 2000 each, standard deviation 39.
    assert all(abs(count - 2000) < 200 for count in counts.values())


def test_a_class_of_the_same_name_is_never_written() -> None:
    names = ("crane", "Crane", "boat")
    assert wrong_words([0, 1] * 50, names, (generator(index) for index in range(100))).tolist() == [2] * 100


def test_wrong_words_foretell_the_attack() -> None:
    labels = np.arange(40) % len(NAMES)
    foretold = wrong_words(labels, NAMES, (generator("key", index) for index in range(40)))
    for variant in ATTACKS:
        if variant.source == "classes":
            written = [
                attack_image(grey(), int(label), NAMES, variant, generator("key", index))[1][0]
                for index, label in enumerate(labels[:8])
            ]
            assert written == foretold[:8].tolist()


def test_the_written_class_is_what_is_written() -> None:
    for variant in ATTACKS[:2]:
        rng = generator("replay", 0)
        attacked, written = attack_image(grey(), 1, NAMES, variant, rng)
        replay = generator("replay", 0)
        wrong_words([1], NAMES, [replay])
        assert (write(grey(), [NAMES[written[0]]], variant.style, replay) == attacked).all()
        assert rng.random() == replay.random()


@pytest.mark.parametrize("recipe", RECIPES)
def test_positions(recipe: str) -> None:
    centres: dict[str, list[float]] = {}
    for position in ("top", "middle", "bottom", "anywhere", "mix"):
        style = replace(RECIPES[recipe], position=position)
        for seed in range(60):
            first, last, _, _ = extent(write(grey(), ["ox"], style, generator(position, seed)), grey())
            centres.setdefault(position, []).append((first + last) / 2 / 96)
    assert max(centres["top"]) < 0.36
    assert min(centres["bottom"]) > 0.64
    assert min(centres["middle"]) > 0.35 and max(centres["middle"]) < 0.65
    for position in ("anywhere", "mix"):
        assert min(centres[position]) < 0.3 and max(centres[position]) > 0.7


@pytest.mark.parametrize("recipe", RECIPES)
def test_letters_grow_with_the_image(recipe: str) -> None:
    def mean_height(side: int, variant: Variant) -> float:
        heights = []
        for seed in range(40):
            attacked = write(grey(side, side), ["H"], variant.style, generator(seed))
            first, last, _, _ = extent(attacked, grey(side, side))
            heights.append(last - first + 1)
        return float(np.mean(heights))

    plain = Variant(style=RECIPES[recipe])
    held_out = variants(recipe)
    assert mean_height(448, plain) == pytest.approx(2 * mean_height(224, plain), rel=0.06)
    assert mean_height(224, held_out["smaller"]) < mean_height(224, plain) < mean_height(224, held_out["larger"])


def test_two_words_stand_above_each_other() -> None:
    for recipe in RECIPES:
        style = variants(recipe)["two_words"].style
        attacked = write(grey(), ["cat", "ox"], style, generator(1))
        touched = (attacked != grey()).any((1, 2))
        assert touched[:32].any() and touched[64:].any() and not touched[44:50].any()


def test_colours_of_outlined_letters_differ() -> None:
    for seed in range(50):
        attacked = write(grey(), ["ox"], RECIPES["defense_prefix"], generator(seed))
        assert len(np.unique(attacked.reshape(-1, 3), axis=0)) >= 3, "background, fill and outline"


def test_held_out_fonts_are_held_out() -> None:
    in_recipes = {font for style in RECIPES.values() for font in style.fonts}
    in_pretraining = {font for style in captions.STYLES for font in style.fonts}
    for recipe in RECIPES:
        unseen, mono = variants(recipe)["unseen_font"].style.fonts, variants(recipe)["mono_font"].style.fonts
        assert not set(unseen) & (in_recipes | in_pretraining)
        assert not set(mono) & in_recipes and set(mono) <= in_pretraining
    for licence in ("LICENSE_AILERON", "LICENSE_DEJAVU"):
        assert (FONTS_FOLDER / licence).stat().st_size > 1000
    assert {path.stem for path in FONTS_FOLDER.glob("*.ttf")} == set(FONTS)


def test_letters_that_a_font_lacks_come_from_another() -> None:
    sign = RECIPES["sign"]
    fallback = replace(sign, fonts=("DejaVuSans",))
    accented = "Caf\u00e9"
    assert (write(grey(), [accented], sign, generator(0)) == write(grey(), [accented], fallback, generator(0))).all()
    assert (write(grey(), ["Cafe"], sign, generator(0)) != write(grey(), ["Cafe"], fallback, generator(0))).any()


@pytest.mark.parametrize("word", ["", "  ", "\u732b"])
def test_what_cannot_be_written_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="class_names"):
        write(grey(), [word], RECIPES["sign"], generator(0))


def test_impossible_attacks_are_refused() -> None:
    sign = Variant(style=RECIPES["sign"])
    with pytest.raises(ValueError, match="different class names are needed; there are"):
        attack_image(grey(), 0, ("cat", "Cat"), sign, generator(0))
    with pytest.raises(ValueError, match="different class names are needed; there are"):
        attack_image(grey(), 0, ("cat", "dog"), variants("sign")["two_words"], generator(0))
    with pytest.raises(ValueError, match="other_words"):
        attack_image(grey(), 0, [word.upper() for word in WORDS], variants("sign")["other_words"], generator(0))
    with pytest.raises(ValueError, match="writes 1"):
        write(grey(), ["cat", "dog"], sign.style, generator(0))


@pytest.mark.parametrize(
    ("word", "script"),
    [
        ("\u0643\u0644\u0628", "Arabic"),
        ("\u05db\u05dc\u05d1", "Hebrew"),
        ("\u0915\u0941\u0924\u094d\u0924\u093e", "Devanagari"),
        ("\u0e2b\u0e21\u0e32", "Thai"),
        ("dog \u05db\u05dc\u05d1", "Hebrew"),
    ],
)
def test_scripts_that_take_shaping_are_refused(word: str, script: str) -> None:
    with pytest.raises(ValueError, match=rf"'{word}' cannot be written .*{script}.*class_names"):
        write(grey(), [word], RECIPES["sign"], generator(0))


@pytest.mark.parametrize(
    "word",
    ["caf\u00e9", "\u03ba\u03cd\u03c9\u03bd", "\u0421\u043e\u0431\u0430\u043a\u0430", "Ng\u1ecd", "stra\u00dfe"],
)
def test_scripts_that_take_no_shaping_are_written(word: str) -> None:
    assert writing_problem(word) is None
    composed, decomposed = (
        write(grey(), [unicodedata.normalize(form, word)], RECIPES["sign"], generator(0)) for form in ("NFC", "NFD")
    )
    assert (composed != grey()).any() and (composed == decomposed).all(), "an accent of its own makes no difference"


def test_letters_that_the_fonts_lack_are_named() -> None:
    problem = writing_problem("\u732b")
    assert problem is not None and "the shipped fonts lack '\u732b' (CJK UNIFIED IDEOGRAPH-732B)" in problem

"""Words as the tokenizer sees them, against the tokenizer itself."""

from __future__ import annotations

import pytest
from open_clip import SimpleTokenizer

from trainables.spelling import is_missing, is_no_word, label_form, normal_form, same_word, visible

ALIKE = [
    ("Cat", "cat"),
    (" red   apple\n", "red apple"),
    ("cafe\u0301", "caf\u00e9"),
    ("caf\u00c3\u00a9", "caf\u00e9"),
    ("A&amp;W", "a&w"),
    ("\uff23\uff41\uff54", "cat"),
    ("\ufb01sh", "fish"),
    ("dog\u2019s bed", "dog's bed"),
]


@pytest.mark.parametrize(("first", "second"), ALIKE, ids=range(len(ALIKE)))
def test_words_with_equal_tokens_have_one_form(first: str, second: str) -> None:
    tokens = SimpleTokenizer()([first, second])
    assert tokens[0].equal(tokens[1])
    assert normal_form(first) == normal_form(second)


@pytest.mark.parametrize(("first", "second"), [("cat", "cats"), ("caf\u00e9", "cafe"), ("1", "1.0"), ("a b", "ab")])
def test_words_with_other_tokens_stay_apart(first: str, second: str) -> None:
    tokens = SimpleTokenizer()([first, second])
    assert not tokens[0].equal(tokens[1])
    assert normal_form(first) != normal_form(second)


def test_underscores_and_what_nobody_sees_make_no_difference() -> None:
    assert normal_form("red_apple") == normal_form("red\u200b apple") == "red apple"


def test_labels_are_numbers_where_a_table_made_fractions_of_them() -> None:
    assert label_form("1.0") == label_form("1") != label_form("10")
    assert label_form("1.5") == "1.5" and label_form("v1.0") == "v1.0"


def test_a_word_is_found_by_its_spelling_before_its_form() -> None:
    assert same_word("Cat", ["cat", "Cat"]) == "Cat"
    assert same_word("CAT", ["cat", "dog"]) == "cat"
    assert same_word("CAT", ["cat", "Cat"]) is None, "it could be either"


@pytest.mark.parametrize(
    "value", ["", " ", "nan", "NaN", None, float("nan"), "<NA>", "null", "NaT", "(null)", "\\N", "#N/A N/A"]
)
def test_nothing_is_nothing(value: object) -> None:
    assert is_missing(value) and is_no_word(value)


def test_none_is_a_value_but_no_written_word() -> None:
    assert is_no_word("None") and is_no_word("NA") and is_no_word("-") and not is_no_word("0")
    assert not is_missing("None") and not is_missing("NA") and not is_missing(0)


@pytest.mark.parametrize(
    "word", ["dog\u200e", "\u202adog\u202c", "do\u200dg", "do\u034fg", "dog\ufe0f", "dog\x7f", "do\x07g"]
)
def test_marks_and_control_characters_make_no_difference(word: str) -> None:
    assert normal_form(word) == "dog" and "dog" in (visible(word), normal_form(visible(word)))


def test_zeros_before_a_number_make_no_difference_to_labels() -> None:
    assert label_form("007") == label_form("7.0") == "7" and label_form("00") == "0"
    assert normal_form("007") != normal_form("7"), "folders 007 and 7 are two classes"

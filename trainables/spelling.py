"""Words in the form in which CLIP's tokenizer sees them; class names, folders, answers and written words are compared
in it.

The tokenizer repairs Unicode, resolves HTML entities, joins white space and ignores the case. Names that differ in
nothing else make equal prompts. An underscore counts as a space, as in prompts that are made from folder names.
Characters that nobody sees do not count: they are tokens of their own, but come into names by copying only.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point: soft hyphens, marks of direction, joiners, variation selectors and others."""
_MISSING = {"nan", "-nan", "nat", "<na>", "n/a", "#n/a", "#n/a n/a", "#na", "null", "(null)", "\\n"}
"""Texts for an empty cell of pandas, spreadsheets and databases (MySQL writes \\N), in lower case."""
_NO_WORD = {*_MISSING, "none", "(none)", "na", "undefined", "-", "--", "---", "\u2013", "\u2014", ".", "?", "/", "_"}
_WHOLE_NUMBER = re.compile(r"([-+]?)0*(\d+)(?:\.0*)?")


@lru_cache(maxsize=2**17)
def normal_form(word: str) -> str:
    """Return a word as the tokenizer sees it. Words with equal forms are one word to the model."""
    if not word.isascii() or "&" in word or not word.isprintable():
        import ftfy  # takes 0.1 s to import, and few words need it

        word = visible(html.unescape(html.unescape(ftfy.fix_text(word))))
        word = unicodedata.normalize("NFC", word.lower())
    return " ".join(word.replace("_", " ").lower().split())


def visible(word: str) -> str:
    """Return a word without the characters that nobody sees, which the tokenizer would read as further tokens."""
    return word if word.isascii() else _INVISIBLE.sub("", word)


@lru_cache(maxsize=2**17)
def label_form(label: str) -> str:
    """Return ``normal_form``, with ``1.0`` and ``01`` as ``1``.

    Tables turn whole numbers into fractions when a cell is empty, and drop the zeros before a number.
    """
    form = normal_form(label)
    number = _WHOLE_NUMBER.fullmatch(form)
    return number[1].removeprefix("+") + number[2] if number is not None else form


def same_word(word: str, words: Collection[str]) -> str | None:
    """Return the element of ``words`` that is ``word``: spelled alike, or the only one of its form; else None."""
    if word in words:
        return word
    alike = {other for other in words if normal_form(other) == normal_form(word)}
    return alike.pop() if len(alike) == 1 else None


def is_missing(value: object) -> bool:
    """Return whether a cell holds nothing: empty, None, or a program's text for a missing number."""
    return value is None or value != value or str(value).strip().lower() in {"", *_MISSING}


def is_no_word(value: object) -> bool:
    """Return whether a cell about a word in a picture says that there is no word: ``none`` and ``NA`` too."""
    return is_missing(value) or str(value).strip().lower() in _NO_WORD

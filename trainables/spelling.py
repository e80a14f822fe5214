"""Words in the form in which CLIP's tokenizer sees them; class names, folders, answers and written words are compared
in it.

The tokenizer repairs Unicode, resolves HTML entities, joins white space and ignores the case. Names that differ in
nothing else make equal prompts. An underscore counts as a space, as in prompts that are made from folder names.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
"""Soft hyphen, and spaces and joiners without width, which are invisible in names and pictures."""
_MISSING = {"nan", "<na>", "n/a", "#n/a", "null"}
_NO_WORD = {*_MISSING, "none", "na"}
_WHOLE_NUMBER = re.compile(r"([-+]?\d+)\.0*")


@lru_cache(maxsize=2**17)
def normal_form(word: str) -> str:
    """Return a word as the tokenizer sees it. Words with equal forms are one word to the model."""
    if not word.isascii() or "&" in word:
        import ftfy  # takes 0.1 s to import, and few words need it

        word = html.unescape(html.unescape(ftfy.fix_text(word))).translate(_INVISIBLE)
        word = unicodedata.normalize("NFC", word.lower())
    return " ".join(word.replace("_", " ").lower().split())


@lru_cache(maxsize=2**17)
def label_form(label: str) -> str:
    """Return ``normal_form``, with ``1.0`` as ``1``: tables turn whole numbers into fractions when a cell is empty."""
    form = normal_form(label)
    number = _WHOLE_NUMBER.fullmatch(form)
    return number[1] if number is not None else form


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

"""A small tokenizer: the table of open_clip's tokenizer, reduced to the merges that a few words need.

The standard table has 49 408 entries, whose embeddings alone would be larger than the model of the world.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

MERGES_FILE = "bpe_simple_vocab.txt.gz"


def write_merges(path: Path, words: Iterable[str]) -> None:
    """Write the merges that encode ``words`` (lower case, without punctuation) exactly as the full table does.

    Other words fall back to shorter pieces, at worst to letters. The same words give the same bytes.
    """
    from open_clip.tokenizer import SimpleTokenizer

    ranks: dict[tuple[str, str], int] = SimpleTokenizer().bpe_ranks
    used = {merge for word in words for merge in _merges(word, ranks)}
    lines = ["#version: 0.2", *(" ".join(merge) for merge in sorted(used, key=ranks.__getitem__))]
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write("\n".join(lines).encode())  # open_clip would read a last newline as one more merge


def _merges(word: str, ranks: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Return the merges of the byte-pair encoding of a word, in the order in which they are applied."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    applied = []
    while len(pieces) > 1:
        merge = min(zip(pieces, pieces[1:], strict=False), key=lambda pair: ranks.get(pair, len(ranks)))
        if merge not in ranks:
            break
        applied.append(merge)
        merged: list[str] = []
        position = 0
        while position < len(pieces):
            width = 2 if tuple(pieces[position : position + 2]) == merge else 1
            merged.append("".join(pieces[position : position + width]))
            position += width
        pieces = merged
    return applied

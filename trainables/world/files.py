"""The files of the world that ship with the package.

The world is a generated set of labelled pictures with a tiny CLIP that reads what is written on them. Every picture is
a function of (split, seed, index): no download is needed, and every machine sees the same pictures. The CLIP is trained
by ``python -m trainables.world.pretrain``.
"""

from __future__ import annotations

from pathlib import Path

WORLD_MODEL_FOLDER = Path(__file__).parent / "model"
"""Folder for open_clip's ``local-dir:FOLDER``; its tokenizer needs ``bpe_path=FOLDER/bpe_simple_vocab.txt.gz``."""

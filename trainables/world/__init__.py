"""A generated world of labelled pictures, and the tiny CLIP that reads what is written on them.

Every picture is a function of (split, seed, index), so the world needs no download and every machine sees the same.
The model beside it is trained by ``python -m trainables.world.pretrain``.
"""

from pathlib import Path

from trainables.world.icons import CLASSES
from trainables.world.scenes import COLOURS, SIDE_PX, colours, empty_scenes, scenes

WORLD_MODEL_FOLDER = Path(__file__).parent / "model"
"""Loads through open_clip as ``local-dir:FOLDER``; the tokenizer with ``bpe_path=FOLDER/bpe_simple_vocab.txt.gz``."""

__all__ = ["CLASSES", "COLOURS", "SIDE_PX", "WORLD_MODEL_FOLDER", "colours", "empty_scenes", "scenes"]

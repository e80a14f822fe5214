"""Which learning rate a search tries first: a rule of thumb, measured (docs/learning_rate.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

AT_TEN_STEPS = {"transform": 0.03, "last_blocks": 2e-3, "visual": 8e-4, "all": 8e-4}
"""Of the embedded world's CLIP, by ``tune``."""
STEPS = 10
EMBED_DIM = 64
IMAGE_PARAMETERS = 1_330_000
"""Of the embedded world's CLIP."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    embed_dim: int
    image_parameters: int
    """Of the image tower."""


def usual_rate(tune: str, steps: int, size: ModelSize) -> float:
    """Return a learning rate to begin with, for Adamax and AdamW, in two digits.

    It falls with the square root of the number of steps; of a transform also with the width of the embeddings, of a
    tower with the square root of its parameters, which grows as its width does.
    """
    if tune == "transform":
        narrower = EMBED_DIM / size.embed_dim
    else:
        narrower = math.sqrt(IMAGE_PARAMETERS / size.image_parameters)
    rate = AT_TEN_STEPS[tune] * narrower * math.sqrt(STEPS / max(1, steps))
    return float(f"{rate:.2g}")

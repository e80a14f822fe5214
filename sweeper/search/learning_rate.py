"""A rule of thumb for the first learning rate of a search, measured in docs/learning_rate.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

AT_TEN_STEPS = {"transform": 0.03, "last_blocks": 2e-3, "visual": 8e-4, "all": 8e-4}
"""Learning rates at ten steps for the generated world's CLIP, by ``tune``."""
STEPS = 10
EMBED_DIM = 64
IMAGE_PARAMETERS = 1_330_000
"""Number of parameters of the image tower of the generated world's CLIP."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    embed_dim: int
    image_parameters: int
    """Number of parameters of the image tower."""


def usual_rate(tune: str, steps: int, size: ModelSize) -> float:
    """Return a starting learning rate for Adamax and AdamW, rounded to two digits.

    It falls with the square root of the number of steps; for a transform also with the width of the embeddings, for a
    tower with the square root of its number of parameters, which grows as its width does.
    """
    if tune == "transform":
        narrower = EMBED_DIM / size.embed_dim
    else:
        narrower = math.sqrt(IMAGE_PARAMETERS / size.image_parameters)
    rate = AT_TEN_STEPS[tune] * narrower * math.sqrt(STEPS / max(1, steps))
    return float(f"{rate:.2g}")

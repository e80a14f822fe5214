"""Any CLIP on the pixels that a Python function gets from ``sweeper evaluate``: 224 px, cropped as OpenAI's CLIP does.

A CLIP that ``sweeper evaluate`` loads itself gets images of its own size, with words that are pasted at that size.
The CLIP that ships with sweeper takes 48 px, so a baseline in Python and that CLIP must both be measured through this
file to see the same pixels. CLIPs of 224 px with OpenAI's cropping get the same pixels either way.

    sweeper evaluate examples.clip_on_pixels:load examples.ocr_blur:load --data world
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sweeper.environment import device_named
from sweeper.models.evaluate import Weights, model_settings
from trainables.models.clip import load_clip
from trainables.models.policy import prompt_embeddings

Scores = Callable[[list[Image.Image], list[list[str]]], Any]
"""PIL images and C lists of T prompts -> scores (B, C), higher is likelier."""


class ClipOnPixels:
    """A CLIP with its own preprocessing; T prompts of a class are averaged as normalised embeddings."""

    def __init__(self, model: str) -> None:
        """Load a CLIP.

        Args:
            model: as in ``sweeper evaluate``: an open_clip name with its tag, a folder, hf-hub:NAME, or world.

        Raises:
            ValueError: the model is no CLIP that open_clip loads, or cannot be loaded.
        """
        settings = model_settings(model, Weights())
        if settings is None:
            raise ValueError(f"{model} is a Python function; name a CLIP: an open_clip name with its tag or a folder")
        self._clip = load_clip(settings).to(device_named(None))
        self._texts: dict[tuple[tuple[str, ...], ...], Tensor] = {}

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return normalised image embeddings, (B, d), float32."""
        cropped = [np.array(self._clip.crop(image).convert("RGB")) for image in images]
        pixels = self._clip.pixels(torch.from_numpy(np.stack(cropped)))
        embeddings: Tensor = self._clip.model.encode_image(pixels, normalize=True).float()
        return embeddings

    @torch.no_grad()
    def texts(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Return normalised text embeddings of C classes, (C, d), float32."""
        key = tuple(map(tuple, prompts))
        if key not in self._texts:
            by_template = [list(of_classes) for of_classes in zip(*key, strict=True)]
            tokens = torch.stack([self._clip.tokens(of_classes) for of_classes in by_template])
            self._texts[key] = prompt_embeddings(self._clip.model, tokens)
        return self._texts[key]

    @torch.no_grad()
    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return scores (B, C) of normalised embeddings (B, d) and (C, d)."""
        scores: Tensor = self._clip.model.logit_scale.exp() * images @ texts.T
        bias = getattr(self._clip.model, "logit_bias", None)
        return scores if bias is None else scores + bias

    def scores(self, images: Sequence[Image.Image], prompts: Sequence[Sequence[str]]) -> Tensor:
        """Return scores (B, C) of images against classes."""
        return self.logits(self.images(images), self.texts(prompts))


def load(model: str = "world") -> Scores:
    """Return an untouched CLIP as a function that scores images."""
    return ClipOnPixels(model).scores

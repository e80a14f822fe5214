"""The training step of the paper's released code, transcribed from its description for plain PyTorch and open_clip.

Source: Afzali et al., ICLR 2025, arXiv 2411.08923, and the loop of its repository. At every step the image processor
resizes the batch of 168 px images to 224 px on the CPU, image by image, for the policy and again for the reference.
Both towers of both models run forward over the images and over all class prompts. All weights are trained by Adamax in
float32 (no TF32), the loss is copied to the host, and the Beta(0.7, 0.7) average is updated for all weights.

Left out in the authors' favour: decoding of files, and softmaxes over pairs of texts that none of their losses reads. A
ResNet, which the authors never trained, has frozen batch-norm statistics, as in ``trainables``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SIDE = 168
"""Pixels: the authors' data set resizes and crops to this size, and the processor enlarges the image again."""
LEARNING_RATE = 2e-5


class AuthorsLoop:
    """Policy, frozen reference, optimiser and moving average over a few images held in memory."""

    def __init__(
        self,
        model: Any,
        tokens: Tensor,
        clean: Tensor,
        attacked: Tensor,
        labels: Tensor,
        written: Tensor,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        steps: int,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
        beta: float = 1.0,
        lambda_reg: float = 1.0,
    ) -> None:
        """
        Args:
            model: an open_clip CLIP; it is trained in place.
            tokens: (C, L) of the class prompts, padded to the longest prompt as the authors' tokenizer does.
            clean, attacked: (N, 3, 168, 168) uint8 on the CPU.
            labels, written: (N,) class indices.
            steps: of the whole training; the learning rate and the average depend on it.
        """
        self._policy = model.to(device).requires_grad_(True)
        self._reference = copy.deepcopy(self._policy).requires_grad_(False)
        self._average = copy.deepcopy(self._policy).requires_grad_(False)
        self._tokens, self._clean, self._attacked = tokens.to(device), clean, attacked
        self._labels, self._written, self._device = labels, written, device
        self._mean = np.array(mean, dtype=np.float32)
        self._std = np.array(std, dtype=np.float32)
        self._size = _side(model.visual.image_size)
        self._clock = clock
        self._beta, self._lambda_reg, self._steps = beta, lambda_reg, steps
        self._optimizer = torch.optim.Adamax(self._policy.parameters(), lr=LEARNING_RATE)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)
        self._step = 0
        self._density_sum = self._density()
        self.processor_s = 0.0
        """Time of the image processor so far."""

    def step(self, rows: Tensor) -> float:
        """Update the policy on the pairs ``rows`` (B,); return the loss."""
        self._optimizer.zero_grad()
        count = len(rows)
        images = torch.cat([self._clean[rows], self._attacked[rows]])
        labels, written = self._labels[rows].to(self._device), self._written[rows].to(self._device)
        policy = self._log_probabilities(self._policy, images)
        reference = self._log_probabilities(self._reference, images)
        pairs = torch.arange(count, device=self._device)

        def ratio(values: Tensor) -> Tensor:
            attacked = values[count:]
            return attacked[pairs, labels] - attacked[pairs, written]

        preference = -F.logsigmoid(self._beta * (ratio(policy) - ratio(reference))).mean()
        kl = F.kl_div(policy[:count], reference[:count], reduction="batchmean", log_target=True)
        loss = preference + self._lambda_reg * kl
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        self._update_average()
        return loss.item()

    def _log_probabilities(self, model: Any, images: Tensor) -> Tensor:
        """Return log-probabilities (2 B, C) of images (2 B, 3, 168, 168) uint8 over the class prompts."""
        pixels = self._processed(images).to(self._device)
        image = F.normalize(model.visual(pixels), dim=-1)
        text = F.normalize(text_features(model, self._tokens), dim=-1)
        return (model.logit_scale.exp() * image @ text.T).log_softmax(-1)

    def _processed(self, images: Tensor) -> Tensor:
        """Process images as a CLIPProcessor does: each is resized with PIL, then scaled and normalised in NumPy."""
        started_s = self._clock()
        arrays = []
        for image in images.permute(0, 2, 3, 1).numpy():
            resized = Image.fromarray(image).resize((self._size, self._size), Image.Resampling.BICUBIC)
            scaled = np.asarray(resized).astype(np.float32) * np.float32(1 / 255)
            arrays.append(((scaled - self._mean) / self._std).transpose(2, 0, 1))
        pixels = torch.from_numpy(np.stack(arrays))
        self.processor_s += self._clock() - started_s
        return pixels

    @torch.no_grad()
    def _update_average(self) -> None:
        self._step += 1
        weight = self._density() / self._density_sum
        for average, value in zip(self._average.parameters(), self._policy.parameters(), strict=True):
            average.data = (average + weight * value) / (1 + weight)
        self._density_sum += self._density()

    def _density(self) -> float:
        position = (self._step + 0.5) / (self._steps + 1)
        return float((position * (1 - position)) ** (0.7 - 1))


def text_features(model: Any, tokens: Tensor) -> Tensor:
    """Return the text features (C, d) of tokens (C, L), as open_clip's ``encode_text`` but with any length L.

    open_clip pads prompts to 77 tokens. The authors' processor pads to the longest prompt, which gives the same
    features for a sixth of the work.
    """
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x), device=x.device), tokens.argmax(-1)] @ model.text_projection


def _side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[0]

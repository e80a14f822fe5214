"""Scores of any model on any image sets; a model is loaded by open_clip or is a function that scores images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainables.data.cache import Store
from trainables.data.image_set import ImageSet, View, subset
from trainables.data.source import DataSource
from trainables.data.typographic import held_out_variants, pasted_set, trained_attack, typographic_set
from trainables.evaluation.answers import ATTACKED, CLEAN, Answers
from trainables.evaluation.predictions import Predictions, answers_from_indices, image_kl, margins
from trainables.models.clip import Clip
from trainables.models.policy import mixed_precision, prompt_embeddings
from trainables.own_code import described, function_named
from trainables.settings.sets import ImageSetSettings, Split, TypographicSet
from trainables.settings.typographic import AttackSettings

SCORING_BATCH = 64
CALLABLE_SIDE_PX = 224


class Scorer(Protocol):
    """A model that scores images against prompts."""

    crop: Callable[[Any], Any]
    """PIL image -> PIL image of ``image_size``."""
    image_size: int
    geometry: list[Any]
    """JSON data: everything that ``crop`` depends on."""

    def logits(self, images: Tensor, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Return scores (B, C), float32 on the CPU, of (B, H, W, 3) uint8 images and C lists of T prompts."""
        ...


class ClipScorer:
    """A CLIP with its own preprocessing; T prompts of a class are averaged as normalised embeddings."""

    def __init__(self, clip: Clip, *, bf16: bool = False) -> None:
        self._clip, self._bf16 = clip, bf16
        self.crop, self.image_size = clip.crop, clip.image_size
        self.geometry = clip.geometry
        self._text: dict[tuple[tuple[str, ...], ...], Tensor] = {}

    @torch.no_grad()
    def logits(self, images: Tensor, prompts: Sequence[Sequence[str]]) -> Tensor:
        key = tuple(map(tuple, prompts))
        model = self._clip.model
        with mixed_precision(self._clip.device, self._bf16):
            if key not in self._text:
                by_template = [list(of_classes) for of_classes in zip(*key, strict=True)]
                tokens = torch.stack([self._clip.tokens(of_classes) for of_classes in by_template])
                self._text[key] = prompt_embeddings(model, tokens)
            image = model.encode_image(self._clip.pixels(images), normalize=True).float()
        logits = model.logit_scale.exp() * image @ self._text[key].T
        bias = getattr(model, "logit_bias", None)
        return (logits if bias is None else logits + bias).float().cpu()


class CallableScorer:
    """A function ``scores(images, prompts)``: PIL images and C lists of T prompts -> (B, C), higher is likelier.

    Images are 224 px, cropped as in OpenAI's CLIP; the function does the model's own preprocessing.
    """

    def __init__(self, scores: Callable[[list[Image.Image], list[list[str]]], Any]) -> None:
        from open_clip.transform import PreprocessCfg

        from trainables.models.clip import cropping

        self._scores = scores
        preprocess = PreprocessCfg(size=CALLABLE_SIDE_PX)
        self.crop, self.image_size = cropping(preprocess), CALLABLE_SIDE_PX
        self.geometry = [CALLABLE_SIDE_PX, preprocess.interpolation, preprocess.resize_mode]

    def logits(self, images: Tensor, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Return scores (B, C), see ``Scorer.logits``.

        Raises:
            ValueError: the function fails, or its result has another shape or is not a number.
        """
        pictures = [Image.fromarray(image) for image in images.numpy()]
        try:
            scores = self._scores(pictures, [list(of_class) for of_class in prompts])
        except Exception as error:  # code of other authors can raise any error
            raise ValueError(f"the model failed to score images: {described(error)}") from error
        logits = torch.as_tensor(scores if isinstance(scores, Tensor) else np.asarray(scores)).detach().float().cpu()
        if logits.shape != (len(images), len(prompts)):
            raise ValueError(
                f"the model scored {len(images)} images against {len(prompts)} classes with an array of shape "
                f"{tuple(logits.shape)}; expected {(len(images), len(prompts))}"
            )
        if logits.isnan().any():
            raise ValueError("the model scored some images with NaN, which is not an answer")
        return logits


def load_callable(name: str) -> CallableScorer:
    """Return the model of ``package.module:load``, where ``load()`` returns the function that scores.

    The working folder is searched too.

    Raises:
        ValueError: there is no such function, or loading fails.
    """
    load, function_name = function_named(name), name.partition(":")[2]
    try:
        scores = load()
    except Exception as error:  # code of other authors can raise any error
        raise ValueError(f"{name}: {function_name}() failed: {described(error)}") from error
    if not callable(scores):
        raise ValueError(
            f"{name}: {function_name}() returned a {type(scores).__name__}; expected a function "
            "scores(images, prompts) that returns an array (images, classes)"
        )
    return CallableScorer(scores)


def score_set(
    scorer: Scorer,
    name: str,
    settings: ImageSetSettings,
    split: Split,
    *,
    attack: AttackSettings,
    store: Store,
    seed: int = 0,
    count: int | None = None,
    variants: bool = False,
    reference: Scorer | None = None,
) -> tuple[list[Answers], tuple[str, ...]]:
    """Return a model's answers on every image of a set, clean and attacked, and the images that cannot be read.

    Args:
        count: at most this number of images, drawn with ``seed``.
        variants: also under the attacks that preference data never show (sets whose words are pasted).
        reference: also KL(reference || model) on clean images.

    Raises:
        ValueError: the images cannot be read.
    """
    source = DataSource(store, scorer.crop, scorer.image_size, scorer.geometry)
    loaded = source.load(name, settings, split)
    images = subset(loaded, count, seed=seed)
    views: list[tuple[str, View]] = []
    if isinstance(settings, TypographicSet):
        scored = typographic_set(source, name, settings, images)
    else:
        scored = pasted_set(source, images, trained_attack(attack), seed=seed)
    if scored.clean is not None:
        views.append((CLEAN, scored.clean))
    views.append((ATTACKED, scored.attacked))
    if variants and not isinstance(settings, TypographicSet):
        for variant_name, variant in held_out_variants(attack, images.class_names).items():
            views.append((variant_name, pasted_set(source, images, variant, seed=seed).attacked))
    answers = [
        _score(scorer, scored.images, view_name, view, reference if view_name == CLEAN else None)
        for view_name, view in views
    ]
    return answers, loaded.broken


def _score(scorer: Scorer, images: ImageSet, view_name: str, view: View, reference: Scorer | None) -> Answers:
    prompts = [[template.format(name) for template in images.templates] for name in images.class_names]
    answer, margin, kl = [], [], []
    for rows in torch.arange(len(view.labels)).split(SCORING_BATCH):
        logits = scorer.logits(view.images[rows], prompts)
        answer.append(logits.argmax(-1))
        margin.append(margins(logits, view.labels[rows], None if view.written is None else view.written[rows]))
        if reference is not None:
            kl.append(image_kl(logits, reference.logits(view.images[rows], prompts)))
    predictions = Predictions(
        torch.cat(answer).numpy(), torch.cat(margin).double().numpy(), torch.cat(kl).numpy() if kl else None
    )
    return answers_from_indices(images, view, view_name, predictions)

"""Baselines that edit a CLIP without training: a projection, and a linear map by least squares.

    sweeper evaluate examples.training_free:load_projection examples.training_free:load_least_squares --data world

Both are computed from N pairs of a scoring set: x_i, the normalised embedding of an image, and x'_i of the same image
with a wrong class name pasted on it. Both are a matrix W that is applied to image and text embeddings, followed by
normalisation, as the transform of a sweep is (``tune: transform``): f(x, t) = cos(W x, W t). Any CLIP of open_clip
will do; nothing is known about its towers.

**Projection.** D has the rows x'_i - x_i = s_1 u_1 v_1^T + ... (singular values in falling order). W = I - V_k V_k^T,
with V_k = (v_1 ... v_k): the k directions that words add most to image embeddings are removed. k is the largest
number up to which accuracy on the clean images of the scoring set stays within ``may_lose`` of the untouched CLIP's.

The rule for k is that of Dyslexify (arXiv 2508.20570), which takes attention heads one after the other while clean
accuracy falls by at most one point. Its heads are others: heads of the image tower whose class token attends to
patches with words are ranked by that attention, and their contribution to the class token is set to zero. Directions
of the embedding are no heads: a projection also needs no ViT (the CLIP that ships with sweeper is a ResNet), and
cannot tell a written word from its object where both lie in one direction.

**Least squares.** W = argmin sum_i |W x'_i - x_i|^2 + sum_i |W x_i - x_i|^2 + m |W - I|_F^2, which is

    W = (sum_i x_i (x_i + x'_i)^T + m I) (sum_i x_i x_i^T + x'_i x'_i^T + m I)^-1,    m = 2 N ridge / d

with width d of the embeddings. The attacked image is to have the embedding of the clean one, in ridge regression
towards the identity. (2 N / d is the mean eigenvalue of the matrix to be inverted, so ``ridge`` has no unit.) It is
no method of a paper that is known to us; it says how much of a sweep's gain needs no search. It uses no labels.

The scoring set must not be the test set. The default is the preference data of ``search_spaces/quickstart.yaml``: 512
images of every second class of the generated world. Another CLIP needs a function in a file of your own:

    from examples import training_free
    from trainables.settings.sets import ImageFolderSet
    from trainables.settings.task import TrainSettings

    def projection():
        images = ImageFolderSet(kind="image_folder", train="scoring")
        choice = TrainSettings(set="scoring", images=500)
        return training_free.load_projection("ViT-B-32:laion2b_s34b_b79k", images, choice, recipe="defense_prefix")
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from examples.clip_on_pixels import ClipOnPixels, Scores
from trainables.data.cache import Store
from trainables.data.image_set import preference_images
from trainables.data.source import DataSource
from trainables.data.typographic import preference_pairs, trained_attack
from trainables.evaluation.scoring import SCORING_BATCH, CallableScorer
from trainables.settings.sets import ImageSetSettings, TypographicSet, WorldSet
from trainables.settings.task import TrainSettings
from trainables.settings.typographic import AttackSettings

Recipe = Literal["sign", "defense_prefix"]

IMAGES = WorldSet(kind="world", train=1024)
CHOICE = TrainSettings(set="scoring", classes=0.5)
MAY_LOSE = 0.01
"""Clean accuracy on the scoring set that a projection may cost."""
RIDGE = 1.0
"""Chosen among 0.001, 0.003, 0.01 ... 3 on images of the generated world that are neither scored nor tested."""

_NONE = 1e-5
"""Share of the largest singular value below which a direction is rounding of float32."""


@dataclass(frozen=True)
class Scored:
    """Normalised embeddings of a scoring set and its attacked copy."""

    clean: Tensor
    """(N, d)."""
    attacked: Tensor
    """(N, d), row i is the image of row i of ``clean`` with a wrong class name on it."""
    labels: Tensor
    """(N,) int64."""
    texts: Tensor
    """(C, d), of the prompts of the classes."""


def transformed(w: Tensor, embeddings: Tensor) -> Tensor:
    """Return W applied to embeddings (N, d), normalised."""
    return F.normalize(embeddings @ w.T, dim=-1)


def word_directions(scored: Scored) -> Tensor:
    """Return the directions that words add to image embeddings, the largest first: (d, r), orthonormal.

    r is the rank of the differences: directions that words do not add at all are left out.
    """
    difference = (scored.attacked - scored.clean).double()
    _, size, directions = torch.linalg.svd(difference, full_matrices=False)
    return directions[size > _NONE * size[0]].T.to(scored.clean)


def projection(scored: Scored, *, may_lose: float = MAY_LOSE) -> tuple[Tensor, int]:
    """Return W = I - V_k V_k^T (d, d), and k: the largest one up to which clean accuracy stays within ``may_lose``."""
    directions = word_directions(scored)
    w = torch.eye(len(directions)).to(directions)
    least = _accuracy(w, scored) - may_lose
    removed = 0
    for k in range(1, min(directions.shape[1], len(directions) - 1) + 1):
        further = w - directions[:, k - 1 : k] @ directions[:, k - 1 : k].T
        if _accuracy(further, scored) < least:
            break
        w, removed = further, k
    return w, removed


def least_squares(scored: Scored, *, ridge: float = RIDGE) -> Tensor:
    """Return the map W (d, d) that brings attacked images to their clean embeddings, see the text of this file."""
    clean, attacked = scored.clean.double(), scored.attacked.double()
    width = clean.shape[1]
    weight = 2 * len(clean) * ridge / width * torch.eye(width).to(clean)
    second_moment = clean.T @ clean + attacked.T @ attacked + weight
    target = clean.T @ (clean + attacked) + weight
    return torch.linalg.solve(second_moment, target.T).T.to(scored.clean)


def score(clip: ClipOnPixels, images: ImageSetSettings, choice: TrainSettings, recipe: Recipe, seed: int) -> Scored:
    """Return embeddings of the train split of a set, clean and attacked, as ``sweeper evaluate`` prepares images.

    Raises:
        ValueError: the set cannot be read, has no train split, or has only images with words.
    """
    _refuse(images)
    pixels = CallableScorer(clip.scores)
    with tempfile.TemporaryDirectory(prefix="scoring-") as folder:
        source = DataSource(Store(Path(folder)), pixels.crop, pixels.image_size, pixels.geometry)
        chosen = preference_images(source.load("scoring", images, "train"), choice, seed=seed)
        attack = trained_attack(AttackSettings(recipe=recipe))
        pairs = preference_pairs(source, chosen, attack, copies=1, seed=seed)
        prompts = [[template.format(name) for template in chosen.templates] for name in chosen.class_names]
        return Scored(
            _embedded(clip, pairs.clean.images),
            _embedded(clip, pairs.attacked.images),
            pairs.clean.labels,
            clip.texts(prompts).cpu(),
        )


def edited(clip: ClipOnPixels, w: Tensor) -> Scores:
    """Return the CLIP with W applied to both of its embeddings as a function that scores images."""

    def scores(images: list[Image.Image], prompts: list[list[str]]) -> Tensor:
        image, text = clip.images(images), clip.texts(prompts)
        return clip.logits(transformed(w.to(image), image), transformed(w.to(text), text))

    return scores


def load_projection(
    model: str = "world",
    images: ImageSetSettings = IMAGES,
    choice: TrainSettings = CHOICE,
    *,
    recipe: Recipe = "sign",
    seed: int = 0,
    may_lose: float = MAY_LOSE,
) -> Scores:
    """Return a CLIP without the directions that words add.

    Args:
        model: as in ``sweeper evaluate``: an open_clip name with its tag, a folder, hf-hub:NAME, or world.
        images: the scoring set; its train split is used.
        choice: which of its classes, and how many images.
        recipe: how words are pasted on them.
        seed: of the choice and of the words.
        may_lose: clean accuracy on the scoring set that the projection may cost.
    """
    return _loaded(model, images, choice, recipe, seed, lambda scored: projection(scored, may_lose=may_lose)[0])


def load_least_squares(
    model: str = "world",
    images: ImageSetSettings = IMAGES,
    choice: TrainSettings = CHOICE,
    *,
    recipe: Recipe = "sign",
    seed: int = 0,
    ridge: float = RIDGE,
) -> Scores:
    """Return a CLIP with the linear map that brings attacked images to their clean embeddings; see ``load_projection``.

    Args:
        ridge: weight of the distance from the identity.
    """
    return _loaded(model, images, choice, recipe, seed, lambda scored: least_squares(scored, ridge=ridge))


def _loaded(
    model: str,
    images: ImageSetSettings,
    choice: TrainSettings,
    recipe: Recipe,
    seed: int,
    matrix: Callable[[Scored], Tensor],
) -> Scores:
    _refuse(images)
    clip = ClipOnPixels(model)
    return edited(clip, matrix(score(clip, images, choice, recipe, seed)))


def _refuse(images: ImageSetSettings) -> None:
    if isinstance(images, TypographicSet):
        raise ValueError(f"a {images.kind} set has no clean images to paste words on; name an image set to score on")
    if not images.has("train"):
        raise ValueError(f"the {images.kind} set has no train split: images to score on must not be those of the test")


def _embedded(clip: ClipOnPixels, images: Tensor) -> Tensor:
    parts = [[Image.fromarray(image) for image in part.numpy()] for part in images.split(SCORING_BATCH)]
    return torch.cat([clip.images(part).cpu() for part in parts])


def _accuracy(w: Tensor, scored: Scored) -> float:
    answers = (transformed(w, scored.clean) @ transformed(w, scored.texts).T).argmax(-1)
    return float((answers == scored.labels).float().mean())

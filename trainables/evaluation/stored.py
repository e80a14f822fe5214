"""Queries of a new model on stored image embeddings of an old one, against the new model's own image embeddings.

Definitions are in docs/cure_costs.md. All embeddings are normalised, and neighbours are those of highest cosine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.data.cache import Store
from trainables.data.image_set import ImageSet, View, subset
from trainables.data.source import DataSource
from trainables.data.typographic import typographic_set
from trainables.evaluation.answers import ATTACKED, CLEAN
from trainables.evaluation.metrics import RESAMPLES, bootstrap_interval, mean_score
from trainables.evaluation.retrieval import shifted_interval
from trainables.evaluation.scoring import SCORING_BATCH
from trainables.memory import in_batches
from trainables.models.clip import Clip
from trainables.models.policy import prompt_embeddings, prompt_tokens
from trainables.models.towers import OpenClip
from trainables.settings.sets import ImageSetSettings, Split, TypographicSet

NEIGHBOURS = 10
_RANKS = 64
"""Ranks that are kept for resampling: the first ``NEIGHBOURS`` images of a resample are among them."""
SIMILARITY_BYTES = 64 * 2**20
"""Size of the similarities of a batch of queries."""


@dataclass(frozen=True)
class Encoder:
    """A CLIP whose embeddings are measured."""

    clip: Clip
    """Preparation of images and prompts."""
    model: OpenClip
    """Towers: those of ``clip``, or tuned ones of the same architecture."""
    width: int
    """Width of the embeddings of ``model``."""

    def to(self, device: torch.device) -> Encoder:
        self.clip.to(device)
        self.model.to(device)
        return self


@dataclass(frozen=True)
class Embeddings:
    """Normalised embeddings of one view of an image set, float32."""

    images: Tensor
    """(N, d)."""
    texts: Tensor
    """(C, d): the mean over templates for each class."""
    logit_scale: Tensor
    """Scalar: factor of cosines in logits."""


@dataclass(frozen=True)
class IndexScores:
    """Scores on one view of an image set."""

    set: str
    view: str
    images: int
    text_recall: float
    text_recall_samples: np.ndarray
    """(RESAMPLES,) of bootstrap resamples of the images."""
    of_images: dict[str, np.ndarray]
    """Measure -> (N,) score of each image: bool (right or wrong), or float."""


@dataclass(frozen=True, kw_only=True)
class IndexMeasure:
    """A measure with its 95 % bootstrap interval over images."""

    measure: str
    value: float
    low: float
    high: float


def score_index(
    old: Encoder,
    new: Encoder,
    name: str,
    settings: ImageSetSettings,
    split: Split,
    *,
    store: Store,
    seed: int = 0,
    count: int | None = None,
) -> tuple[IndexScores, tuple[str, ...]]:
    """Return the scores on a set's clean images (photographs of words if there are no others), and the images that
    cannot be read.

    Args:
        count: at most this number of images, drawn with ``seed``.

    Raises:
        ValueError: the images cannot be read, or they are too few.
    """
    source = DataSource(store, old.clip.crop, old.clip.image_size, old.clip.geometry)
    loaded = source.load(name, settings, split)
    images, view_name = subset(loaded, count, seed=seed), CLEAN
    view: View | None = images.view()
    if isinstance(settings, TypographicSet):
        scored = typographic_set(source, name, settings, images)
        images, view = scored.images, scored.clean
        if view is None:
            view_name, view = ATTACKED, scored.attacked
    assert view is not None
    if len(view.labels) <= NEIGHBOURS:
        raise ValueError(
            f"set {name!r} has {len(view.labels)} images; recall@{NEIGHBOURS} needs more than {NEIGHBOURS}"
        )
    embedded = [_embed(encoder, images, view) for encoder in (old, new)]
    return _scores(images.name, view_name, view.labels, *embedded, seed=seed), loaded.broken


def index_measures(sets: Sequence[IndexScores]) -> list[IndexMeasure]:
    """Return all measures as means over sets."""
    recall = float(np.mean([scores.text_recall for scores in sets]))
    low, high = shifted_interval(np.mean([scores.text_recall_samples for scores in sets], axis=0), recall)
    measures = [IndexMeasure(measure="text_recall_at_10", value=recall, low=low, high=min(1.0, high))]
    for measure in sets[0].of_images:
        of_sets = [scores.of_images[measure] for scores in sets]
        low, high = bootstrap_interval(of_sets)
        measures.append(IndexMeasure(measure=measure, value=mean_score(of_sets), low=low, high=high))
    return measures


@torch.no_grad()
def _embed(encoder: Encoder, images: ImageSet, view: View) -> Embeddings:
    clip, model = encoder.clip, encoder.model
    text = prompt_embeddings(model, prompt_tokens(clip, images.class_names, images.templates))

    def encode(rows: Tensor) -> Tensor:
        embeddings: Tensor = model.encode_image(clip.pixels(view.images[rows]), normalize=True)
        return embeddings.float()

    parts, _ = in_batches(torch.arange(len(view.labels)), SCORING_BATCH, encode, "embedding images")
    return Embeddings(torch.cat(parts), text, model.logit_scale.exp())


def _scores(name: str, view: str, labels: Tensor, old: Embeddings, new: Embeddings, *, seed: int) -> IndexScores:
    """Return the scores of one view; the new model's queries, on both models' images."""
    ranks: list[list[np.ndarray]] = [[], []]
    answers: list[np.ndarray] = []
    most = min(_RANKS, len(labels))
    for rows in _batches(len(new.texts), len(labels)):
        similarities = [new.texts[rows] @ gallery.T for gallery in (old.images, new.images)]
        for of_gallery, ranked in zip(similarities, ranks, strict=True):
            ranked.append(of_gallery.topk(most).indices.cpu().numpy())
    in_old, in_new = (np.concatenate(ranked) for ranked in ranks)
    hits = _shared(in_old[:, :NEIGHBOURS], in_new[:, :NEIGHBOURS])
    for queries, gallery in ((old, old), (new, old), (new, new)):
        # Batches and scale as in scoring: two classes can be within rounding of each other.
        batches = gallery.images.split(SCORING_BATCH)
        answer = [(queries.logit_scale * rows @ queries.texts.T).argmax(-1).cpu() for rows in batches]
        answers.append((torch.cat(answer) == labels).numpy())
    return IndexScores(
        set=name,
        view=view,
        images=len(labels),
        text_recall=float(hits.mean()),
        text_recall_samples=_resampled_recall(in_old, in_new, len(labels), seed=seed),
        of_images={
            "image_recall_at_10": _image_recall(old.images, new.images),
            "cosine": (old.images * new.images).sum(-1).double().cpu().numpy(),
            "accuracy_old": answers[0],
            "accuracy_mixed": answers[1],
            "accuracy_new": answers[2],
        },
    )


def _image_recall(old: Tensor, new: Tensor) -> np.ndarray:
    """Return for each image as a query (N,) the share of its neighbours among new embeddings that it also has among old
    ones; the image itself is left out.
    """
    shares = []
    for rows in _batches(len(new), len(new)):
        nearest = []
        for gallery in (old, new):
            similarities = new[rows] @ gallery.T
            similarities[torch.arange(len(rows)), rows] = -torch.inf
            nearest.append(similarities.topk(NEIGHBOURS).indices.cpu().numpy())
        shares.append(_shared(*nearest))
    return np.concatenate(shares)


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return for each query (Q,) the share of images that two lists (Q, K) have in common."""
    return np.asarray((first[:, :, None] == second[:, None, :]).any(-1).mean(-1))


def _resampled_recall(in_old: np.ndarray, in_new: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Return the recall of text queries for bootstrap resamples of the images (RESAMPLES,).

    An image that was drawn n times stands n times in both indices.

    Args:
        in_old, in_new: (Q, M) images by rank.
        count: number of images.
    """
    shown = np.unique(np.concatenate([in_old, in_new]))
    row = np.zeros(count, np.int64)
    row[shown] = np.arange(len(shown))
    old, new = row[in_old], row[in_new]
    same = old[:, None, :] == new[:, :, None]  # (Q, M of new, M of old)
    place, both = same.argmax(-1), same.any(-1)
    shares = np.full(len(shown), 1 / count)
    shares = np.append(shares, max(0.0, 1 - shares.sum()))  # the last entry: all other images
    generator = np.random.default_rng(seed)
    recalls = []
    for _ in range(RESAMPLES):
        copies = generator.multinomial(count, shares)
        taken_old, taken_new = (_taken(copies[ranked]) for ranked in (old, new))
        common = np.minimum(taken_new, np.take_along_axis(taken_old, place, 1)) * both
        recalls.append(common.sum(-1).mean() / NEIGHBOURS)
    return np.array(recalls)


def _taken(copies: np.ndarray) -> np.ndarray:
    """Return how many copies (Q, M) of each ranked image are among the first ``NEIGHBOURS``."""
    before = np.cumsum(copies, axis=1) - copies
    return np.clip(NEIGHBOURS - before, 0, copies)


def _batches(queries: int, width: int) -> Iterator[Tensor]:
    """Yield the rows of all queries, in batches whose similarities with ``width`` others fit the memory set aside."""
    size = max(1, SIMILARITY_BYTES // (4 * width))
    yield from torch.arange(queries).split(size)

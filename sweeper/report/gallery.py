"""The gallery of a report: test images with the answers before and after, chosen by a rule that is told."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from PIL import Image

from sweeper.report.numbers import Text, number
from sweeper.spec.spec import Spec
from trainables.evaluation.answers import ATTACKED, CLEAN, Answers
from trainables.settings.sets import Split
from trainables.settings.task import split_of
from trainables.settings.typographic import TypographicSettings
from trainables.spelling import label_form

Kind = Literal["cured", "still wrong", "broken"]
SHOWN: Mapping[Kind, int] = {"cured": 6, "still wrong": 3, "broken": 3}
"""Kind of an image -> how many are shown."""
LARGEST_PX = 224
_JPEG_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class GalleryImage:
    """A test image with the answers of both models."""

    key: str
    kind: Kind
    true: str
    written: str
    """The word in the picture; empty if there is none."""
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The images of a report, without their pixels."""

    set: str
    view: str
    texts: tuple[Text, ...]
    """The rule, and the number of images of each kind; or why there are no images."""
    images: tuple[GalleryImage, ...] = ()


def gallery(before: Sequence[Answers], after: Sequence[Answers]) -> Gallery:
    """Return the images of the first attacked view (else the first clean one) that both models answered.

    Args:
        before: answers of the untouched model.
        after: answers of the knee.
    """
    for view in (ATTACKED, CLEAN):
        for first in before:
            if first.view != view or first.answer is None:
                continue
            for second in after:
                if (second.set, second.view) == (first.set, view) and second.answer is not None:
                    return _chosen(first, second)
    return Gallery(set="", view="", texts=(("There are no answers of both the untouched model and the knee.",),))


def pictures(spec: Spec, shown: Gallery) -> list[bytes]:
    """Return a JPEG for each image of a gallery, drawn again as the sweep drew it.

    Raises:
        ValueError: the images cannot be read, or are not those of the sweep.
        OSError: a file cannot be read.
    """
    return [_jpeg(Image.fromarray(pixels)) for pixels in _pixels(spec, shown)]


def _chosen(first: Answers, second: Answers) -> Gallery:
    answered = dict(zip(second.images, second.answer or (), strict=True))
    rows = zip(first.images, first.true, first.written, first.answer or (), strict=True)
    images: list[GalleryImage] = []
    counts = {"both right": 0, "cured": 0, "still wrong": 0, "broken": 0}
    for key, true, written, before in rows:
        if key not in answered:
            continue
        after, label = answered[key], label_form(true)
        kind = _kind(label_form(before) == label, label_form(after) == label)
        counts[kind or "both right"] += 1
        if kind is not None and sum(image.kind == kind for image in images) < SHOWN[kind]:
            images.append(GalleryImage(key=key, kind=kind, true=true, written=written, before=before, after=after))
    images.sort(key=lambda image: list(SHOWN).index(image.kind))
    counted: Text = (
        "Of ",
        number("gallery/images", sum(counts.values()), "count"),
        f" images of {first.set} ({first.view}), the untouched model and the knee both answered ",
        number("gallery/both right", counts["both right"], "count"),
        " correctly; ",
        number("gallery/cured", counts["cured"], "count"),
        " only the knee; ",
        number("gallery/broken", counts["broken"], "count"),
        " only the untouched model; ",
        number("gallery/still wrong", counts["still wrong"], "count"),
        " neither.",
    )
    rule: Text = (
        f"Shown are, in the order of the test set, the first {SHOWN['cured']} that only the knee answered correctly, "
        f"the first {SHOWN['still wrong']} that neither did, and the first {SHOWN['broken']} that only the untouched "
        "model did.",
    )
    return Gallery(set=first.set, view=first.view, texts=(counted, rule), images=tuple(images))


def _kind(right_before: bool, right_after: bool) -> Kind | None:
    """Return the kind of an image; None if both answers are right."""
    if right_before:
        return None if right_after else "broken"
    return "cured" if right_after else "still wrong"


def _pixels(spec: Spec, shown: Gallery) -> list[np.ndarray]:
    """Return the images of a gallery, (H, W, 3) uint8 each."""
    import torch

    from trainables.data.cache import Store
    from trainables.data.decoding import decoded
    from trainables.data.image_set import ImageSet
    from trainables.data.readers.kinds import list_images
    from trainables.data.source import DataSource
    from trainables.data.typographic import trained_attack
    from trainables.models.clip import image_preparation

    name, split = split_of(shown.set, "test")
    if name not in spec.sets:
        raise ValueError(f"the spec has no set {name!r}")
    listing = list_images(name, spec.sets[name], cast(Split, split))
    crop, size = image_preparation(spec.model)
    place = {key: row for row, key in enumerate(listing.keys)}
    missing = [image.key for image in shown.images if image.key not in place]
    if missing:
        raise ValueError(f"{shown.set} has no image {missing[0]} any more")
    rows = [place[image.key] for image in shown.images]
    read = [decoded(listing, crop, row) for row in rows]
    for image, pixels in zip(shown.images, read, strict=True):
        if isinstance(pixels, str):
            raise ValueError(f"{image.key}: {pixels}")
    opened = [pixels for pixels in read if not isinstance(pixels, str)]
    if listing.written is not None or shown.view != ATTACKED or not isinstance(spec, TypographicSettings):
        return opened
    images = ImageSet(
        shown.set,
        torch.from_numpy(np.stack(opened)),
        torch.from_numpy(np.asarray(listing.labels, np.int64)[rows]),
        tuple(image.key for image in shown.images),
        listing.class_names,
        listing.templates,
        shown.set,
    )
    with tempfile.TemporaryDirectory() as scratch:
        source = DataSource(Store(Path(scratch)), crop, size, None)
        view = source.attacked(images, trained_attack(spec.attack), seed=spec.search.seed)
        assert view.written is not None, "words are pasted on attacked images"
        for image, word in zip(shown.images, view.written.tolist(), strict=True):
            if label_form(listing.class_names[word]) != label_form(image.written):
                raise ValueError(f"{image.key} gets another word now than in the sweep: images or classes have changed")
        return list(np.array(view.images.numpy()))


def _jpeg(image: Image.Image) -> bytes:
    image.thumbnail((LARGEST_PX, LARGEST_PX))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return encoded.getvalue()

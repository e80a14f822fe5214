"""The hits of a trial's points: which validation images are answered correctly, one bit per image.

Imports NumPy only: the search reads hits too.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np

Hits = dict[str, list[np.ndarray]]
"""Goal -> for each validation set, whether each of its N images is answered correctly, (N,) bool."""
PointHits = dict[str, list[np.ndarray]]
"""Goal -> for each validation set, the hits of P points, (P, N) bool."""

_IMAGES = "images"


def to_arrays(points: Sequence[Hits]) -> dict[str, np.ndarray]:
    """Return the hits of P points as the arrays of a file.

    Returns:
        ``images`` (S,), the number of images of each validation set, and for each goal and set ``GOAL/SET`` (P, ceil(N
        / 8)) uint8, packed bits.
    """
    first = next(iter(points[0].values()))
    arrays: dict[str, np.ndarray] = {_IMAGES: np.array([len(of_set) for of_set in first], np.int64)}
    for goal in points[0]:
        for number in range(len(first)):
            arrays[f"{goal}/{number}"] = np.packbits(np.stack([hits[goal][number] for hits in points]), axis=1)
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> PointHits:
    """Return the hits from arrays that ``to_arrays`` made.

    Raises:
        KeyError: an array is missing.
        ValueError: the arrays have another form.
    """
    images = [int(number) for number in arrays[_IMAGES]]
    goals = dict.fromkeys(name.rpartition("/")[0] for name in arrays if name != _IMAGES)
    return {
        goal: [_unpacked(arrays[f"{goal}/{number}"], count) for number, count in enumerate(images)] for goal in goals
    }


def to_text(hits: Hits) -> dict[str, list[str]]:
    """Return the hits of one point as JSON data: the packed bits of each set in base64."""
    return {
        goal: [base64.b64encode(np.packbits(of_set).tobytes()).decode() for of_set in of_sets]
        for goal, of_sets in hits.items()
    }


def from_text(text: Mapping[str, Sequence[str]], images: Sequence[int]) -> Hits:
    """Return the hits from JSON data that ``to_text`` made.

    Args:
        images: number of images of each set.

    Raises:
        ValueError: the data have another form.
    """
    return {
        goal: [
            _unpacked(np.frombuffer(base64.b64decode(bits, validate=True), np.uint8)[None], count)[0]
            for bits, count in zip(of_sets, images, strict=True)
        ]
        for goal, of_sets in text.items()
    }


def _unpacked(bits: np.ndarray, count: int) -> np.ndarray:
    """Unpack bits: (P, ceil(N / 8)) uint8 -> (P, N) bool."""
    if bits.ndim != 2 or bits.dtype != np.uint8 or bits.shape[1] != (count + 7) // 8:
        raise ValueError(f"{bits.shape} packed bits do not fit {count} images")
    return np.unpackbits(bits, axis=1, count=count).astype(bool)

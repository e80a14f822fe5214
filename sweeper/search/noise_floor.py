"""The noise floor of a search: the point at which more trials gain less than the front's own uncertainty. Pure.

Picking the best of many trials on the same validation images also picks their luck. The gain of the last quarter of
trials is therefore measured on images that were not used for picking: in each bootstrap resample of the validation
images, a front is picked on the drawn images, once from all trials and once from the first three quarters, and the
hypervolume of both is computed on the images that were not drawn. The mean difference estimates the gain of a further
quarter on fresh images; it is too high rather than too low, because gains shrink as a search goes on. The search is at
its noise floor if this gain is less than one standard error of the front's hypervolume over the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 200
LEAST_COMPLETE = 12
"""A search with fewer complete trials is never at the floor."""
NEAR = 0.05
"""Points further behind a member of the front than this, in both goals, are on no resample's front.

With few images twice the largest standard error of a difference is used instead: 2 / sqrt(images).
"""


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """Expected gain of going on with a search, and its uncertainty."""

    gain: float
    """Hypervolume on fresh images that a further quarter of trials is expected to add."""
    standard_error: float
    """Standard error of the front's hypervolume, over the validation images."""
    trials: int
    """Number of trials that have ended, complete or not."""
    complete: int
    """Number of ended trials that have points."""

    @property
    def further(self) -> int:
        """Return a quarter of the number of trials."""
        return self.trials // 4

    @property
    def reached(self) -> bool:
        return self.complete >= LEAST_COMPLETE and self.gain < self.standard_error


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Least value of a goal, on any images."""

    offset: float
    relative: bool
    """Whether ``offset`` is relative to the untouched model's value on the same images."""

    def on(self, untouched: np.ndarray) -> np.ndarray:
        """Return the floors (B,) for values (B,) of the untouched model."""
        return self.offset + untouched if self.relative else np.full_like(untouched, self.offset)


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points of a search on S validation sets with N images each (N differs).

    Both goals are shares of correct answers. Points that miss a bound of a metric that is not a goal are left out.
    """

    untouched: Sequence[np.ndarray]
    """For each set (2, N) bool."""
    hits: Sequence[np.ndarray]
    """For each set (P, 2, N) bool."""
    place: np.ndarray
    """(P,) int: index of each point's trial among the trials that have ended."""
    reference: Floor
    """Reference of the hypervolume in the first goal: its floor, or its value by guessing.

    In the second goal the untouched model is the reference.
    """
    floors: tuple[Floor | None, Floor | None]
    """Floors of the two goals for members of the front."""


def noise_floor(
    points: Points, *, trials: int, complete: int, resamples: int = RESAMPLES, seed: int = 0
) -> NoiseFloor | None:
    """Return the noise floor after ``trials`` ended trials; the same for the same input.

    Args:
        complete: number of complete trials among them.

    Returns:
        None if there are too few images for a resample to leave some of each set out.
    """
    early = points.place < trials - trials // 4
    kept = _near_the_front(points, early)
    early = early[kept]
    rows = [
        np.concatenate([untouched[None], hits[kept]]).astype(np.float32)
        for untouched, hits in zip(points.untouched, points.hits, strict=True)
    ]
    drawn, left_out = _resampled(rows, resamples, np.random.default_rng(seed))
    whole = np.mean([of_set.sum(2, dtype=np.float64) / of_set.shape[2] for of_set in rows], axis=0)[None]
    if not len(left_out):
        return None
    valid = np.isfinite(left_out).all((1, 2))
    if not valid.any():
        return None
    chosen = _members(drawn, points.floors)
    chosen_early = _members(drawn, points.floors, early)
    gains = _hypervolumes(left_out, chosen, points.reference) - _hypervolumes(left_out, chosen_early, points.reference)
    members = np.broadcast_to(_members(whole, points.floors), chosen.shape)
    of_front = _hypervolumes(drawn, members, points.reference)
    return NoiseFloor(
        gain=float(gains[valid].mean()),
        standard_error=float(of_front.std(ddof=1)),
        trials=trials,
        complete=complete,
    )


def _resampled(
    rows: Sequence[np.ndarray], resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the goals of R rows on the drawn images, and on those left out (NaN if there are none): (B, R, 2) each.

    Args:
        rows: for each set (R, 2, N) float32 of 0 and 1. Counts of images are integers below 2**24, so float32 sums are
            exact in any order.
    """
    drawn, left_out = [], []
    for of_set in rows:
        images, flat = of_set.shape[2], of_set.reshape(-1, of_set.shape[2]).T
        counts = np.stack(
            [np.bincount(generator.integers(images, size=images), minlength=images) for _ in range(resamples)]
        ).astype(np.float32)
        absent = (counts == 0).astype(np.float32)
        shape = (resamples, *of_set.shape[:2])
        drawn.append((counts @ flat).astype(np.float64).reshape(shape) / images)
        with np.errstate(invalid="ignore"):
            left_out.append((absent @ flat).astype(np.float64).reshape(shape) / absent.sum(1)[:, None, None])
    return np.mean(drawn, axis=0), np.mean(left_out, axis=0)


def _members(
    values: np.ndarray, floors: tuple[Floor | None, Floor | None], among: np.ndarray | None = None
) -> np.ndarray:
    """Return which points are members of each front, (B, P) bool.

    The untouched model can dominate points but is not a member.

    Args:
        values: (B, 1 + P, 2) goals, the untouched model first.
        among: (P,) bool, the points that exist; None: all.
    """
    untouched, points = values[:, 0], values[:, 1:]
    allowed = np.ones(points.shape[:2], bool) if among is None else np.broadcast_to(among, points.shape[:2]).copy()
    for goal, floor in enumerate(floors):
        if floor is not None:
            allowed &= points[:, :, goal] >= floor.on(untouched[:, goal])[:, None]
    competing = np.concatenate([values[:, :1], np.where(allowed[:, :, None], points, -1.0)], axis=1)
    order = np.lexsort((-competing[:, :, 1], -competing[:, :, 0]), axis=1)
    second = np.take_along_axis(competing[:, :, 1], order, axis=1)
    best = np.maximum.accumulate(second, axis=1)
    before = np.concatenate([np.full((len(values), 1), -np.inf), best[:, :-1]], axis=1)
    kept = np.empty(order.shape, bool)
    np.put_along_axis(kept, order, second > before, axis=1)
    return np.asarray(kept[:, 1:] & allowed)


def _hypervolumes(values: np.ndarray, members: np.ndarray, reference: Floor) -> np.ndarray:
    """Return the area that the members dominate (B,), above ``reference`` and above the untouched model's second goal.

    Args:
        values: (B, 1 + P, 2) goals, the untouched model first.
        members: (B, P) bool.
    """
    low_first = reference.on(values[:, 0, 0])[:, None]
    low_second = values[:, 0, 1][:, None]
    counted = members & (values[:, 1:, 0] > low_first) & (values[:, 1:, 1] > low_second)
    first = np.where(counted, values[:, 1:, 0], low_first)
    second = np.where(counted, values[:, 1:, 1], low_second)
    order = np.argsort(-first, axis=1, kind="stable")
    first, second = np.take_along_axis(first, order, axis=1), np.take_along_axis(second, order, axis=1)
    heights = np.maximum.accumulate(np.concatenate([low_second, second], axis=1), axis=1)
    return np.asarray(((first - low_first) * np.diff(heights, axis=1)).sum(1))


def _near_the_front(points: Points, early: np.ndarray) -> np.ndarray:
    """Return the indices of the points that may be on the front of a resample, of all trials or of the early ones."""
    if not len(points.place):
        return np.zeros(0, np.int64)
    images = min(hits.shape[2] for hits in points.hits)
    margin = max(NEAR, 2 / np.sqrt(images))
    untouched = np.mean([of_set.mean(1) for of_set in points.untouched], axis=0)
    values = np.mean([hits.mean(2) for hits in points.hits], axis=0)
    stacked = np.concatenate([untouched[None], values])[None]
    behind = np.zeros(len(values), bool)
    for among, compared in ((np.ones(len(values), bool), ~early), (early, early)):
        members = values[_members(stacked, points.floors, among)[0]]
        far = (members[None] - values[:, None] > margin).all(2).any(1)
        behind |= compared & far
    return np.flatnonzero(~behind)

"""The size of micro-batches that trains fastest, measured on a trial's own forward and backward passes."""

from __future__ import annotations

from collections.abc import Callable

SMALLEST = 16
"""Least size that is tried, in pairs."""
TOLERANCE = 0.03
"""Largest share by which the chosen size may be slower than the fastest: a smaller one needs less memory."""


def sizes_to_try(most: int) -> list[int]:
    """Return sizes of micro-batches in pairs, rising: powers of two times ``SMALLEST``, and ``most``."""
    sizes = []
    size = SMALLEST
    while size < most:
        sizes.append(size)
        size *= 2
    return [*sizes, most]


def measure_speeds(most: int, pairs_per_s: Callable[[int], float | None]) -> dict[int, float]:
    """Return pairs per second by size of micro-batches, up to ``most`` pairs.

    Larger sizes are left out after two in a row were slower than the fastest, or one did not fit into memory.

    Args:
        pairs_per_s: measures a size; None if it does not fit into memory.
    """
    speeds: dict[int, float] = {}
    slower = 0
    for size in sizes_to_try(most):
        speed = pairs_per_s(size)
        if speed is None:
            break
        slower = 0 if not speeds or speed > max(speeds.values()) else slower + 1
        speeds[size] = speed
        if slower == 2:
            break
    return speeds


def fastest_size(speeds: dict[int, float], *, most: int, passes: int = 1) -> int:
    """Return the smallest size whose speed is within ``TOLERANCE`` of the highest.

    Args:
        most: size of the whole batch.
        passes: over the images of a step; the first of two, which a batch in one piece does not need, is a forward pass
            over the kept half of the images: a sixth of the work.
    """
    in_parts = 6 / 7 if passes == 2 else 1.0
    speeds = {size: speed if size == most else in_parts * speed for size, speed in speeds.items()}
    best = max(speeds.values())
    return min(size for size, speed in speeds.items() if speed >= (1 - TOLERANCE) * best)

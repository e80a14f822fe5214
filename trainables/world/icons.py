"""The shapes of the generated world's twenty classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Polygon:
    """Part of an icon, painted over its earlier parts; coordinates in [-1, 1], y downwards."""

    points: Points
    hole: bool = False
    """Whether the polygon cuts a hole into the earlier parts instead of being painted."""


def _circle(x: float, y: float, radius: float, height: float | None = None, hole: bool = False) -> Polygon:
    """Return a circle, or an ellipse of half-width ``radius`` and half-height ``height``."""
    angles = [2 * math.pi * step / 28 for step in range(28)]
    height = radius if height is None else height
    return Polygon([(x + radius * math.cos(angle), y + height * math.sin(angle)) for angle in angles], hole)


def _box(left: float, top: float, right: float, bottom: float, hole: bool = False) -> Polygon:
    return Polygon([(left, top), (right, top), (right, bottom), (left, bottom)], hole)


def _star(tips: int, inner: float) -> Polygon:
    corners = [(1.0 if step % 2 == 0 else inner, math.pi * (step / tips - 0.5)) for step in range(2 * tips)]
    return Polygon([(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in corners])


def _heart() -> Polygon:
    points = []
    for step in range(40):
        t = 2 * math.pi * step / 40
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17, -y / 17))
    return Polygon(points)


def _cogwheel() -> Polygon:
    corners = [(0.98 if step // 2 % 2 == 0 else 0.7, 2 * math.pi * step / 32) for step in range(32)]
    return Polygon([(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in corners])


ICONS: dict[str, list[Polygon]] = {
    "star": [_star(5, 0.42)],
    "ring": [_circle(0, 0, 0.95), _circle(0, 0, 0.55, hole=True)],
    "cross": [_box(-0.28, -0.95, 0.28, 0.95), _box(-0.95, -0.28, 0.95, 0.28)],
    "heart": [_heart()],
    "moon": [_circle(0, 0, 0.95), _circle(0.42, -0.12, 0.78, hole=True)],
    "arrow": [_box(-0.95, -0.2, 0.2, 0.2), Polygon([(0.15, -0.65), (0.98, 0), (0.15, 0.65)])],
    "house": [
        _box(-0.7, -0.1, 0.7, 0.9),
        Polygon([(-0.98, -0.08), (0, -0.95), (0.98, -0.08)]),
        _box(-0.18, 0.35, 0.18, 0.9, hole=True),
    ],
    "tree": [Polygon([(-0.75, 0.55), (0, -0.95), (0.75, 0.55)]), _box(-0.16, 0.5, 0.16, 0.95)],
    "fish": [
        _circle(-0.2, 0, 0.75, height=0.5),
        Polygon([(0.4, 0), (0.98, -0.5), (0.98, 0.5)]),
        _circle(-0.55, -0.12, 0.12, hole=True),
    ],
    "key": [
        _circle(-0.55, 0, 0.42),
        _circle(-0.55, 0, 0.2, hole=True),
        _box(-0.2, -0.12, 0.98, 0.12),
        _box(0.55, 0.1, 0.7, 0.45),
        _box(0.83, 0.1, 0.98, 0.45),
    ],
    "bolt": [Polygon([(0.25, -0.98), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 0.98), (0.6, -0.2), (0.05, -0.2)])],
    "cloud": [
        _circle(-0.5, 0.2, 0.42),
        _circle(0.5, 0.2, 0.42),
        _circle(0, -0.1, 0.55),
        _box(-0.5, 0.2, 0.5, 0.62),
    ],
    "leaf": [_circle(0, 0, 0.95, height=0.48), _box(-0.8, -0.05, 0.8, 0.05, hole=True)],
    "sun": [_star(10, 0.6), _circle(0, 0, 0.5, hole=True), _circle(0, 0, 0.4)],
    "boat": [
        Polygon([(-0.95, 0.3), (0.95, 0.3), (0.6, 0.85), (-0.6, 0.85)]),
        Polygon([(-0.05, -0.95), (-0.05, 0.2), (0.75, 0.2)]),
    ],
    "bell": [
        _circle(0, -0.25, 0.55),
        Polygon([(-0.55, -0.25), (0.55, -0.25), (0.85, 0.6), (-0.85, 0.6)]),
        _circle(0, 0.75, 0.2),
    ],
    "flag": [
        _box(-0.75, -0.95, -0.58, 0.98),
        Polygon([(-0.58, -0.9), (0.9, -0.9), (0.6, -0.45), (0.9, 0), (-0.58, 0)]),
    ],
    "gear": [_cogwheel(), _circle(0, 0, 0.32, hole=True)],
    "kite": [
        Polygon([(0, -0.98), (0.55, -0.3), (0, 0.45), (-0.55, -0.3)]),
        Polygon([(-0.06, 0.4), (0.06, 0.4), (0.3, 0.7), (0.1, 0.98), (0, 0.95), (0.16, 0.7)]),
    ],
    "lamp": [
        Polygon([(-0.35, -0.9), (0.35, -0.9), (0.75, 0.05), (-0.75, 0.05)]),
        _box(-0.09, 0, 0.09, 0.8),
        _box(-0.45, 0.75, 0.45, 0.95),
    ],
}

CLASSES = tuple(ICONS)

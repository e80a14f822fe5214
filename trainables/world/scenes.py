"""Scenes of the generated world: a background, neutral clutter, one coloured icon or none, strokes in front, noise.

Every scene is a function of (split, seed, index). Composition and ranges were tuned together with the pretraining, so
that a model of a few megabytes classifies 0.9 of the scenes correctly and a word pasted on a scene fits into it.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from trainables.attack.rendering import generator
from trainables.world.icons import CLASSES, ICONS

SIDE_PX = 48
CANVAS_PX = 2 * SIDE_PX
"""Scenes are drawn at twice their size and reduced."""

COLOURS = ("red", "blue")
HUES = {"red": (-0.06, 0.05), "blue": (0.54, 0.70)}
"""Smallest and largest hue; a turn of the colour wheel is 1."""

Split = Literal["train", "validation", "test", "pretraining"]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Content:
    """Content of a scene: an index into ``CLASSES`` and one into ``COLOURS``, or no object."""

    label: int | None
    colour: int = 0


def scenes(split: Split, seed: int, count: int, *, processes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 (count, 48, 48, 3), and labels, int64 (count,).

    The images do not depend on ``processes``, and the first ones not on ``count``.
    """
    return render_all(split, seed, [content_of(index) for index in range(count)], processes), labels(count)


def scene(split: Split, seed: int, index: int) -> np.ndarray:
    """Return image ``index`` of ``scenes``, uint8 (48, 48, 3)."""
    return _render_job((split, seed, index, content_of(index)))


def labels(count: int) -> np.ndarray:
    """Return the classes of the first ``count`` scenes of a split, int64 (count,)."""
    return np.arange(count, dtype=np.int64) % len(CLASSES)


def colours(count: int) -> np.ndarray:
    """Return the colours of the first ``count`` scenes of a split, int64 (count,)."""
    return np.arange(count, dtype=np.int64) // len(CLASSES) % len(COLOURS)


def content_of(index: int) -> Content:
    """Return the content of scene ``index`` of every split: class after class, in the first, then the other colour."""
    return Content(index % len(CLASSES), index // len(CLASSES) % len(COLOURS))


def empty_scenes(split: Split, seed: int, count: int, *, processes: int = 1) -> np.ndarray:
    """Return scenes without an object, uint8 (count, 48, 48, 3), for words to be read from."""
    return render_all(split, seed, [Content(None)] * count, processes)


def render_all(split: Split, seed: int, contents: Sequence[Content], processes: int = 1) -> np.ndarray:
    """Return one image per content, uint8 (N, 48, 48, 3); image i is a function of (split, seed, i, content)."""
    jobs = [(split, seed, index, content) for index, content in enumerate(contents)]
    if processes <= 1 or len(jobs) < 512:
        images = [_render_job(job) for job in jobs]
    else:
        # A forked process could inherit held locks from threads of the caller (torch, Ray).
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            images = list(pool.map(_render_job, jobs, chunksize=max(1, min(256, len(jobs) // processes))))
    return np.stack(images) if images else np.zeros((0, SIDE_PX, SIDE_PX, 3), np.uint8)


def _render_job(job: tuple[Split, int, int, Content]) -> np.ndarray:
    split, seed, index, content = job
    kind = "empty" if content.label is None else "object"
    return render(content, generator("scene", split, seed, kind, index))


def render(content: Content, rng: np.random.Generator) -> np.ndarray:
    """Return one scene, uint8 (48, 48, 3)."""
    canvas = _background(rng)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(2, 7)):
        _draw_clutter(draw, rng)
    if content.label is not None:
        mask = _icon_mask(CLASSES[content.label], rng)
        hue = rng.uniform(*HUES[COLOURS[content.colour]]) % 1.0
        canvas.paste(_colour(hue, rng.uniform(0.55, 1), rng.uniform(0.55, 1)), (0, 0), mask)
    for _ in range(rng.integers(0, 3)):
        x0, y0, x1, y1 = rng.uniform(0, CANVAS_PX, 4)
        draw.line((x0, y0, x1, y1), fill=_neutral_colour(rng, 0.5), width=int(rng.integers(2, 6)))
    pixels = np.asarray(canvas.reduce(CANVAS_PX // SIDE_PX), np.float32)
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(4, 22))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator) -> Image.Image:
    """Return a gradient between two greyish colours with smooth random brightness, (96, 96)."""
    ends = rng.uniform(40, 220, (2, 3))
    saturation = rng.uniform(0.05, 0.45)
    ends = ends.mean(1, keepdims=True) * (1 - saturation) + ends * saturation
    shade = Image.fromarray(rng.normal(0, 26, (5, 5)).astype(np.float32))
    shade = shade.resize((CANVAS_PX, CANVAS_PX), Image.Resampling.BICUBIC)
    angle = rng.uniform(0, 2 * math.pi)
    x, y = _coordinates()
    weight = np.clip(0.5 + x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle)), 0, 1)[..., None]
    first, second = ends.astype(np.float32)
    pixels = second + (first - second) * weight + np.asarray(shade)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _coordinates() -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of every pixel, float32 (96, 96) each, from -0.5 to 0.5."""
    y, x = np.mgrid[0:CANVAS_PX, 0:CANVAS_PX].astype(np.float32) / CANVAS_PX - np.float32(0.5)
    return x, y


def _draw_clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    fill = _neutral_colour(rng, 0.6)
    x, y = rng.uniform(0, CANVAS_PX, 2)
    radius = rng.uniform(0.04, 0.14) * CANVAS_PX
    match int(rng.integers(3)):
        case 0:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        case 1:
            draw.rectangle((x - radius, y - 0.6 * radius, x + radius, y + 0.6 * radius), fill=fill)
        case _:
            x1, y1 = rng.uniform(0, CANVAS_PX, 2)
            draw.line((x, y, x1, y1), fill=fill, width=int(rng.integers(2, 5)))


def _icon_mask(name: str, rng: np.random.Generator) -> Image.Image:
    """Return an icon as a mask (mode L) of the canvas, randomly turned, sheared, mirrored, scaled and moved."""
    angle, shear = rng.normal(0, 0.32), rng.normal(0, 0.12)
    height = rng.uniform(0.20, 0.38) * CANVAS_PX
    width = height * rng.uniform(0.8, 1.2) * (-1 if rng.random() < 0.5 else 1)
    centre_x, centre_y = rng.uniform(0.36, 0.64, 2) * CANVAS_PX
    cosine, sine = math.cos(angle), math.sin(angle)
    mask = Image.new("L", (CANVAS_PX, CANVAS_PX))
    draw = ImageDraw.Draw(mask)
    for polygon in ICONS[name]:
        corners = []
        for x, y in polygon.points:
            u, v = x * width + shear * y * height, y * height
            corners.append((centre_x + cosine * u - sine * v, centre_y + sine * u + cosine * v))
        draw.polygon(corners, fill=0 if polygon.hole else 255)
    return mask


def _neutral_colour(rng: np.random.Generator, saturation: float) -> Colour:
    """Return a colour between yellow and green: red and blue are for the objects."""
    return _colour(rng.uniform(0.1, 0.45), rng.uniform(0, saturation), rng.uniform(0.2, 1))


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)

"""The baseline that changes no model: find written words by OCR, hide them, ask the untouched CLIP.

    uv pip install --group ocr
    sweeper evaluate examples.ocr_blur:load --data world

The words are found by RapidOCR (Apache-2.0), whose package ships its models (PP-OCRv6 small, 31 MB), so nothing is
downloaded. Another CLIP or other options need a function in a file of your own:

    from examples import ocr_blur

    def hidden():
        return ocr_blur.load("ViT-B-32:laion2b_s34b_b79k", blur=1.0)

The OCR sees the 224-px image that the CLIP would see, not the photograph in its own resolution. ``docs/baselines.md``
has measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from examples.clip_on_pixels import ClipOnPixels, Scores

MIN_SCORE = 0.5
"""Smallest confidence of the recognition, RapidOCR's own."""
LETTERS = 2
"""Smallest number of letters and digits. Single letters are left alone: a ring is read as O, a crescent as C."""
SIDE_PX = 320
"""Images are enlarged to this shorter side for the text detector. RapidOCR's own 736 takes five times as long."""
BLUR = 0.5
"""Radius of the Gaussian blur, as a share of the height of a text box."""


@dataclass(frozen=True)
class Text:
    """Text that was found in an image."""

    words: str
    corners: tuple[tuple[float, float], ...]
    """The four corners of its box, in pixels (x, y)."""
    height_px: float
    """Length of the box's shorter side."""


class Reader:
    """RapidOCR with the models of its package."""

    def __init__(self, *, min_score: float = MIN_SCORE, letters: int = LETTERS, side_px: int = SIDE_PX) -> None:
        """Load the models.

        Raises:
            ImportError: RapidOCR is not installed.
        """
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise ImportError(f"{error}; examples.ocr_blur needs RapidOCR: uv pip install --group ocr") from error
        self._letters = letters
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.text_score": min_score,
                "Det.limit_side_len": side_px,
                "Det.limit_type": "min",
                "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),
            }
        )

    def texts(self, image: Image.Image) -> list[Text]:
        """Return the texts in an image, those with too few letters left out."""
        bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        found = self._ocr(bgr, use_det=True, use_cls=False, use_rec=True)
        if found.boxes is None or found.txts is None:
            return []
        texts = []
        for box, words in zip(found.boxes, found.txts, strict=True):
            if sum(map(str.isalnum, words)) >= self._letters:
                sides = np.linalg.norm(box - np.roll(box, -1, axis=0), axis=1)
                corners = tuple((float(x), float(y)) for x, y in box)
                texts.append(Text(words, corners, float(sides.min())))
        return texts


def blurred(image: Image.Image, texts: Sequence[Text], *, blur: float = BLUR) -> Image.Image:
    """Return the image with a Gaussian blur inside the boxes of texts, of the radius ``blur`` x height of the box."""
    image = image.convert("RGB")
    for text in texts:
        softened = image.filter(ImageFilter.GaussianBlur(max(1.0, blur * text.height_px)))
        image = Image.composite(softened, image, mask(image, [text]))
    return image


def filled(image: Image.Image, texts: Sequence[Text]) -> Image.Image:
    """Return the image with the mean colour of all that is outside the boxes inside them."""
    image = image.convert("RGB")
    pixels, inside = np.array(image), np.asarray(mask(image, texts)) > 0
    if inside.any() and not inside.all():
        pixels[inside] = pixels[~inside].mean(0).round().astype(np.uint8)
    return Image.fromarray(pixels)


def mask(image: Image.Image, texts: Sequence[Text]) -> Image.Image:
    """Return a picture, white inside the boxes of texts and black outside."""
    inside = Image.new("L", image.size)
    for text in texts:
        ImageDraw.Draw(inside).polygon(list(text.corners), fill=255)
    return inside


def without_texts(
    clip: ClipOnPixels, reader: Reader, hide: Callable[[Image.Image, Sequence[Text]], Image.Image]
) -> Scores:
    """Return the function that hides the texts of each image and asks the CLIP."""

    def scores(images: list[Image.Image], prompts: list[list[str]]) -> torch.Tensor:
        return clip.scores([hide(image, reader.texts(image)) for image in images], prompts)

    return scores


def load(
    model: str = "world",
    *,
    blur: float = BLUR,
    min_score: float = MIN_SCORE,
    letters: int = LETTERS,
    side_px: int = SIDE_PX,
) -> Scores:
    """Return a CLIP that is shown images with blurred texts.

    Args:
        model: as in ``sweeper evaluate``: an open_clip name with its tag, a folder, hf-hub:NAME, or world.
        blur: radius of the blur, as a share of the height of a text box.
        min_score: smallest confidence of a text.
        letters: smallest number of letters and digits of a text.
        side_px: shorter side to which images are enlarged for the text detector.
    """
    reader = Reader(min_score=min_score, letters=letters, side_px=side_px)
    return without_texts(ClipOnPixels(model), reader, partial(blurred, blur=blur))


def load_filled(model: str = "world") -> Scores:
    """Return a CLIP that is shown images with filled text boxes, see ``load``."""
    return without_texts(ClipOnPixels(model), Reader(), filled)

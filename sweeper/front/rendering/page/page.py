"""The front as an interactive page: one file below 1 MB that works without network, drawn by its own script."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from importlib.resources import files
from string import Template

from sweeper.front.rendering.page.data import PageData, page_data
from sweeper.front.rendering.table import summary
from sweeper.front.search_state import SearchState
from sweeper.records import Front

MOST_BYTES = 1_000_000
_MOST_BYTES_OF_PICTURE = 150_000
_JPEG_QUALITY = 80

_OVER_STRENGTH = "Over the strength of the weights: the untouched model at 0, the trained weights at 1."
_RETRIEVED = (
    "The best images of queries, before and after, each framed by its value; singular values of W, each dot as large "
    "as the concept's share in its direction."
)


def html_page(
    front: Front, search: SearchState | None = None, *, over_strength: bytes | None = None, drawn: bytes | None = None
) -> str:
    """Return an HTML document.

    Args:
        search: the study behind the front, for further panels.
        over_strength: a PNG of the named trials over the strength.
        drawn: a PNG of retrievals and singular values.
    """
    pictures = [(over_strength, _OVER_STRENGTH), (drawn, _RETRIEVED)]
    return Template(_part("page.html")).substitute(
        title=escape(f"Pareto front of {front.sweep}"),
        summary=escape(summary(front)),
        style=_part("page.css").strip(),
        script=_part("page.js").strip(),
        data=to_json(page_data(front, search)),
        pictures="\n".join(_picture(png, text) for png, text in pictures if png is not None),
    )


def to_json(data: PageData) -> str:
    """Return the data as JSON that cannot end a script element."""
    text = json.dumps(data, default=vars, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _part(name: str) -> str:
    return files("sweeper.front.rendering.page").joinpath(name).read_text(encoding="utf-8")


def _picture(png: bytes, text: str) -> str:
    """Return a figure; a large picture (photographs) as JPEG, which has a fifth of the size of the PNG."""
    kind, image = ("png", png) if len(png) <= _MOST_BYTES_OF_PICTURE else ("jpeg", _jpeg(png))
    source = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    caption = escape(text)
    button = '<button type="button" aria-pressed="false">full size</button>'
    image_box = f'<div class="scroll"><img alt="{caption}" src="{source}"></div>'
    return f'<figure class="picture"><figcaption>{caption}{button}</figcaption>{image_box}</figure>'


def _jpeg(png: bytes) -> bytes:
    """Return a picture as JPEG, scaled down if it would have more than ``_MOST_BYTES_OF_PICTURE``."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    while True:
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        if len(encoded.getvalue()) <= _MOST_BYTES_OF_PICTURE:
            return encoded.getvalue()
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))

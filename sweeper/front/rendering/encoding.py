"""Figures as bytes. The same figure gives the same bytes: neither time nor chance enters a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ImageFormat = Literal["png", "svg", "pdf"]
_WITHOUT: dict[ImageFormat, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Entries of the files that are left out."""


def encoded(figure: Figure, format: ImageFormat) -> bytes:
    """Return a figure in a format; an SVG has its texts as texts."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sweeper", "pdf.fonttype": 42}):
        figure.savefig(content, format=format, metadata=_WITHOUT[format])
    return content.getvalue()

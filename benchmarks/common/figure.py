"""What the figures of the benchmarks share."""

from __future__ import annotations

import io
from typing import Any


def tidy(panel: Any) -> None:
    """Draw a light grid behind the curves, and no frame at the top and the right of a panel."""
    panel.grid(color="#e5e5e5", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def png_bytes(figure: Any) -> bytes:
    """Return the figure as a PNG that does not name the version of Matplotlib."""
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()

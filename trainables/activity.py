"""What a process is busy with, for whoever runs it: records of the logger ``trainables.activity`` at level INFO."""

from __future__ import annotations

import logging

LOGGER = "trainables.activity"
_logger = logging.getLogger(LOGGER)


def busy_with(what: str, done: int | None = None, total: int | None = None) -> None:
    """Log ``embedding images: 512 of 4000``; without ``total`` only what. Cheap where nobody listens."""
    if done is None or total is None:
        _logger.info("%s", what)
    else:
        _logger.info("%s: %d of %d", what, done, total)

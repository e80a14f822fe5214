"""The present activity of a process, as records of the logger ``trainables.activity`` at level INFO."""

from __future__ import annotations

import logging

LOGGER = "trainables.activity"
_logger = logging.getLogger(LOGGER)


def busy_with(what: str, done: int | None = None, total: int | None = None) -> None:
    """Log the present activity, such as ``embedding images: 512 of 4000``. Cheap if the logger is off.

    Args:
        what: the activity.
        done, total: progress in steps; None: not logged.
    """
    if done is None or total is None:
        _logger.info("%s", what)
    else:
        _logger.info("%s: %d of %d", what, done, total)

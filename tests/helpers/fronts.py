"""The front of given trials, for tests of what is decided on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeper.front.build import build_front
from sweeper.records import Front, TrialRecord
from tests.helpers.goals import TYPOGRAPHIC
from tests.helpers.reports import make_untouched


def front_of_trials(trials: Sequence[TrialRecord], **changes: Any) -> Front:
    """Return the front of a sweep that has ended. The untouched model has clean 0.9 and robust 0.3."""
    about: dict[str, Any] = {"goals": TYPOGRAPHIC, "bounds": (), "untouched": make_untouched(), "measurements": {}}
    return build_front("demo", trials, planned=len(trials), **{**about, **changes})


def members_of(front: Front) -> list[tuple[int | None, float]]:
    """Return trial and strength of each member."""
    return [(point.trial, point.strength) for point in front.points if point.member]

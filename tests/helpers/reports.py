"""Reports and results of trials that nobody trained, and an untouched model that nobody measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.records import UntouchedModel
from trainables.records import Point, Report, TrialResult

GOALS = {"clean_accuracy": 0.9, "robust_accuracy": 0.5}


def make_report(values: Mapping[str, float] = GOALS, **fields: Any) -> Report:
    """Return a report with ``values``, at the first of ten steps unless ``fields`` say otherwise."""
    defaults = {"step": 1, "steps": 10, "epoch": 1.0, "epochs": 10, "progress": 0.1, "time_s": 0.0}
    return Report(**{**defaults, "train_s": 0.0, "evaluation_s": 0.0, **fields}, values=dict(values))


def make_result(values: Mapping[str, float] = GOALS, *, train_s: float = 1.0, evaluation_s: float = 0.5) -> TrialResult:
    """Return the result of a trial that was measured at strength 1 only."""
    points = (Point(weights="last", strength=1.0, values=dict(values)),)
    return TrialResult(values=dict(values), points=points, epochs=1, train_s=train_s, evaluation_s=evaluation_s)


def make_untouched(**changes: Any) -> UntouchedModel:
    """Return the record of an untouched model of 90 % clean and 30 % robust accuracy."""
    fields: dict[str, Any] = {
        "goals": {"clean_accuracy": 0.9, "robust_accuracy": 0.3},
        "chance": 0.05,
        "validation_images": [100],
        "pairs": 256,
        "weights_digest": "w",
        "data_digest": "d",
        "validation_digest": "v",
        "broken": {},
        "assumed": None,
        "versions": {},
        "device": "cpu",
    }
    return UntouchedModel(**{**fields, **changes})

"""The record beside an exported model: where the point comes from, how it was trained, what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.records import Confirmation
from trainables.records import WeightsKind

RECORD_FILE = "sweeper.json"

Intervals = dict[str, tuple[float, float]]
"""Metric -> 95 % bootstrap interval."""


@dataclass(frozen=True, kw_only=True)
class UntouchedMetrics:
    """The untouched model on the images that the point was measured on."""

    validation: dict[str, float]
    test: dict[str, float] | None
    intervals: Intervals | None
    """Of ``test``."""


@dataclass(frozen=True, kw_only=True)
class Digests:
    """SHA-256 in hexadecimal."""

    reference_weights: str
    """Of names, shapes and values of the untouched model's weights."""
    data: str
    """Of everything that is trained and searched on."""
    exported_weights: str
    """Of the exported file."""


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """What ``sweeper.json`` holds. Field names are its keys."""

    sweep: str
    sweep_id: str
    git_commit: str | None
    """Of the repository that the spec lay in; None outside a repository."""
    trial: int
    name: str | None
    """Of the point on the front: ``knee``, ``cleanest``, ``most robust``, ``paint``."""
    weights: WeightsKind
    strength: float
    parameters: dict[str, Any]
    """Those of the trial that have a value."""
    seed: int
    data_seed: int
    validation: dict[str, float]
    """Empty for a strength that was not measured."""
    validation_intervals: Intervals
    test: dict[str, float] | None
    intervals: Intervals | None
    """Of ``test``."""
    confirmation: Confirmation | None
    untouched: UntouchedMetrics
    digests: Digests
    trained_with: dict[str, str | None]
    """Package -> version on the worker, and its ``device``; None where it is not known."""
    model: dict[str, Any]
    """Model settings of the spec, as JSON."""
    exported_with: dict[str, str]
    """Package -> version."""
    goals: tuple[str, ...] = ("clean_accuracy", "robust_accuracy")
    """Metrics of the sweep's goals; earlier versions knew no others."""
    class_names: tuple[str, ...] = ()
    """Classes of the first validation set, in words; empty for sweeps of earlier versions, as ``templates``."""
    templates: tuple[str, ...] = ()
    """Prompts of these classes, with ``{}`` for the class."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ExportRecord:
        """Read what ``to_json`` returned. Raise KeyError or TypeError for what is no such record."""
        confirmation, untouched = record["confirmation"], record["untouched"]
        return cls(
            **{
                **record,
                "validation_intervals": _intervals(record["validation_intervals"]),
                "intervals": _intervals_or_none(record["intervals"]),
                "confirmation": None if confirmation is None else Confirmation.from_json(confirmation),
                "untouched": UntouchedMetrics(
                    **{**untouched, "intervals": _intervals_or_none(untouched["intervals"])},
                ),
                "digests": Digests(**record["digests"]),
                **{name: tuple(record[name]) for name in ("goals", "class_names", "templates") if name in record},
            }
        )

    def write(self, folder: Path) -> None:
        (folder / RECORD_FILE).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> ExportRecord:
        """Return the record of an exported folder."""
        return cls.from_json(json.loads((folder / RECORD_FILE).read_text()))


def _intervals(ends: Mapping[str, list[float]]) -> Intervals:
    return {metric: (low, high) for metric, (low, high) in ends.items()}


def _intervals_or_none(ends: Mapping[str, list[float]] | None) -> Intervals | None:
    return None if ends is None else _intervals(ends)

"""The record beside an exported model: the origin of the point, its training, its measurements."""

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
    """Metrics of the untouched model on the images that the point was measured on."""

    validation: dict[str, float]
    test: dict[str, float] | None
    intervals: Intervals | None
    """Intervals of ``test``."""


@dataclass(frozen=True, kw_only=True)
class Digests:
    """SHA-256 digests in hexadecimal."""

    reference_weights: str
    """Digest of names, shapes and values of the untouched model's weights."""
    data: str
    """Digest of all data for training and search."""
    exported_weights: str
    """Digest of the exported file."""


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """Content of ``sweeper.json``. Field names are its keys."""

    sweep: str
    sweep_id: str
    git_commit: str | None
    """Commit of the repository that the spec lay in; None outside a repository."""
    trial: int
    name: str | None
    """Name of the point on the front: ``knee``, ``cleanest``, ``most robust``, ``paint``."""
    weights: WeightsKind
    strength: float
    parameters: dict[str, Any]
    """Parameters of the trial that have a value."""
    seed: int
    data_seed: int
    validation: dict[str, float]
    """Metrics on validation; empty for a strength that was not measured."""
    validation_intervals: Intervals
    test: dict[str, float] | None
    intervals: Intervals | None
    """Intervals of ``test``."""
    confirmation: Confirmation | None
    untouched: UntouchedMetrics
    digests: Digests
    trained_with: dict[str, str | None]
    """Package -> version on the worker, and its ``device``; None if not known."""
    model: dict[str, Any]
    """Model settings of the spec, as JSON data."""
    exported_with: dict[str, str]
    """Package -> version."""
    goals: tuple[str, ...] = ("clean_accuracy", "robust_accuracy")
    """Metrics of the sweep's goals; earlier versions had no others."""
    class_names: tuple[str, ...] = ()
    """Classes of the first validation set, in words; empty for sweeps of earlier versions, as ``templates``."""
    templates: tuple[str, ...] = ()
    """Prompts of these classes, with ``{}`` for the class."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ExportRecord:
        """Return the record from JSON data that ``to_json`` made.

        Raises:
            KeyError: a key is missing.
            TypeError: a value has another type.
        """
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

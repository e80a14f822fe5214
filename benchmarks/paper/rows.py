"""Rows and columns of the paper's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.records import WeightsKind

NINE = {
    "caltech101": "Caltech101",
    "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars",
    "flowers102": "Flowers102",
    "food101": "Food101",
    "fgvc_aircraft": "FGVCAircraft",
    "dtd": "DTD",
    "sun397": "SUN397",
    "eurosat": "EuroSAT",
}
"""The paper's nine sets, by their names in the spec."""

TRAINED_ON = "imagenet100"
REAL = {"rta100": "RTA-100", "paint": "PAINT", "disentangling": "Disentangling"}
"""Photographs of really written words that the paper measures on; their mean is a column."""

SCAM = "scam"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model of the table."""

    key: str
    """Name in predictions and files: ``dpo/averaged``."""
    title: str
    weights: WeightsKind = "last"
    trained_with: Mapping[str, Any] | None = None
    """Parameters by which the trial is found; None: the untouched model, or the baseline."""
    baseline: str | None = None

    @property
    def file_name(self) -> str:
        return self.key.replace("/", "-")


def _rows() -> list[Row]:
    rows = [
        Row(key="untouched/last", title="CLIP, untouched"),
        Row(key="paint/last", title="PAINT", baseline="paint"),
    ]
    objectives: list[tuple[str, str, dict[str, Any]]] = [
        ("cross_entropy", "cross-entropy", {"objective": "cross_entropy", "lambda_reg": 0.0}),
        ("cross_entropy_clean", "cross-entropy + clean term", {"objective": "cross_entropy", "lambda_reg": 1.0}),
        ("dpo", "DPO", {"objective": "dpo"}),
        ("ipo", "IPO", {"objective": "ipo"}),
        ("kto", "KTO", {"objective": "kto"}),
    ]
    for key, title, parameters in objectives:
        rows.append(Row(key=f"{key}/last", title=title, trained_with=parameters))
        rows.append(Row(key=f"{key}/averaged", title=f"{title}, averaged", weights="averaged", trained_with=parameters))
    return rows


ROWS: Sequence[Row] = tuple(_rows())


@dataclass(frozen=True, kw_only=True)
class Column:
    """A measure, as a mean over one or more sets."""

    key: str
    """Name in predictions: ``food101/T``, ``mean/O``, ``real/all``."""
    title: str
    sets: tuple[str, ...]
    view: str
    """View of the answers: ``clean`` or ``attacked``."""
    measure: str
    """Measure of the answers: ``accuracy`` over all classes, or ``two_way_accuracy``."""
    whole: bool = True
    """Whether it is over all of its sets: a mean over fewer is another number than the one that was predicted."""


def columns(measured: Sequence[str]) -> list[Column]:
    """Return the columns for the sets that are measured. A mean over fewer sets than all says so in its title."""
    nine = [name for name in NINE if name in measured]
    real = [name for name in REAL if name in measured]
    pasted = [(name, NINE[name], (name,)) for name in nine]
    if nine:
        pasted.append(("mean", "mean of 9" if len(nine) == len(NINE) else f"mean of {len(nine)} of 9", tuple(nine)))
    if TRAINED_ON in measured:
        pasted.append((TRAINED_ON, "ImageNet-100", (TRAINED_ON,)))
    table = [
        Column(
            key=f"{key}/{letter}",
            title=f"{title} {letter}",
            sets=sets,
            view=view,
            measure="accuracy",
            whole=key != "mean" or len(sets) == len(NINE),
        )
        for key, title, sets in pasted
        for letter, view in (("O", "clean"), ("T", "attacked"))
    ]
    written = [(name, REAL[name], (name,)) for name in real]
    if real:
        written.append(("real", f"mean of {len(real)} real", tuple(real)))
    if SCAM in measured:
        written.append((SCAM, "SCAM", (SCAM,)))
    return table + [
        Column(
            key=f"{key}/{short}",
            title=f"{title} {words}",
            sets=sets,
            view="attacked",
            measure=measure,
            whole=key != "real" or len(sets) == len(REAL),
        )
        for key, title, sets in written
        for short, words, measure in (("all", "all", "accuracy"), ("two", "2-way", "two_way_accuracy"))
    ]

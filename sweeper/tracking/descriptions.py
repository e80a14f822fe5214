"""Descriptions of a sweep and its trials for MLflow, in words and settings. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.records import TrialRecord
from trainables.markdown import plain

SWEEPS_IN_NOTE = 30
"""Number of newest sweeps in the experiment's description."""
_IN_FIRST_LINE = 4


def main_settings(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a resolved spec that distinguish its sweep, as parameters of the sweep's run.

    Settings that a resumed sweep may change are left out, because MLflow refuses another value of a parameter.
    """
    model, train, search = (spec.get(section) or {} for section in ("model", "train", "search"))
    test = (spec.get("evaluate") or {}).get("test") or {}
    stopping, training = spec.get("stopping") or {}, spec.get("training") or {}
    searched = spec.get("parameters") or {}
    weights = "" if model.get("pretrained") is None else f":{model['pretrained']}"
    settings = {
        "task": spec.get("task"),
        "model": f"{model['architecture']}{weights}" if "architecture" in model else None,
        "train_set": train.get("set"),
        "test_sets": ", ".join(test.get("sets") or []),
        "searched": ", ".join(name for name, domain in searched.items() if isinstance(domain, dict | list)),
        "objective": _choices(searched.get("objective")),
        "tune": _choices(searched.get("tune")),
        "sampler": search.get("sampler"),
        "seed": search.get("seed"),
        "stopping": stopping.get("kind"),
        "epochs": training.get("epochs"),
        "global_batch_size": training.get("global_batch_size"),
    }
    return {name: str(value) for name, value in settings.items() if value not in (None, "")}


def _choices(domain: Any) -> str:
    """Return the values of a parameter in words."""
    if isinstance(domain, Mapping):
        return ", ".join(map(str, domain.get("choices", ())))
    return "" if domain is None or isinstance(domain, list) else str(domain)


@dataclass(frozen=True)
class ImageSetInput:
    """An image set as an input of a sweep's run."""

    name: str
    digest: str
    """Digest of its settings and of the sweep's data; 32 characters."""
    kind: str
    settings: str
    """Settings as JSON text."""
    context: str
    """Use of the set: ``training``, ``search``, ``test``, or several of them."""


def image_set_inputs(spec: Mapping[str, Any], data_digest: str) -> list[ImageSetInput]:
    """Return the image sets of a resolved spec.

    Args:
        data_digest: digest of all data for training and search.
    """
    evaluate = spec.get("evaluate") or {}
    used = {
        "training": [(spec.get("train") or {}).get("set")],
        "search": (evaluate.get("search") or {}).get("sets") or [],
        "test": (evaluate.get("test") or {}).get("sets") or [],
    }
    inputs = []
    for name, about in (spec.get("sets") or {}).items():
        settings = json.dumps(about, sort_keys=True)
        digest = hashlib.sha256(f"{settings} {data_digest}".encode()).hexdigest()[:32]
        context = ", ".join(use for use, names in used.items() if name in names)
        inputs.append(ImageSetInput(name, digest, str(about.get("kind")), settings, context or "unused"))
    return inputs


def trial_line(trial: TrialRecord, goals: Sequence[str]) -> str:
    """Return a line about a trial that has ended."""
    what = "" if trial.baseline is None else f"baseline {trial.baseline}, "
    what += "" if trial.first_point is None else f"first point ({trial.first_point}), "
    what += "" if trial.confirms is None else f"trains trial {trial.confirms} again, "
    if trial.reason is not None:
        return f"{what}{trial.state}: {plain(trial.reason)}"
    values = ", ".join(
        f"{_words(goal)} {(trial.values or {})[goal]:.3f}" for goal in goals if goal in (trial.values or {})
    )
    return (
        f"{what}{trial.state}: {values} on validation, last weights at strength 1" if values else f"{what}{trial.state}"
    )


@dataclass(frozen=True, kw_only=True)
class SweepLine:
    """A sweep in the experiment's description."""

    name: str
    state: str
    hypervolume: float | None
    links: Mapping[str, str]
    """Name -> address (``Runs.links``)."""


def experiment_note(sweeps: Iterable[SweepLine]) -> str:
    """Return the experiment's description in Markdown: the newest sweeps, each with links to its front and trials."""
    shown = list(sweeps)[:SWEEPS_IN_NOTE]
    # MLflow folds all but the first line.
    newest = ", ".join(
        f"[{plain(sweep.name)}]({sweep.links['sweep']}) ([front]({sweep.links['front']}))"
        for sweep in shown[:_IN_FIRST_LINE]
    )
    lines = [
        f"Newest sweeps: {newest}" if shown else "Each top-level run is a sweep.",
        "",
        "Each top-level run is a sweep; open it for its Pareto front, expand it for its trials.",
        "",
        "| sweep | state | hypervolume | open |",
        "| --- | --- | --- | --- |",
    ]
    for sweep in shown:
        volume = "-" if sweep.hypervolume is None else f"{sweep.hypervolume:.4f}"
        opened = ", ".join(f"[{name}]({address})" for name, address in sweep.links.items() if name != "sweep")
        name = f"[{plain(sweep.name)}]({sweep.links['sweep']})"
        lines.append(f"| {name} | {plain(sweep.state)} | {volume} | {opened} |")
    return "\n".join(lines)


def _words(metric: str) -> str:
    return metric.replace("_", " ")

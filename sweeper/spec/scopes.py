"""The scopes that a sweep trains, each with the trial that costs most time and memory. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.spec.domains import Choices, Range, Value
from sweeper.spec.spec import Spec

LARGEST = ("blocks", "rank", "copies", "images", "epochs")
"""Parameters that cost memory or steps, probed at their highest value; the others are probed at their lowest."""
_OBJECTIVES = ("kto", "dpo", "ipo", "cross_entropy")
"""Objectives in falling order of memory."""
_RISING = ("transform", "last_blocks", "visual", "all")
"""Scopes in rising order of memory."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Trials that tune the same part of the model."""

    tune: str
    share: float
    """Estimated share of the sweep's trials."""
    parameters: dict[str, Value]
    """Parameters of the probed trial: the combination that costs most."""
    pairs_share: float = 1.0
    """Training pairs of an average trial of the sweep, as a share of the probed trial's."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Values that a space draws for an integer parameter."""

    least: int
    mean: float
    """Mean of random draws."""
    most: int


def scopes(spec: Spec) -> list[Scope]:
    """Return the scopes that a sweep trains, each with its most expensive combination of parameters."""
    by_tune = []
    values = [value for branch in spec.parameters.branches["tune"] for value in branch.domain.examples()]
    points = [*spec.chosen(), *(baseline.parameters for baseline in spec.baseline_trials())]
    counts = {tune: sum(point["tune"] == tune for point in points) for tune in {point["tune"] for point in points}}
    left = max(0, spec.search.trials - len(points))  # suggested trials: each scope about equally often
    for tune in dict.fromkeys(map(str, [*values, *counts])):
        number = counts.get(tune, 0) + (left / len(values) if tune in values else 0)
        corner = _corner(spec, tune) if tune in values else None
        if corner is None:
            # The learning rate of a baseline may not be known yet; the time of a step does not depend on it.
            corner = {"learning_rate": 1e-5, **next(point for point in points if point["tune"] == tune)}
        pairs_share = _average_pairs_share(spec, corner) if tune in values else 1.0
        share = number / max(1, left + len(points))
        by_tune.append(Scope(tune=tune, share=share, parameters=corner, pairs_share=pairs_share))
    return by_tune


def epochs_of(spec: Spec, scope: Scope) -> Drawn:
    """Return the number of epochs of the trials of a scope."""
    probed = scope.parameters.get("epochs")
    if probed is None:
        return Drawn(least=spec.training.epochs, mean=spec.training.epochs, most=spec.training.epochs)
    drawn = _drawn(spec, "epochs", scope.parameters)
    assert drawn is not None, "the probed trial has what the space draws"
    return drawn


def largest_scope(spec: Spec) -> Scope:
    """Return the scope whose trials need most memory."""
    return max(scopes(spec), key=lambda scope: _RISING.index(scope.tune))


def _corner(spec: Spec, tune: str) -> dict[str, Value] | None:
    """Return the parameters of a scope that cost most; None if no objective is possible with it."""

    def draw(objective: str) -> dict[str, Value]:
        def suggest(name: str, domain: Choices | Range) -> Value:
            parameter = name.partition("[")[0]
            wanted = {"tune": tune, "objective": objective}.get(parameter)
            if wanted is not None and domain.match(wanted) is not None:
                return wanted
            values = domain.examples()
            if isinstance(values[0], str):
                return values[0]
            return max(values, key=float) if parameter in LARGEST else min(values, key=float)

        return spec.parameters.draw(suggest)

    drawn = (draw(objective) for objective in _OBJECTIVES)
    return next((parameters for parameters in drawn if parameters["tune"] == tune), None)


def _average_pairs_share(spec: Spec, corner: Mapping[str, Value]) -> float:
    """Return the pairs of a trial with average copies and images, as a share of those of the probed trial.

    Args:
        corner: parameters of the probed trial.
    """
    share = 1.0
    for name in ("copies", "images"):
        drawn = _drawn(spec, name, corner)
        if drawn is not None:
            share *= drawn.mean / drawn.most
    return share


def _drawn(spec: Spec, name: str, corner: Mapping[str, Value]) -> Drawn | None:
    """Return the values that the space draws for an integer parameter; None if it draws none.

    Args:
        corner: values of the other parameters.
    """
    domain = next((branch.domain for branch in spec.parameters.branches.get(name, ()) if branch.applies(corner)), None)
    if domain is None:
        return None
    values = [int(value) for value in domain.examples()]
    mean = sum(values) / len(values)
    if isinstance(domain, Range) and domain.log:
        # Optuna draws from half below the range to half above it, uniformly in the logarithm, and rounds.
        low, high = domain.low - 0.5, domain.high + 0.5
        mean = (high - low) / math.log(high / low)
    return Drawn(least=min(values), mean=mean, most=max(values))

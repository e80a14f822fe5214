"""Suggestions of plain Optuna samplers over a spec's search space."""

from __future__ import annotations

import optuna

from sweeper.spec.domains import Choices, Range, Value


def suggest(trial: optuna.Trial, name: str, domain: Choices | Range) -> Value:
    """Return the sampler's value of a parameter; integers and steps are not supported."""
    if isinstance(domain, Choices):
        choice: Value = trial.suggest_categorical(name, domain.values)
        return choice
    assert not domain.integer and domain.step is None, "no benchmark searches integers or steps"
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)

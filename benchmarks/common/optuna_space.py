"""Suggestions of plain Optuna samplers over a spec's search space."""

from __future__ import annotations

import optuna

from sweeper.spec.domains import Choices, Range, Value


def suggest(trial: optuna.Trial, name: str, domain: Choices | Range) -> Value:
    """Return the sampler's value of a parameter; steps are not supported."""
    if isinstance(domain, Choices):
        choice: Value = trial.suggest_categorical(name, domain.values)
        return choice
    assert domain.step is None, "no benchmark searches in steps"
    if domain.integer:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)

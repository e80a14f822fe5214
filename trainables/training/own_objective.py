"""Objectives of a user's own: a function ``package.module:function`` that gives the loss of each pair."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trainables.row_function import RowFunction, Rows, row_function
from trainables.settings.parameters import Parameters

SHARED = ("beta", "label_smoothing", "desirable_weight", "undesirable_weight")
"""Parameters of the objectives that are built in; a function may have them too."""


def own_losses(parameters: Parameters, rows: Rows, beta: float | None) -> Tensor:
    """Return the loss of each pair: (B,).

    Args:
        parameters: of a trial whose objective is a function.
        rows: logits of policy and reference, chosen and rejected, as in ``objectives.dpo``.
        beta: see ``arguments``.

    Raises:
        ValueError: the function returns something else.
    """
    assert parameters.own_objective is not None
    function = row_function(parameters.own_objective)
    return function.values(rows, **arguments(function, parameters, beta))


def check_own_objective(parameters: Parameters, beta: float | None) -> None:
    """Call a trial's function on a small batch of made-up pairs.

    Raises:
        ValueError: there is no such function, or it does not take the trial's parameters, or is no loss.
    """
    assert parameters.own_objective is not None
    function = row_function(parameters.own_objective)
    function.check(differentiable=True, second=True, **arguments(function, parameters, beta))


def arguments(function: RowFunction, parameters: Parameters, beta: float | None) -> dict[str, Any]:
    """Return the values of a function's own arguments in a trial.

    Args:
        beta: beta of the trial, also where it is given relative to m0; None: it has none.

    Raises:
        ValueError: the trial lacks a value, or has one that the function does not take.
    """
    given: dict[str, Any] = dict(parameters.model_extra or {})
    given |= {name: getattr(parameters, name) for name in SHARED if name in parameters.model_fields_set}
    given.pop("beta", None)
    given |= {} if beta is None else {"beta": beta}
    taken = ", ".join(function.arguments) or "none"
    for name, needed in function.arguments.items():
        if name in Parameters.model_fields and name not in SHARED:
            raise ValueError(
                f"{function.name}: its argument `{name}` is a parameter of every trial; give it another name"
            )
        if needed and name not in given:
            raise ValueError(f"{function.name} needs `{name}`, which has no value")
    for name in given:
        if name not in function.arguments:
            raise ValueError(f"{function.name} has no `{name}`; its parameters: {taken}")
    return given

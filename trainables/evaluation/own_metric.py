"""Metrics of a user's own: a function ``package.module:function`` that gives a number for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.row_function import RowFunction, Rows, row_function
from trainables.settings.typographic import OwnMetric


def own_values(metric: OwnMetric, rows: Rows) -> Tensor:
    """Return a number for each image (B,); NaN for attacked images whose word is no class.

    Args:
        rows: logits of policy and reference, true and written class; a written class of -1 stands for none.

    Raises:
        ValueError: there is no such function, or it returns something else, or a number that is not finite.
    """
    function = _function(metric)
    shown = rows[3] >= 0 if metric.view == "attacked" else torch.ones_like(rows[3], dtype=torch.bool)
    values = rows[0].new_full((len(rows[0]),), torch.nan)
    if bool(shown.any()):
        policy, reference, true, written = (part[shown] for part in rows)
        values[shown] = function.values((policy, reference, true, written)).to(values)
        if not bool(values[shown].isfinite().all()):
            raise ValueError(f"{metric.function} returned a number that is not finite")
    return values


def check_own_metric(metric: OwnMetric) -> None:
    """Call a metric's function on a small batch of made-up images.

    Raises:
        ValueError: there is no such function, or it is no metric.
    """
    _function(metric).check(differentiable=False, second=metric.view == "attacked")


def _function(metric: OwnMetric) -> RowFunction:
    function = row_function(metric.function)
    if needed := [name for name, is_needed in function.arguments.items() if is_needed]:
        raise ValueError(f"{metric.function} needs `{needed[0]}`; a metric has no parameters, give it a default")
    return function

"""Functions of a user's own that give a number for each row of logits: losses of pairs, metrics of images.

They have the arguments of the objectives that are built in, ``(policy_logits, reference_logits, chosen, rejected)``,
then arguments with names. A row's number depends on that row alone: micro-batches, workers and the size of an
evaluation batch must not change it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.own_code import described, function_named, module_in

Rows = tuple[Tensor, Tensor, Tensor, Tensor]
"""Logits (B, C) of policy and reference, and two (B,) class indices of each row."""
GIVEN = 4
"""Number of arguments that every function gets."""
_ROWS, _CLASSES, _SPREAD = 6, 5, 8.0
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class RowFunction:
    """A function that gives a number for each row."""

    name: str
    """``package.module:function``."""
    function: Callable[..., Any]
    arguments: Mapping[str, bool]
    """Name of each further argument -> whether it needs a value."""

    def values(self, rows: Rows, **arguments: Any) -> Tensor:
        """Return a number for each row: (B,).

        Raises:
            ValueError: the function returns something else.
        """
        return self._checked(self.function(*rows, **arguments), len(rows[0]))

    def check(self, *, differentiable: bool, second: bool, **arguments: Any) -> None:
        """Call the function on made-up rows of a small batch, also with a policy that equals the reference.

        Args:
            differentiable: whether a gradient for the policy's logits is needed.
            second: whether rows have a second class; otherwise it is -1.

        Raises:
            ValueError: the function fails, or its values or gradients are not finite numbers, or a row's value depends
                on other rows.
        """
        for rows in _made_up(second):
            rows[0].requires_grad_(differentiable)
            before = [part.detach().clone() for part in rows]
            values = self._called(rows, arguments)
            if not bool(values.isfinite().all()):
                given = ", ".join(f"{name} {value}" for name, value in arguments.items())
                raise ValueError(
                    f"{self.name} returned a number that is not finite" + (f", with {given}" if given else "")
                )
            alone = self._called((rows[0][:2], rows[1][:2], rows[2][:2], rows[3][:2]), arguments)
            if not torch.allclose(values[:2], alone, rtol=_TOLERANCE, atol=_TOLERANCE):
                raise ValueError(
                    f"{self.name} gives a row another number beside other rows than without them; a row's number must "
                    "depend on that row alone"
                )
            if any(not torch.equal(part, was) for part, was in zip(rows, before, strict=True)):
                raise ValueError(f"{self.name} changes the tensors that it is given; leave them as they are")
            if differentiable:
                self._check_gradient(values, rows[0])

    def _called(self, rows: Rows, arguments: Mapping[str, Any]) -> Tensor:
        try:
            returned = self.function(*rows, **arguments)
        except Exception as error:  # code of other authors can raise any error
            raise ValueError(f"{self.name} failed on a small batch: {described(error)}") from error
        return self._checked(returned, len(rows[0]))

    def _checked(self, values: Any, count: int) -> Tensor:
        if not isinstance(values, Tensor):
            raise ValueError(
                f"{self.name} returned a {type(values).__name__}; return a tensor of a number for each row"
            )
        if values.shape != (count,):
            raise ValueError(
                f"{self.name} returned a tensor of shape {tuple(values.shape)} for {count} rows; return a number for "
                f"each row, ({count},), not their mean"
            )
        if not values.dtype.is_floating_point:
            raise ValueError(f"{self.name} returned numbers of type {values.dtype}; return floating-point numbers")
        return values

    def _check_gradient(self, values: Tensor, logits: Tensor) -> None:
        if not values.requires_grad:
            raise ValueError(f"{self.name} returned numbers without a gradient for the policy's logits")
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        if not bool(gradient.isfinite().all()):
            raise ValueError(f"{self.name} has a gradient that is not finite")


def row_function(name: str) -> RowFunction:
    """Return the function ``package.module:function``.

    Raises:
        ValueError: there is no such function, or it takes other arguments, or its code is in another file.
    """
    function = function_named(name)
    if not inspect.isfunction(function):
        raise ValueError(f"{name} is a {type(function).__name__}, not a function; write it as `def`")
    if function.__module__ != module_in(name):
        raise ValueError(
            f"{name} is defined in {function.__module__}; name it there, because a sweep knows code by the file of the "
            "module that it names"
        )
    kinds = inspect.Parameter
    parameters = list(inspect.signature(function).parameters.values())
    given = [one for one in parameters[:GIVEN] if one.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    if len(given) < GIVEN:
        raise ValueError(
            f"{name}{inspect.signature(function)}: write {GIVEN} arguments first (policy_logits, reference_logits, "
            "chosen, rejected), then those of its own"
        )
    own = parameters[GIVEN:]
    if unnamed := [one for one in own if one.kind not in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]:
        raise ValueError(f"{name}: the argument {unnamed[0]} has no name; name each argument of its own")
    return RowFunction(name, function, {one.name: one.default is kinds.empty for one in own})


def _made_up(second: bool) -> Iterator[Rows]:
    """Yield rows of random logits, then rows whose policy equals the reference, as at the start of a trial."""
    draw = torch.Generator().manual_seed(0)
    policy, reference = (_SPREAD * torch.randn(_ROWS, _CLASSES, generator=draw) for _ in range(2))
    first = torch.arange(_ROWS) % _CLASSES
    other = (first + 1) % _CLASSES if second else torch.full_like(first, -1)
    yield policy, reference, first, other
    yield reference.clone(), reference, first, other

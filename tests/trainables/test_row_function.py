"""Functions of a user's own are called on a small batch, and refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.own_code import find_module, install
from trainables.row_function import row_function

SOURCE = """\
import functools
import torch
import torch.nn.functional as F
from examples.objectives import simpo

def margin(p, chosen, rejected):
    return (p.gather(1, chosen[:, None]) - p.gather(1, rejected[:, None]))[:, 0]

def good(p, r, chosen, rejected, *, delta=1.0):
    return (delta - margin(p, chosen, rejected)).clamp(min=0)

def by_position(policy_logits, reference_logits, chosen, rejected, /, delta):
    return delta * margin(policy_logits, chosen, rejected)

def few(p, r, chosen): return chosen
def keywords(p, r, c, w, **more): return margin(p, c, w)
def starred(p, r, c, w, *more): return margin(p, c, w)
partial = functools.partial(good, delta=2.0)
def mean(p, r, c, w): return margin(p, c, w).mean()
def classes(p, r, c, w): return p
def number(p, r, c, w): return 1.0
def whole(p, r, c, w): return c
def not_real(p, r, c, w): return torch.complex(margin(p, c, w), margin(p, c, w))
def infinite(p, r, c, w, *, beta=0.0): return margin(p, c, w) / beta
def root(p, r, c, w): return (margin(p, c, w) - margin(r, c, w)).abs().sqrt()
def at_start(p, r, c, w): return (margin(p, c, w) - margin(r, c, w)).abs().log()
def centred(p, r, c, w): return margin(p, c, w) - margin(p, c, w).mean()
def random(p, r, c, w): return margin(p, c, w) + margin(p, c, w).new_empty(len(p)).uniform_()
def without_gradient(p, r, c, w): return margin(p.detach(), c, w)
def changing(p, r, c, w):
    r.zero_()
    return margin(p, c, w)
def failing(p, r, c, w): return {}["key"]
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("rows")
    (folder / "rows_of_tests.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        install(find_module("rows_of_tests"))
    return "rows_of_tests"


def test_arguments_of_its_own_are_those_after_the_first_four(module: str) -> None:
    assert row_function(f"{module}:good").arguments == {"delta": False}
    assert row_function(f"{module}:by_position").arguments == {"delta": True}
    row_function(f"{module}:good").check(differentiable=True, second=True)
    row_function(f"{module}:by_position").check(differentiable=True, second=True, delta=0.5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("missing", "rows_of_tests has no function missing"),
        ("torch", "rows_of_tests has no function torch"),
        ("few", r"few\(p, r, chosen\): write 4 arguments first \(policy_logits, reference_logits, chosen, rejected\)"),
        ("keywords", r"the argument \*\*more has no name"),
        ("starred", r"the argument \*more has no name"),
        ("partial", "is a partial, not a function"),
        ("simpo", "is defined in examples.objectives; name it there"),
        ("mean", r"returned a tensor of shape \(\) for 6 rows; return a number for each row, \(6,\), not their mean"),
        ("classes", r"shape \(6, 5\) for 6 rows"),
        ("number", "returned a float; return a tensor"),
        ("whole", "numbers of type torch.int64; return floating-point numbers"),
        ("not_real", "numbers of type torch.complex64"),
        ("infinite", "returned a number that is not finite$"),
        ("root", "has a gradient that is not finite"),
        ("at_start", "returned a number that is not finite"),
        ("centred", "gives a row another number beside other rows than without them"),
        ("random", "gives a row another number beside other rows than without them"),
        ("without_gradient", "returned numbers without a gradient for the policy's logits"),
        ("changing", "changes the tensors that it is given"),
        ("failing", r"failed on a small batch: KeyError: 'key' .*rows_of_tests.py:\d+\)$"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(module: str, function: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        row_function(f"{module}:{function}").check(differentiable=True, second=True)
    assert str(caught.value).startswith(f"{module}:{function}") and "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_told_with_the_parameters(module: str) -> None:
    with pytest.raises(ValueError, match="that is not finite, with beta 0.0$"):
        row_function(f"{module}:infinite").check(differentiable=True, second=True, beta=0.0)

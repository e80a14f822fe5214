"""Recipes: which anchors are trained, and what is mixed from them. None knows more than the ranges of the spec, but
for what its name says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.search.response_table import BETAS, LAMBDAS, LEARNING_RATES
from benchmarks.search.table import Part
from benchmarks.soup.mixing import Kitchen, Mixed, Value, linear, lines, logarithmic
from sweeper.front.pareto import hypervolume
from trainables.settings.parameters import Parameters

PLACES, STRENGTHS = (1 / 3, 2 / 3), (0.5, 0.75, 1.0)
"""Of mixes; between more than two anchors only the middle."""
PROBED, KEPT, RUNG = 12, 3, 1 / 3
LADDER = 6


@dataclass(frozen=True)
class Scope:
    """What is tuned, and the settings that a recipe may know without a search: ranges and their middles."""

    tune: Part

    def learning_rate(self, place: float) -> float:
        """At a place in [0, 1] of its range, in the logarithm."""
        low, high = LEARNING_RATES[self.tune]
        return float(low * (high / low) ** place)

    def parameters(
        self, objective: str, lambda_reg: float, place: float = 0.5, beta: float | None = None
    ) -> Parameters:
        """``place``: of the learning rate. ``beta``: the middle of its range when left out."""
        if beta is None and objective in BETAS:
            beta = math.sqrt(BETAS[objective][0] * BETAS[objective][1])
        found = {"objective": objective, "tune": self.tune, "lambda_reg": lambda_reg, "beta": beta}
        return Parameters.model_validate(found | {"learning_rate": self.learning_rate(place)})


Cook = Callable[[Kitchen, Scope], list[Mixed]]


def served(
    kitchen: Kitchen, anchors: Sequence[Parameters], mix: Any = linear, *, between: bool = True, longer: int = 1
) -> list[Mixed]:
    """Trains the anchors and looks at the lines between them and to the untouched weights."""
    weights = [kitchen.anchor(parameters, longer=longer).weights for parameters in anchors]
    untouched = kitchen.untouched(anchors[0])
    places = () if not between else PLACES if len(anchors) == 2 else (0.5,)
    return kitchen.taste(anchors[0], lines(mix, untouched, weights, places, STRENGTHS))


def single(longer: int) -> Cook:
    """Cross-entropy in the middle of its ranges."""

    def cook(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
        return served(kitchen, [scope.parameters("cross_entropy", math.sqrt(LAMBDAS[0] * LAMBDAS[1]))], longer=longer)

    return cook


def ends(objective: str, mix: Any = linear, *, between: bool = True) -> Cook:
    """Least and most regularised, else in the middle of their ranges."""

    def cook(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
        anchors = [scope.parameters(objective, lambda_reg) for lambda_reg in LAMBDAS]
        return served(kitchen, anchors, mix, between=between)

    return cook


def soup(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
    """What the sampler ``soup`` trains: the middle and both ends of lambda, each with its own strengths."""
    places = (math.sqrt(LAMBDAS[0] * LAMBDAS[1]), *LAMBDAS)
    anchors = [scope.parameters("cross_entropy", lambda_reg) for lambda_reg in places]
    return served(kitchen, anchors, between=False)


def corners(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
    """Both ends of lambda at a low and a high learning rate."""
    anchors = [scope.parameters("cross_entropy", value, place) for value in LAMBDAS for place in (0.4, 0.8)]
    return served(kitchen, anchors)


def drawn_rate(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
    """The two ends of lambda where nobody knows a good learning rate: one drawn from its range."""
    place = float(torch.rand((), generator=torch.Generator().manual_seed(kitchen.seed)))
    return served(kitchen, [scope.parameters("cross_entropy", value, place) for value in LAMBDAS])


def ladder(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
    """A ladder of learning rates over their range, each to a rung; the best one trains both ends of lambda.

    Needs nothing but the ranges of the spec, and draws nothing.
    """
    middle = math.sqrt(LAMBDAS[0] * LAMBDAS[1])
    found = []
    for step in range(LADDER):
        place = step / (LADDER - 1)
        found.append((kitchen.anchor(scope.parameters("cross_entropy", middle, place), until=RUNG).validation, place))
    _, best = max(found, key=lambda one: sum(one[0]))
    return served(kitchen, [scope.parameters("cross_entropy", value, best) for value in LAMBDAS])


def objectives(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
    """Cross-entropy and DPO, each least and most regularised."""
    return served(kitchen, [scope.parameters(name, value) for name in ("cross_entropy", "dpo") for value in LAMBDAS])


def probed(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
    """Random trials up to a rung; those that together span the largest area there go on as anchors."""
    generator = torch.Generator().manual_seed(kitchen.seed)
    names = ("dpo", "ipo", "kto", "cross_entropy")
    drawn: list[tuple[Parameters, Value]] = []
    for _ in range(PROBED):
        objective = names[int(torch.randint(4, (), generator=generator))]
        at_beta, at_lambda, place = torch.rand(3, generator=generator).tolist()
        low, high = BETAS.get(objective, (1.0, 1.0))
        beta = low * (high / low) ** at_beta if objective in BETAS else None
        lambda_reg = LAMBDAS[0] * (LAMBDAS[1] / LAMBDAS[0]) ** at_lambda
        parameters = scope.parameters(objective, lambda_reg, place, beta)
        drawn.append((parameters, kitchen.anchor(parameters, until=RUNG).validation))
    chosen: list[tuple[Parameters, Value]] = []
    for _ in range(KEPT):
        chosen.append(max((one for one in drawn if one not in chosen), key=lambda one: _area(chosen, one, drawn)))
    return served(kitchen, [parameters for parameters, _ in chosen])


def _area(
    chosen: Sequence[tuple[Parameters, Value]],
    one: tuple[Parameters, Value],
    drawn: Sequence[tuple[Parameters, Value]],
) -> tuple[float, float]:
    """Hypervolume of the chosen ones with one more, over the worst of both goals drawn; then its robust accuracy."""
    worst = min(value[0] for _, value in drawn) - 1e-3, min(value[1] for _, value in drawn) - 1e-3
    return hypervolume([value for _, value in [*chosen, one]], worst), one[1][1]


def conditioned(epochs: int) -> Cook:
    """One training over all weights of the regulariser."""

    def cook(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
        parameters = scope.parameters("cross_entropy", 1.0)
        generator = torch.Generator().manual_seed(kitchen.seed)
        both = kitchen.line(parameters, LAMBDAS, epochs=epochs, generator=generator)
        return kitchen.taste(parameters, lines(linear, kitchen.untouched(parameters), both, PLACES, STRENGTHS))

    return cook


RECIPES: dict[str, Cook] = {
    "one training (CE, lambda in the middle), towards untouched": single(1),
    "the same, twice as long": single(2),
    "CE, middle and 2 ends of lambda, not mixed (sampler: soup)": soup,
    "CE, 2 ends of lambda, not mixed": ends("cross_entropy", between=False),
    "CE, 2 ends of lambda": ends("cross_entropy"),
    "DPO, 2 ends of lambda": ends("dpo"),
    "CE and DPO, 2 ends of lambda each": objectives,
    "CE, 2 lambdas x 2 learning rates": corners,
    "CE, 2 ends of lambda, learning rate drawn": drawn_rate,
    f"{KEPT} anchors of {PROBED} random trials probed to 1/3": probed,
    f"learning rate by {LADDER} trials to 1/3, then CE, 2 ends of lambda": ladder,
    "conditioned on lambda, one training": conditioned(3),
    "conditioned on lambda, twice as long": conditioned(6),
}
TRANSFORM_RECIPES: dict[str, Cook] = {"CE, 2 ends of lambda, log W^T W": ends("cross_entropy", logarithmic)}

"""Strategies: which anchors are trained, and which mixes of them are evaluated.

A strategy knows the ranges of the spec and what its name says, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.search.response_table import BETAS, LAMBDAS, LEARNING_RATES
from benchmarks.search.table import Part
from benchmarks.soup.mixing import Mix, MixedPoint, Mixer, Value, linear, lines, logarithmic
from sweeper.search.pareto import hypervolume
from trainables.settings.parameters import Parameters

PLACES, STRENGTHS = (1 / 3, 2 / 3), (0.5, 0.75, 1.0)
"""Of mixes. More than two anchors are mixed in the middle only."""
PROBED, KEPT, RUNG = 12, 3, 1 / 3
"""Random trials of ``probed``, anchors chosen from them, and the share of the steps they are probed to."""
LADDER = 6
"""Learning rates that ``ladder`` tries."""
LAMBDA_MIDDLE = math.sqrt(LAMBDAS[0] * LAMBDAS[1])


@dataclass(frozen=True)
class Scope:
    """What is tuned, and the settings that are known without a search: ranges and their middles."""

    tune: Part

    def learning_rate(self, place: float) -> float:
        """Return the learning rate at a place in [0, 1] of its logarithmic range."""
        low, high = LEARNING_RATES[self.tune]
        return float(low * (high / low) ** place)

    def parameters(
        self, objective: str, lambda_reg: float, place: float = 0.5, beta: float | None = None
    ) -> Parameters:
        """``place``: of the learning rate in its range. ``beta``: None for the middle of its range."""
        if beta is None and objective in BETAS:
            beta = math.sqrt(BETAS[objective][0] * BETAS[objective][1])
        settings = {"objective": objective, "tune": self.tune, "lambda_reg": lambda_reg, "beta": beta}
        return Parameters.model_validate(settings | {"learning_rate": self.learning_rate(place)})


Strategy = Callable[[Mixer, Scope], list[MixedPoint]]


def train_and_mix(
    mixer: Mixer, anchors: Sequence[Parameters], mix: Mix = linear, *, between: bool = True, longer: int = 1
) -> list[MixedPoint]:
    """Train the anchors and evaluate the lines to the untouched weights and, if ``between``, between the anchors."""
    weights = [mixer.train_anchor(parameters, longer=longer).weights for parameters in anchors]
    untouched = mixer.untouched(anchors[0])
    places = () if not between else PLACES if len(anchors) == 2 else (0.5,)
    return mixer.evaluate(anchors[0], lines(mix, untouched, weights, places, STRENGTHS))


def single(longer: int) -> Strategy:
    """Cross-entropy in the middle of its ranges, with ``longer`` times the epochs."""

    def strategy(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
        return train_and_mix(mixer, [scope.parameters("cross_entropy", LAMBDA_MIDDLE)], longer=longer)

    return strategy


def ends(objective: str, mix: Mix = linear, *, between: bool = True) -> Strategy:
    """The least and the most regularised trial, all other parameters in the middle of their ranges."""

    def strategy(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
        anchors = [scope.parameters(objective, lambda_reg) for lambda_reg in LAMBDAS]
        return train_and_mix(mixer, anchors, mix, between=between)

    return strategy


def soup(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
    """The trials of the sampler ``soup``: the middle and both ends of lambda, at several strengths, not mixed."""
    anchors = [scope.parameters("cross_entropy", lambda_reg) for lambda_reg in (LAMBDA_MIDDLE, *LAMBDAS)]
    return train_and_mix(mixer, anchors, between=False)


def corners(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
    """Both ends of lambda at a low and a high learning rate."""
    anchors = [scope.parameters("cross_entropy", value, place) for value in LAMBDAS for place in (0.4, 0.8)]
    return train_and_mix(mixer, anchors)


def drawn_rate(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
    """Both ends of lambda at a learning rate drawn from its range: what a user without a good one would do."""
    place = float(torch.rand((), generator=torch.Generator().manual_seed(mixer.seed)))
    return train_and_mix(mixer, [scope.parameters("cross_entropy", value, place) for value in LAMBDAS])


def ladder(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
    """Equally spaced learning rates, each trained to a rung; both ends of lambda are trained at the best of them.

    Deterministic: nothing is drawn.
    """
    candidates = []
    for step in range(LADDER):
        place = step / (LADDER - 1)
        parameters = scope.parameters("cross_entropy", LAMBDA_MIDDLE, place)
        candidates.append((mixer.train_anchor(parameters, until=RUNG).validation, place))
    _, best = max(candidates, key=lambda candidate: sum(candidate[0]))
    return train_and_mix(mixer, [scope.parameters("cross_entropy", value, best) for value in LAMBDAS])


def objectives(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
    """The least and the most regularised trial of cross-entropy and of DPO."""
    return train_and_mix(
        mixer, [scope.parameters(name, value) for name in ("cross_entropy", "dpo") for value in LAMBDAS]
    )


def probed(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
    """Random trials up to a rung; those with the largest joint hypervolume there are trained on as anchors."""
    generator = torch.Generator().manual_seed(mixer.seed)
    names = ("dpo", "ipo", "kto", "cross_entropy")
    drawn: list[tuple[Parameters, Value]] = []
    for _ in range(PROBED):
        objective = names[int(torch.randint(4, (), generator=generator))]
        at_beta, at_lambda, place = torch.rand(3, generator=generator).tolist()
        low, high = BETAS.get(objective, (1.0, 1.0))
        beta = low * (high / low) ** at_beta if objective in BETAS else None
        lambda_reg = LAMBDAS[0] * (LAMBDAS[1] / LAMBDAS[0]) ** at_lambda
        parameters = scope.parameters(objective, lambda_reg, place, beta)
        drawn.append((parameters, mixer.train_anchor(parameters, until=RUNG).validation))
    chosen: list[tuple[Parameters, Value]] = []
    for _ in range(KEPT):
        left = [trial for trial in drawn if trial not in chosen]
        chosen.append(max(left, key=lambda trial: _area(chosen, trial, drawn)))
    return train_and_mix(mixer, [parameters for parameters, _ in chosen])


def _area(
    chosen: Sequence[tuple[Parameters, Value]],
    candidate: tuple[Parameters, Value],
    drawn: Sequence[tuple[Parameters, Value]],
) -> tuple[float, float]:
    """Return (hypervolume of the chosen trials and the candidate, robust accuracy of the candidate).

    Reference point: just below the worst drawn value of each goal.
    """
    worst = min(value[0] for _, value in drawn) - 1e-3, min(value[1] for _, value in drawn) - 1e-3
    return hypervolume([value for _, value in [*chosen, candidate]], worst), candidate[1][1]


def conditioned(epochs: int) -> Strategy:
    """One training over all weights of the regulariser (``Mixer.train_line``)."""

    def strategy(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
        parameters = scope.parameters("cross_entropy", 1.0)
        generator = torch.Generator().manual_seed(mixer.seed)
        both = mixer.train_line(parameters, LAMBDAS, epochs=epochs, generator=generator)
        return mixer.evaluate(parameters, lines(linear, mixer.untouched(parameters), both, PLACES, STRENGTHS))

    return strategy


STRATEGIES: dict[str, Strategy] = {
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
TRANSFORM_STRATEGIES: dict[str, Strategy] = {"CE, 2 ends of lambda, log W^T W": ends("cross_entropy", logarithmic)}

"""The first points of a search: the learning rate first, then one change at a time. Pure; imports no Ray.

The first points decide more about a user's result than the sampler does (benchmarks/results/search.md), and their
learning rate decides more than anything else. In the order of the list, as far as the number of trials allows:

1. cross-entropy in the middle of all ranges, on the strongest scope;
2. the same at a lower and at a higher learning rate, and further out while the best rate lies at the edge;
3. the middle of each further scope (attribute task: of each further target);
4. the best of these with the most and with the least ``lambda_reg``;
5. a point for each further objective.

The next point depends only on the trials in the study, so a resumed search goes on in the same way. A point that
depends on the result of another point waits for that result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeper.records import TrialRecord, UntouchedModel
from sweeper.search.learning_rate import ModelSize, usual_rate
from sweeper.search.pareto import hypervolume
from sweeper.spec.bounds import Bounds, keeps
from sweeper.spec.domains import Choices, Fixed, Range, Value
from sweeper.spec.middle import Preferences, middle_point, values_of
from sweeper.spec.space import Space
from sweeper.spec.spec import Spec
from trainables.records import Goals, oriented
from trainables.tasks.kind import Baseline

FEW_TRIALS, SOME_TRIALS = 5, 12
"""Searches of at most ``FEW_TRIALS`` trials try the learning rate only; of at most ``SOME_TRIALS``, further scopes and
``lambda_reg`` too.
"""
FACTOR = 5.0
"""Factor between the learning rates of the bracket."""
DECADE = 10.0
"""Factor around the best learning rate that limits the search if the range is ``auto``."""
MOST_EXTENSIONS = 4
PAPER_PARAMETERS = 50_000_000
"""Image towers with at least this number of parameters count as being of the paper's size."""
PAPER: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "kto": {"beta": (1.5,), "lambda_reg": (1.0,)},
    "dpo": {"beta": (1.0,), "lambda_reg": (1.0,)},
    "ipo": {"beta": (0.01,), "lambda_reg": (1.0,)},
}
"""The paper's settings by objective (Afzali et al. 2025, appendix)."""
MIDDLE = "middle of the ranges"


@dataclass(frozen=True)
class FirstPoint:
    name: str
    """Description of the point, for people and for the study."""
    parameters: dict[str, Value]


@dataclass(frozen=True)
class Worth:
    """Value of a trial that has ended."""

    hypervolume: float
    """Hypervolume of the trial's points on validation."""
    collapsed: bool
    """Whether it failed, or its last weights miss the bound of the first goal: its learning rate is too high."""


@dataclass(frozen=True)
class Bracket:
    """Trials that differ only in their learning rate."""

    tried: Mapping[float, TrialRecord]
    """Learning rate -> trial, of all trials that have begun."""
    waiting: tuple[float, ...]
    """Learning rates to be tried now."""
    best: float | None
    """The best learning rate; None until all are tried."""


class FirstPoints:
    """The first points of one search."""

    def __init__(
        self,
        space: Space,
        *,
        trials: int,
        order: Preferences,
        usual: Callable[[Mapping[str, Value]], float],
        worth: Callable[[TrialRecord], Worth],
        named: bool = False,
        paper: bool = False,
    ) -> None:
        """Plan the first points.

        Args:
            trials: number of trials of the search.
            order: parameter -> values that are tried first (``TaskKind.tried_first``).
            usual: returns a starting learning rate, used if the range is ``auto``, given the other parameters.
            worth: returns the value of a trial that has ended.
            named: whether the spec names the points, so that none are planned here.
            paper: whether further objectives begin with the paper's settings.
        """
        self._space, self._trials, self._order, self._usual = space, trials, order, usual
        self._worth, self._named, self._paper = worth, named, paper
        self._variants = _variants(space, order)
        self._middle = FirstPoint(MIDDLE, self._point(self._variants[0]))

    def next(self, trials: Sequence[TrialRecord]) -> FirstPoint | None:
        """Return the point to try next; None if there is none, or none yet."""
        for point in () if self._named else self._planned(trials):
            if _trial_at(point.parameters, trials) is None:
                return point
        return None

    def parts(self, trials: Sequence[TrialRecord]) -> dict[str, tuple[float, float]]:
        """Return by name in the study the (low, high) learning rates to search in, if the range is ``auto``.

        They are a decade to both sides of the usual rate, or of the best rate once it is known.
        """
        best = self.bracket(trials).best
        parts = dict[str, tuple[float, float]]()
        for variant in self._variants:
            point = self._point(variant)
            for branch in self._space.branches.get("learning_rate", ()):
                if branch.applies(point) and isinstance(branch.domain, Range) and branch.domain.auto:
                    centre = self._usual(point) * self._correction(best)
                    parts.setdefault(branch.name, (centre / DECADE, centre * DECADE))
        return parts

    def bracket(self, trials: Sequence[TrialRecord]) -> Bracket:
        """Return the known results about the learning rate of the first point, and the rates to try next."""
        domain = self._rates(self._middle.parameters)
        start = _trial_at(self._middle.parameters, trials)
        if domain is None or isinstance(domain, Fixed) or start is None:
            return Bracket({}, (), None)
        rate = float(self._middle.parameters["learning_rate"])
        tried = {rate: start}
        sides = [side for side in (_further(domain, rate, -1), _further(domain, rate, 1)) if side is not None]
        found = {side: _trial_at(self._at_rate(side), trials) for side in sides}
        tried |= {side: trial for side, trial in found.items() if trial is not None}
        if waiting := tuple(side for side, trial in found.items() if trial is None):
            return Bracket(tried, waiting, None)
        for _ in range(MOST_EXTENSIONS):
            if any(trial.state == "running" for trial in tried.values()):
                return Bracket(tried, (), None)
            further = self._extension(domain, tried)
            if further is None:
                break
            trial = _trial_at(self._at_rate(further), trials)
            if trial is None:
                return Bracket(tried, (further,), None)
            tried[further] = trial
        if any(trial.state == "running" for trial in tried.values()):
            return Bracket(tried, (), None)
        return Bracket(tried, (), self._best_rate(tried))

    def _planned(self, trials: Sequence[TrialRecord]) -> Iterator[FirstPoint]:
        """Yield all points that may be tried now, including those that were tried already."""
        yield self._middle
        bracket = self.bracket(trials)
        for rate in bracket.waiting:
            yield FirstPoint(f"learning rate {rate:g}", self._at_rate(rate))
        if self._trials <= FEW_TRIALS:
            return
        middles = [self._middle]
        for variant in self._variants[1:]:
            name = "middle of " + " ".join(str(value) for values in variant.values() for value in values)
            known = next((trial for trial in trials if trial.first_point == name), None)
            point = self._point(variant, bracket.best) if known is None else known.parameters
            middles.append(FirstPoint(name, point))
            yield middles[-1]
        ended = [_trial_at(point.parameters, trials) for point in middles] + list(bracket.tried.values())
        if bracket.waiting or any(trial is None or trial.state == "running" for trial in ended):
            return
        best = max((trial for trial in ended if trial is not None), key=lambda trial: self._worth(trial).hypervolume)
        for position, word in ((1.0, "most"), (0.0, "least")):
            preferred = {name: (value,) for name, value in best.parameters.items() if name != "lambda_reg"}
            point = middle_point(self._space, preferred, positions={"lambda_reg": position})
            yield FirstPoint(f"{word} lambda_reg", point)
        if self._trials <= SOME_TRIALS:
            return
        for objective in _in_order(values_of(self._space, "objective"), self._order.get("objective", ())):
            point_of_objective = self._with_objective(objective, best)
            if point_of_objective is not None:
                yield FirstPoint(str(objective), point_of_objective)

    def _point(self, variant: Preferences, best: float | None = None) -> dict[str, Value]:
        """Return the middle point of a variant.

        Args:
            best: the best learning rate of the first point; None if not known yet.
        """
        preferred = {**self._order, **variant}
        point = middle_point(self._space, preferred)
        domain = self._rates(point)
        if isinstance(domain, Range) and domain.auto:
            rate = float(f"{self._usual(point) * self._correction(best):.2g}")
            return middle_point(self._space, preferred, rate=rate)
        return point

    def _correction(self, best: float | None) -> float:
        """Return the factor between the best and the usual learning rate of the first point; 1 if not known yet."""
        return 1.0 if best is None else best / self._usual(self._middle.parameters)

    def _at_rate(self, rate: float) -> dict[str, Value]:
        """Return the first point with another learning rate."""
        preferred = {name: (value,) for name, value in self._middle.parameters.items() if name != "learning_rate"}
        return middle_point(self._space, preferred, rate=rate)

    def _with_objective(self, objective: Value, best: TrialRecord) -> dict[str, Value] | None:
        """Return the point with this objective nearest to ``best``; None if there is none or ``best`` has it."""
        if best.parameters.get("objective") == objective or objective == "none":
            return None
        rest = ("objective", "beta", "beta_m0", "lambda_reg")
        kept: Preferences = {name: (value,) for name, value in best.parameters.items() if name not in rest}
        paper = PAPER.get(str(objective), {}) if self._paper else {}
        for variant in ({}, *self._variants):
            preferred = {**self._order, **kept, **paper, **variant, "objective": (objective,)}
            rate = best.parameters.get("learning_rate")
            point = middle_point(self._space, preferred, rate=None if rate is None else float(rate))
            if point.get("objective") == objective:
                return point
        return None

    def _rates(self, point: Mapping[str, Value]) -> Fixed | Choices | Range | None:
        """Return the domain of the learning rate at a point; None for a point without a learning rate."""
        branches = self._space.branches.get("learning_rate", ())
        return next((branch.domain for branch in branches if branch.applies(point)), None)

    def _extension(self, domain: Choices | Range, tried: Mapping[float, TrialRecord]) -> float | None:
        """Return a learning rate beyond the tried ones, if the best of them lies at the edge; None otherwise and at the
        end of the domain.
        """
        low, high = min(tried), max(tried)
        worths = {rate: self._worth(trial) for rate, trial in tried.items()}
        best = self._best_rate(tried)
        if worths[best].hypervolume > 0:
            side = -1 if best == low else 1 if best == high else 0
        else:
            collapsed = [rate for rate in sorted(worths) if worths[rate].collapsed]
            side = 1 if not collapsed else -1 if collapsed[0] == low else 0
            if side == 0 and isinstance(domain, Range):
                below = max(rate for rate in tried if rate < collapsed[0])
                return _rounded(domain, math.sqrt(below * collapsed[0]))
        return None if side == 0 else _further(domain, low if side < 0 else high, side)

    def _best_rate(self, tried: Mapping[float, TrialRecord]) -> float:
        return max(tried, key=lambda rate: self._worth(tried[rate]).hypervolume)


def first_points(spec: Spec, untouched: UntouchedModel) -> FirstPoints | None:
    """Return the first points of a sweep; None if its spec plans all trials.

    If the spec names points itself, the first points only limit the learning rates to search in.
    """
    if spec.search.planned:
        return None
    size = _size(untouched)
    return FirstPoints(
        spec.parameters,
        trials=spec.search.trials,
        order=spec.kind.tried_first(spec),
        usual=lambda point: usual_rate(str(point["tune"]), steps_of(spec, untouched.pairs, point), _known(size)),
        worth=worth_of(spec.task_goals(), spec.bounds(untouched.goals), untouched.goals, untouched.chance),
        named=not spec.finds_points,
        paper=size is not None and size.image_parameters >= PAPER_PARAMETERS,
    )


def rated_baselines(spec: Spec, untouched: UntouchedModel) -> list[Baseline]:
    """Return the baselines of a sweep, with the usual learning rate if they name none."""

    def parameters(baseline: Baseline) -> dict[str, Any]:
        own = baseline.parameters
        if "learning_rate" in own:
            return own
        rate = usual_rate(str(own["tune"]), steps_of(spec, untouched.pairs, own), _known(_size(untouched)))
        return {**own, "learning_rate": rate}

    return [replace(baseline, parameters=parameters(baseline)) for baseline in spec.baseline_trials()]


def _size(untouched: UntouchedModel) -> ModelSize | None:
    if untouched.embed_dim is None or untouched.image_parameters is None:
        return None
    return ModelSize(embed_dim=untouched.embed_dim, image_parameters=untouched.image_parameters)


def steps_of(spec: Spec, pairs: int, point: Mapping[str, Value]) -> int:
    """Return the number of steps of a trial.

    Args:
        pairs: number of pairs of a trial with all copies and images.
    """
    share = 1.0
    for name, most in spec.most().items():
        if name in ("copies", "images") and most is not None and name in point:
            share *= float(point[name]) / most
    epochs = int(point.get("epochs", spec.training.epochs))
    return epochs * math.ceil(max(1.0, pairs * share) / spec.training.global_batch_size)


def worth_of(
    goals: Goals, bounds: Bounds, untouched_goals: Mapping[str, float], chance: float
) -> Callable[[TrialRecord], Worth]:
    """Return the function that computes the value of a trial.

    It is the hypervolume of its points that keep all bounds, above the bound of the first goal (``chance`` if there is
    none) and above the untouched model's second goal.
    """
    first = next((bound for bound in bounds if bound.metric == goals[0].metric), None)
    corner = {
        goals[0].metric: chance if first is None else first.value,
        goals[1].metric: untouched_goals[goals[1].metric],
    }

    def worth(trial: TrialRecord) -> Worth:
        if trial.state != "complete" or trial.values is None:
            return Worth(0.0, collapsed=trial.state == "failed")
        points = [oriented(point.values, goals) for point in trial.points if keeps(bounds, point.values)]
        last = oriented(trial.values, goals)[0]
        return Worth(hypervolume(points, oriented(corner, goals)), collapsed=last < oriented(corner, goals)[0])

    return worth


def rate_found(trials: Sequence[TrialRecord], points: FirstPoints) -> str | None:
    """Return a line about the best learning rate; None while it is not known."""
    bracket = points.bracket(trials)
    if bracket.best is None or len(bracket.tried) < 2:
        return None
    others = ", ".join(f"{rate:g}" for rate in sorted(bracket.tried) if rate != bracket.best)
    tune = bracket.tried[bracket.best].parameters["tune"]
    return f"learning rate: {bracket.best:g} is better than {others} (cross-entropy, {tune})"


def _known(size: ModelSize | None) -> ModelSize:
    assert size is not None, "sweeps with `learning_rate: auto` have the size of their model"
    return size


def _variants(space: Space, order: Preferences) -> list[Preferences]:
    """Return the scopes of a space and, for the attribute task, the targets: the strongest of each, then one change at
    a time.
    """
    values = {
        name: _in_order(values_of(space, name), order.get(name, ()))
        for name in ("target", "tune")
        if name in space.branches
    }
    first: Preferences = {name: own[:1] for name, own in values.items() if own}
    changed: list[Preferences] = [{**first, name: (value,)} for name, own in values.items() for value in own[1:]]
    return [first, *changed]


def _in_order(values: Sequence[Value], order: Sequence[Value]) -> list[Value]:
    return sorted(values, key=lambda value: order.index(value) if value in order else len(order))


def _trial_at(parameters: Mapping[str, Value], trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the first trial of the search with these parameters."""
    return next((trial for trial in trials if trial.confirms is None and trial.parameters == parameters), None)


def _further(domain: Choices | Range, rate: float, side: int) -> float | None:
    """Return the next learning rate below (side -1) or above (1); None at the end of the domain."""
    if isinstance(domain, Choices):
        beyond = [float(value) for value in domain.values if (float(value) - rate) * side > 0]
        return min(beyond, key=lambda value: abs(value - rate)) if beyond else None
    factor = FACTOR if domain.auto else min(FACTOR, math.sqrt(domain.high / domain.low)) if domain.low > 0 else FACTOR
    further = _rounded(domain, rate * factor**side)
    return further if (further - rate) * side > 1e-9 * rate else None


def _rounded(domain: Range, rate: float) -> float:
    """Return the rate rounded to three digits, inside the domain."""
    return min(max(float(f"{rate:.3g}"), float(domain.low)), float(domain.high))

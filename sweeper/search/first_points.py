"""The first points of a search: the learning rate first, then one thing changed at a time. Pure; knows no Ray.

What a user gets is decided by the first points more than by the sampler (benchmarks/results/search.md), and by their
learning rate more than by anything else. In the order of the list, as far as the number of trials allows:

1. cross-entropy in the middle of all ranges, on the strongest scope;
2. the same at a lower and at a higher learning rate, and further out while the best lies at the edge;
3. the middle of each further scope (attribute task: of each further target);
4. the best of these with the most and with the least ``lambda_reg``;
5. a point for each further objective.

Which point comes next depends on nothing but the trials in the study: a resumed search goes on with it. A point that
depends on the result of another one is tried when that result is there.
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
"""Searches of at most so many trials try the learning rate only; further scopes and ``lambda_reg`` too."""
FACTOR = 5.0
"""Between the learning rates of the bracket."""
DECADE = 10.0
"""Around the best learning rate: so far out goes the search where the range is ``auto``."""
MOST_EXTENSIONS = 4
PAPER_PARAMETERS = 50_000_000
"""Image towers of at least so many parameters are of the size of the paper's."""
PAPER: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "kto": {"beta": (1.5,), "lambda_reg": (1.0,)},
    "dpo": {"beta": (1.0,), "lambda_reg": (1.0,)},
    "ipo": {"beta": (0.01,), "lambda_reg": (1.0,)},
}
"""The paper's settings by objective (Afzali et al., arXiv 2411.08923, appendix)."""
MIDDLE = "middle of the ranges"


@dataclass(frozen=True)
class FirstPoint:
    name: str
    """What it tries, for people and for the study."""
    parameters: dict[str, Value]


@dataclass(frozen=True)
class Worth:
    """What a trial that has ended is worth."""

    hypervolume: float
    """Of its points on validation."""
    collapsed: bool
    """Whether it failed, or its last weights miss the bound of the first goal: its learning rate is too high."""


@dataclass(frozen=True)
class Bracket:
    """The learning rates that were tried with everything else the same."""

    tried: Mapping[float, TrialRecord]
    """By learning rate, those that have begun."""
    waiting: tuple[float, ...]
    """What is to be tried now."""
    best: float | None
    """None until nothing is left to try."""


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
        """
        Args:
            named: whether the spec names the points, so that none are to be found.
            trials: of the search.
            order: by parameter, the values that are tried first (``TaskKind.tried_first``).
            usual: a learning rate to begin with where the range is ``auto``, given the other parameters.
            worth: of a trial that has ended.
            paper: whether further objectives begin with the paper's settings.
        """
        self._space, self._trials, self._order, self._usual = space, trials, order, usual
        self._worth, self._named, self._paper = worth, named, paper
        self._variants = _variants(space, order)
        self._middle = FirstPoint(MIDDLE, self._point(self._variants[0]))

    def next(self, trials: Sequence[TrialRecord]) -> FirstPoint | None:
        """Return the point to try next; None where there is none, or none yet."""
        for point in () if self._named else self._planned(trials):
            if _trial_at(point.parameters, trials) is None:
                return point
        return None

    def parts(self, trials: Sequence[TrialRecord]) -> dict[str, tuple[float, float]]:
        """Return between which learning rates to search where the range is ``auto``, by name in the study: a decade to
        both sides of the usual one, or of the best one once it is known."""
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
        """Return what is known of the learning rate of the first point, and what to try next."""
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
        """Yield all points that may be tried now, those that were tried already among them."""
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
        """Return the middle point of a variant. ``best``: learning rate of the first point, once it is known."""
        preferred = {**self._order, **variant}
        point = middle_point(self._space, preferred)
        domain = self._rates(point)
        if isinstance(domain, Range) and domain.auto:
            rate = float(f"{self._usual(point) * self._correction(best):.2g}")
            return middle_point(self._space, preferred, rate=rate)
        return point

    def _correction(self, best: float | None) -> float:
        """Return by what the usual rates are to be multiplied: by what the first point's had to be."""
        return 1.0 if best is None else best / self._usual(self._middle.parameters)

    def _at_rate(self, rate: float) -> dict[str, Value]:
        """Return the first point with another learning rate."""
        preferred = {name: (value,) for name, value in self._middle.parameters.items() if name != "learning_rate"}
        return middle_point(self._space, preferred, rate=rate)

    def _with_objective(self, objective: Value, best: TrialRecord) -> dict[str, Value] | None:
        """Return a point of this objective that is otherwise as near to ``best`` as may be; None where there is none,
        or where ``best`` is one already."""
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
        """Return the domain of the learning rate at a point; None where it has none."""
        branches = self._space.branches.get("learning_rate", ())
        return next((branch.domain for branch in branches if branch.applies(point)), None)

    def _extension(self, domain: Choices | Range, tried: Mapping[float, TrialRecord]) -> float | None:
        """Return a learning rate beyond those tried, where the best of them lies at the edge; None where it does not,
        or where the domain ends."""
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
    """Return the first points of a sweep; None where its spec plans all trials. Where it names the points itself, they
    say between which learning rates to search, and have no others."""
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
    """Return the baselines of a sweep, with the usual learning rate where they name none."""

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

    ``pairs``: of a trial with all copies and images.
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
    """Return the function that says what a trial is worth: the hypervolume of its points that keep all bounds, above
    the bound of the first goal (``chance`` where there is none) and the untouched model's second goal."""
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
    """Return in a line which learning rate was found; None while it is not known."""
    bracket = points.bracket(trials)
    if bracket.best is None or len(bracket.tried) < 2:
        return None
    others = ", ".join(f"{rate:g}" for rate in sorted(bracket.tried) if rate != bracket.best)
    tune = bracket.tried[bracket.best].parameters["tune"]
    return f"learning rate: {bracket.best:g} is better than {others} (cross-entropy, {tune})"


def _known(size: ModelSize | None) -> ModelSize:
    assert size is not None, "sweeps with `learning_rate: auto` know the size of their model"
    return size


def _variants(space: Space, order: Preferences) -> list[Preferences]:
    """Return the scopes of a space, and of the attribute task the targets, strongest first: the first of each, then
    one of them changed at a time."""
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
    """Return the next learning rate below (side -1) or above (1); None where the domain ends."""
    if isinstance(domain, Choices):
        beyond = [float(value) for value in domain.values if (float(value) - rate) * side > 0]
        return min(beyond, key=lambda value: abs(value - rate)) if beyond else None
    factor = FACTOR if domain.auto else min(FACTOR, math.sqrt(domain.high / domain.low)) if domain.low > 0 else FACTOR
    further = _rounded(domain, rate * factor**side)
    return further if (further - rate) * side > 1e-9 * rate else None


def _rounded(domain: Range, rate: float) -> float:
    """Return the rate in three digits, inside the domain."""
    return min(max(float(f"{rate:.3g}"), float(domain.low)), float(domain.high))

"""Expected costs of trials that have not begun, from the costs of other trials of their scope. Pure.

The first trials of a search are not typical of the others: they train the strongest scope, and no earlier trials exist
that could stop them early. So costs are recorded by scope, and the share of its steps that a trial runs moves from the
stopping rule's limit for many trials to the observed share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweeper.spec.spec import Spec

EXPECTED_WEIGHT = 16
"""Weight, in trials, of the expected share of steps: with as many ended trials it counts half."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Observed cost of a trial, from which the costs of others are estimated."""

    scope: str
    """The parameter ``tune`` of the trial."""
    cost_s: float
    """Slot seconds so far."""
    epochs: float
    """Epochs done so far."""
    share: float | None
    """Share of its steps that were done at its end; None if it may still go on, or could not be stopped."""


@dataclass(frozen=True, kw_only=True)
class ExpectedCosts:
    """Expected slot seconds of trials that have not begun."""

    searched_s: float
    """Cost of a trial of the search; it may be stopped early."""
    whole_s: float
    """Cost of a trial that trains a member of the front again."""
    whole_share: float = 1.0
    """Share of the trials of the search that the stopping rule lets train to their end."""


def expected_share(rungs: Sequence[float], reduction_factor: float) -> float:
    """Return the share of its steps that a trial is expected to run under asynchronous halving.

    After many trials have reached each rung, a trial goes on to the next rung with probability 1 / reduction_factor.
    """
    starts = [0.0, *rungs]
    return sum(
        (end - start) * reduction_factor**-i for i, (start, end) in enumerate(zip(starts, [*rungs, 1.0], strict=True))
    )


def scope_shares(spec: Spec) -> dict[str, float]:
    """Return by scope the expected share of the searched trials that train it; all values are about as frequent."""
    values = [str(value) for branch in spec.parameters.branches["tune"] for value in branch.domain.examples()]
    return {scope: values.count(scope) / len(values) for scope in dict.fromkeys(values)}


def cost_model(spec: Spec) -> CostModel:
    """Return the cost model of a sweep's trials."""
    rungs, factor = spec.stopping.shares(), spec.stopping.reduction_factor
    if not spec.stops:
        return CostModel(scope_shares(spec), share=1.0)
    return CostModel(scope_shares(spec), share=expected_share(rungs, factor), whole_share=factor ** -len(rungs))


def expected_looks(near: int, complete: int, waiting: int, whole_share: float) -> float:
    """Return the expected number of points that a second look measures.

    Goals that are measured on few images leave many points near the front, whatever the number of trials: the points
    near the front of each complete trial stay as many.

    Args:
        near: points near the present front.
        complete: complete trials of the search, at least 1.
        waiting: trials of the search that have not ended.
        whole_share: of the waiting trials that will be complete.
    """
    return near * (1 + waiting * whole_share / complete)


class MeasuringPace:
    """Expected duration of measuring points, from the points measured so far."""

    def __init__(self, total: int, now_s: float) -> None:
        self._total, self._begun_s = total, now_s
        self._done, self._done_s = 0, now_s

    def done(self, points: int, now_s: float) -> None:
        """Note that ``points`` points are measured."""
        if points != self._done:
            self._done, self._done_s = points, now_s

    def left_s(self, guess_s: float) -> float:
        """Return the seconds until all points are measured.

        Args:
            guess_s: seconds for one point, used until a point is measured.
        """
        point_s = (self._done_s - self._begun_s) / self._done if self._done else guess_s
        return (self._total - self._done) * point_s


class CostModel:
    """Expected costs of the trials of one sweep."""

    def __init__(self, scopes: Mapping[str, float], *, share: float, whole_share: float = 1.0) -> None:
        """Make a model without samples.

        Args:
            scopes: share of the searched trials by scope (``scope_shares``).
            share: share of its steps that a trial is expected to run (``expected_share``); 1 if no trial is stopped.
            whole_share: share of the trials that are expected to be trained to their end.
        """
        self._scopes, self._share, self._whole_share = scopes, share, whole_share

    def expected(self, samples: Iterable[Sample], epochs: float) -> ExpectedCosts | None:
        """Return the costs of trials of ``epochs`` epochs; None until a sample has done a part of an epoch."""
        spent_s, done, shares = dict[str, float](), dict[str, float](), list[float]()
        for sample in samples:
            spent_s[sample.scope] = spent_s.get(sample.scope, 0.0) + sample.cost_s
            done[sample.scope] = done.get(sample.scope, 0.0) + sample.epochs
            if sample.share is not None:
                shares.append(sample.share)
        epoch_s = {scope: spent_s[scope] / done[scope] for scope in done if done[scope] > 0}
        if not epoch_s:
            return None
        known = {scope: self._scopes.get(scope, 0.0) for scope in epoch_s}
        if not any(known.values()):  # only a baseline was seen
            known = dict.fromkeys(epoch_s, 1.0)
        # A scope without samples counts as the others do on average.
        mean_s = sum(share * epoch_s[scope] for scope, share in known.items()) / sum(known.values())
        whole_s = epochs * mean_s
        if self._share == 1:
            return ExpectedCosts(searched_s=whole_s, whole_s=whole_s)
        weight = EXPECTED_WEIGHT + len(shares)
        share = (EXPECTED_WEIGHT * self._share + sum(shares)) / weight
        whole_share = (EXPECTED_WEIGHT * self._whole_share + shares.count(1.0)) / weight
        return ExpectedCosts(searched_s=whole_s * share, whole_s=whole_s, whole_share=whole_share)

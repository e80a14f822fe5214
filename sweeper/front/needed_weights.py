"""Which trials' weights may still be needed, for the front or as a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.front.second_look import near_front
from sweeper.records import TrialRecord, UntouchedModel
from sweeper.spec.spec import Spec


def with_needed_weights(spec: Spec, untouched: UntouchedModel, trials: Sequence[TrialRecord]) -> set[int]:
    """Return the numbers of the complete trials whose weights may be needed: near the front, baselines, retrainings.

    A trial that is not among them never will be: further trials only move the front away from its points.
    """
    look = spec.evaluate.second_look
    near = near_front(
        trials,
        goals=spec.task_goals(),
        bounds=spec.bounds(untouched.goals),
        untouched_goals=untouched.goals,
        margin=0.0 if look is None else look.margin,
    )
    kept = {number for number, _, _ in near if number is not None}
    return kept | {
        trial.number
        for trial in trials
        if trial.state == "complete" and (trial.baseline is not None or trial.confirms is not None)
    }

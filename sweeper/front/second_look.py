"""Decisions of the second look: points to be measured on further validation images, and the use of the results.

The front is the best of many points on validation images that the search has used again and again, so a part of its
values is luck with these images. Points near the front are measured on images that the search did not see, and the
front is chosen on both together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeper.records import FrontPoint, LookedAt, PointName, SecondLooks, TrialRecord, UntouchedModel
from sweeper.search.pareto import non_dominated
from sweeper.spec.bounds import Bounds, keeps
from sweeper.spec.quantities import counted
from sweeper.spec.spec import Spec
from trainables.records import Goals, Point, SecondLook, oriented

UNTOUCHED: PointName = (None, "last", 1.0)
ENOUGH_IMAGES = 2000
_NOISE_SHARES = ((700, 0.72), (1000, 0.53), (ENOUGH_IMAGES, 0.33))
"""(number of validation images, share of the gain from 16 to 64 trials that is lost on other images).

Measured over searches among recorded trainings whose front was chosen on this number of images.
"""


def near_front(
    trials: Sequence[TrialRecord],
    *,
    goals: Goals,
    bounds: Bounds,
    untouched_goals: Mapping[str, float],
    margin: float,
) -> dict[PointName, dict[str, Any]]:
    """Return the points for the second look with the parameters of their trials; the members of the front are included.

    A point is included if, with both goals better by ``margin``, it would keep all bounds and no member of the front
    nor the untouched model would dominate it.

    Args:
        bounds: bounds that every member must keep.
        untouched_goals: of the untouched model on validation.
    """
    candidates = [
        ((trial.number, point.weights, point.strength), trial.parameters, point.values)
        for trial in _complete(trials)
        for point in trial.points
    ]
    allowed = [oriented(values, goals) for _, _, values in candidates if keeps(bounds, values)]
    rivals = [oriented(untouched_goals, goals), *allowed]
    rivals = [rival for rival, flag in zip(rivals, non_dominated(rivals), strict=True) if flag]
    near: dict[PointName, dict[str, Any]] = {}
    for name, parameters, values in candidates:
        better = {
            goal.metric: values[goal.metric] + (margin if goal.direction == "maximize" else -margin) for goal in goals
        }
        first, second = oriented(better, goals)
        dominated = any(rival[0] >= first and rival[1] >= second and rival != (first, second) for rival in rivals)
        if not dominated and keeps(bounds, {**values, **better}):
            near[name] = parameters
    return near


def covers(looks: SecondLooks, trials: Sequence[TrialRecord]) -> bool:
    """Return whether a second look covers all complete trials, so that the front is chosen with it."""
    return UNTOUCHED in looks.points and looks.trials == len(_complete(trials))


def complete_trials(trials: Sequence[TrialRecord]) -> int:
    """Return how many trials of the search are complete."""
    return len(_complete(trials))


def pooled(values: Mapping[str, float], seen: Sequence[int], looked: SecondLook) -> dict[str, float]:
    """Return the mean of the search's and the second look's values, weighted by the number of images.

    A metric that only the search has measured keeps its value. For several sets the number of images is that of a
    single set whose mean would be as precise as the mean over sets.

    Args:
        values: of the search.
        seen: number of images of each set in the search.
    """
    first, second = _precision(seen), _precision(looked.images)
    share = second / (first + second)
    return {
        name: value if name not in looked.values else (1 - share) * value + share * looked.values[name]
        for name, value in values.items()
    }


def with_second_looks(
    trials: Sequence[TrialRecord], seen: Sequence[int], looks: Mapping[PointName, SecondLook]
) -> list[TrialRecord]:
    """Return the trials with values by both measurements at every point that has a second look."""

    def both(trial: TrialRecord, point: Point) -> Point:
        looked = looks.get((trial.number, point.weights, point.strength))
        return point if looked is None else replace(point, values=pooled(point.values, seen, looked))

    return [replace(trial, points=tuple(both(trial, point) for point in trial.points)) for trial in trials]


def images_behind(point: FrontPoint, untouched: UntouchedModel) -> list[int]:
    """Return the number of images of each validation set behind a point's values; empty if not known."""
    seen = untouched.validation_images
    if untouched.unseen_images is None or point.images is None or point.images <= sum(seen):
        return seen
    return [first + second for first, second in zip(seen, untouched.unseen_images, strict=True)]


def is_possible(unseen: Sequence[int] | None) -> bool:
    """Return whether a second look is possible.

    Args:
        unseen: as in ``UntouchedModel``.
    """
    return unseen is not None and len(unseen) > 0 and all(unseen)


def looked_text(looked: LookedAt, members: int) -> str:
    """Return a line about the second look and the changes it made."""
    return f"second look: {about_text(looked.points, looked.images)}; {new_text(looked, members)}"


def new_text(looked: LookedAt, members: int) -> str:
    """Return a text such as ``3 of 7 members are new``."""
    return f"{looked.new} of {members} members {'is' if looked.new == 1 else 'are'} new"


def about_text(points: int, images: int) -> str:
    """Return a text such as ``23 points on 4 000 further validation images``."""
    return f"{points} point{'' if points == 1 else 's'} on {counted(images)} further validation images"


def no_look_text(spec: Spec, seen: Sequence[int], unseen: Sequence[int] | None) -> str:
    """Return a line on why there is no second look, and how to get one.

    Args:
        seen, unseen: as in ``UntouchedModel``.
    """
    if spec.evaluate.second_look is None:
        return "no second look: evaluate.second_look is null"
    if unseen is None:
        return "no second look: this sweep was begun by a version of sweeper that had none"
    whole = [
        f"{counted(number)} validation images of {name}"
        for name, number, rest in zip(spec.evaluate.search.sets, seen, unseen, strict=True)
        if not rest
    ]
    most = max(seen)
    return (
        f"no second look: the search sees all {', all '.join(whole)}; for one, have more validation images than "
        f"evaluate.search.images, the number that the search sees (now {most})"
    )


def look_text(spec: Spec, seen: Sequence[int], unseen: Sequence[int]) -> list[str]:
    """Return one or two lines on the images that the front will be chosen on.

    Args:
        seen, unseen: as in ``UntouchedModel``.
    """
    noise = noise_text(seen, unseen)
    possible = f"second look: {counted(sum(unseen))} further validation images"
    first = possible if is_possible(unseen) else no_look_text(spec, seen, unseen)
    return [first, *([] if noise is None else [noise])]


def noise_text(seen: Sequence[int], unseen: Sequence[int] | None) -> str | None:
    """Return a line on the selection noise of a choice on few validation images; None if there are enough of them."""
    if unseen is None:
        return None
    looks_again = is_possible(unseen)
    images = sum(seen) + (sum(unseen) if looks_again else 0)
    if images >= ENOUGH_IMAGES:
        return None
    of_look = "with those of the second look" if looks_again else "and no second look"
    about = "more than" if images < _NOISE_SHARES[0][0] else "about"
    return (
        f"{counted(images)} validation images {of_look}: {about} {100 * noise_share(images):.0f} % of what "
        "the search gains late will be selection noise (docs/second_look.md)"
    )


def noise_share(images: int) -> float:
    """Return the share of a search's late gain that is selection noise, for a number of validation images.

    The front is chosen on these images. Between measured numbers the share is linear in their logarithm.
    """
    fewest, most = _NOISE_SHARES[0], _NOISE_SHARES[-1]
    if images <= fewest[0]:
        return fewest[1]
    for (low, share), (high, next_share) in zip(_NOISE_SHARES, _NOISE_SHARES[1:], strict=False):
        if images <= high:
            return share + (next_share - share) * math.log(images / low) / math.log(high / low)
    return most[1]


def _complete(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [trial for trial in trials if trial.state == "complete" and trial.confirms is None]


def _precision(images: Sequence[int]) -> float:
    """Return the number of images of a single set whose mean has the variance of the mean over sets."""
    return len(images) ** 2 / sum(1 / count for count in images)

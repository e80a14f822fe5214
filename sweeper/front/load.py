"""The front of finished or running sweeps, read from their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeper.errors import UserError
from sweeper.front.build import build_front, confirmed, merged
from sweeper.front.second_look import UNTOUCHED, covers, near_front, pooled
from sweeper.records import Front, LookedAt, PointName, TrialRecord, UntouchedModel
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import SecondLook


def load_front(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> Front | None:
    """Return the front of a sweep's trials with the results in its folder; None before the untouched model was
    measured.
    """
    untouched = folder.untouched()
    if untouched is None or not folder.study_path.exists():
        return None
    return front_of(folder, spec, untouched, trials)


def finished_front(folder: SweepFolder, spec: Spec) -> Front:
    """Return the front of a sweep, to pick a point of it.

    Raises:
        UserError: no trial has finished yet.
    """
    front = load_front(folder, spec, read_trials(folder, spec))
    if front is None:
        raise UserError(f"sweep {folder.name} has no finished trial yet; see `{folder.command('status')}`")
    return front


def front_of(folder: SweepFolder, spec: Spec, untouched: UntouchedModel, trials: Sequence[TrialRecord]) -> Front:
    """Return the front of a sweep's trials with the results in its folder.

    It is chosen with the second look if that has covered all complete trials, else by the search alone.
    """
    front, looks = searched_front(folder, spec, untouched, trials), folder.second_looks()
    if covers(looks, trials):
        by_search = {point.point_name for point in front.points if point.member}
        front = _front(folder, spec, untouched, trials, looks.points)
        members = {point.point_name for point in front.points if point.member}
        searched = {trial.number for trial in trials if trial.confirms is None}
        looked = LookedAt(
            points=sum(number in searched for number, _, _ in looks.points),
            images=sum(looks.points[UNTOUCHED].images),
            new=len(members - by_search),
        )
        front = replace(front, second_look=looked)
    return confirmed(front, folder.confirmations())


def searched_front(folder: SweepFolder, spec: Spec, untouched: UntouchedModel, trials: Sequence[TrialRecord]) -> Front:
    """Return the front by the search alone, without confirmations, which is shown while trials of the search end."""
    return _front(folder, spec, untouched, trials, None)


def looked_points(
    spec: Spec, untouched: UntouchedModel, trials: Sequence[TrialRecord]
) -> dict[PointName, dict[str, Any]]:
    """Return the points of trials that a second look measures, with parameters.

    Raises:
        ValueError: the spec has no second look.
    """
    look = spec.evaluate.second_look
    if look is None:
        raise ValueError("evaluate.second_look is null")
    return near_front(
        trials,
        goals=spec.task_goals(),
        bounds=spec.bounds(untouched.goals),
        untouched_goals=untouched.goals,
        margin=look.margin,
    )


def missing_looks(
    folder: SweepFolder, spec: Spec, untouched: UntouchedModel, trials: Sequence[TrialRecord]
) -> dict[PointName, dict[str, Any]]:
    """Return the points that the second look has not measured yet, the untouched model among them, with parameters.

    Raises:
        ValueError: the spec has no second look.
    """
    near = looked_points(spec, untouched, trials)
    if not near:
        return {}
    measured = folder.second_looks().points
    return {name: parameters for name, parameters in {UNTOUCHED: {}, **near}.items() if name not in measured}


def _front(
    folder: SweepFolder,
    spec: Spec,
    untouched: UntouchedModel,
    trials: Sequence[TrialRecord],
    looks: Mapping[PointName, SecondLook] | None,
) -> Front:
    goals = untouched.goals
    if looks is not None:
        goals = pooled(goals, untouched.validation_images, looks[UNTOUCHED])
    return build_front(
        folder.name,
        trials,
        goals=spec.task_goals(),
        bounds=spec.bounds(goals),
        untouched=untouched,
        measurements=folder.measurements(),
        planned=spec.search.trials,
        curves=spec.kind.curves(spec),
        second_looks=looks,
    )


def load_merged_front(sweeps: Sequence[tuple[SweepFolder, Spec]]) -> Front:
    """Return the front of a sweep, or the merged front of several.

    Raises:
        UserError: a sweep has not measured anything, or their points cannot be compared.
    """
    fronts = []
    for folder, spec in sweeps:
        front = load_front(folder, spec, read_trials(folder, spec))
        if front is None:
            raise UserError(f"sweep {folder.name} has not measured anything yet; see `{folder.command('status')}`")
        fronts.append(front)
    if len(fronts) == 1:
        return fronts[0]
    (first, untouched), *others = [(folder, folder.untouched()) for folder, _ in sweeps]
    assert untouched is not None, "the sweep has a front"
    if len({tuple(goal.metric for goal in front.goals) for front in fronts}) > 1:
        raise UserError("these sweeps share no front: they have different goals")
    for other, other_untouched in others:
        assert other_untouched is not None, "the sweep has a front"
        digests = (
            ("another model", untouched.weights_digest, other_untouched.weights_digest),
            ("other validation images", untouched.validation_digest, other_untouched.validation_digest),
        )
        for words, digest, other_digest in digests:
            if digest != other_digest:
                raise UserError(f"sweeps {first.name} and {other.name} share no front: {other.name} has {words}")
    return merged(fronts)

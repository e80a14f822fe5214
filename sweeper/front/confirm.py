"""Decisions of the confirm phase: which members of the front are trained again, and which stay. Imports no Ray.

A member of the front was picked as the best of many, so its validation values are biased upwards: its seed and its
validation images were lucky. A confirmation uses new seeds, and its intervals use test images; the pick has seen
neither. So no correction for the search is needed, however long it was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sweeper.front.build import front_hypervolume
from sweeper.front.intervals import LEVEL, interval, interval_of_values
from sweeper.records import Confirmation, Front, PointName, Retraining, TrialRecord
from sweeper.search.pareto import non_dominated
from sweeper.spec.bounds import Bounds, keeps
from sweeper.spec.sections import Confirm
from trainables.records import Goals, Measurement, oriented

if TYPE_CHECKING:
    import numpy as np

Hits = Mapping[str, Sequence["np.ndarray"]]
"""Goal -> for each test set, whether an image is answered correctly (N,)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    missing: tuple[Retraining, ...]
    """Retrainings that have not begun, member by member: a phase that ends early has confirmed whole members."""
    note: str
    """One line: the trials that are trained again, and those that the share of the budget leaves out."""


def plan(front: Front, trials: Sequence[TrialRecord], confirm: Confirm, *, seed: int, most: int | None) -> Plan:
    """Return which trials are to be trained again. The same front gives the same plan, without the retrainings begun.

    Args:
        trials: of the study.
        seed: of the sweep.
        most: number of retrainings that the share of the budget allows in all (``Confirm.most_trainings``); None for a
            budget of device hours, which ends the phase itself.
    """
    begun = {(trial.confirms, trial.seed) for trial in trials if trial.confirms is not None}
    wanted = ranked_trials(front)[: confirm.members]
    room = math.inf if most is None else most - len(begun)
    missing: list[Retraining] = []
    taken: list[int] = []
    for trial in wanted:
        new_seeds = [confirm_seed(seed, trial, number) for number in range(confirm.seeds)]
        of_trial = [
            Retraining(confirms=trial, seed=new_seed) for new_seed in new_seeds if (trial, new_seed) not in begun
        ]
        if len(missing) + len(of_trial) > room:
            break
        missing += of_trial
        taken.append(trial)
    if not wanted:
        return Plan(missing=(), note="confirm: the front has no member to train again")
    note = f"confirm: trained again, with {confirm.seeds} new seeds each: trials {', '.join(map(str, taken)) or 'none'}"
    if len(taken) < len(wanted):
        note += f"; share {confirm.share:g} of the budget allows {most} re-trainings in all, which leaves out trials "
        note += ", ".join(map(str, wanted[len(taken) :]))
    return Plan(missing=tuple(missing), note=note)


def ranked_trials(front: Front) -> list[int]:
    """Return the trials with a member on the front, most important first.

    The order is the knee, the best in the second and in the first goal, then the members that add most to the
    hypervolume.
    """
    members = [point for point in front.points if point.member and point.trial is not None]
    others = [members[:i] + members[i + 1 :] for i in range(len(members))]
    added = [front.hypervolume - front_hypervolume(rest, front.reference_point, front.goals) for rest in others]
    order = {"knee": 0, front.goals[1].best: 1, front.goals[0].best: 2}
    ranked = sorted(range(len(members)), key=lambda i: (order.get(members[i].name or "", 3), -added[i], i))
    return list(dict.fromkeys(trial for i in ranked if (trial := members[i].trial) is not None))


def confirm_seed(sweep_seed: int, trial: int, number: int) -> int:
    """Return a seed below 2**31 that differs for each sweep seed, member and retraining."""
    digest = hashlib.sha256(f"confirm/{sweep_seed}/{trial}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def retrained(front: Front, trials: Sequence[TrialRecord]) -> dict[PointName, list[TrialRecord]]:
    """Return the ended retrainings by member of the front; members without any are left out."""
    by_member: dict[int | None, list[TrialRecord]] = {}
    for trial in trials:
        if trial.confirms is not None and trial.state in ("complete", "failed"):
            by_member.setdefault(trial.confirms, []).append(trial)
    members = [point for point in front.points if point.member and point.trial in by_member]
    return {point.point_name: by_member[point.trial] for point in members}


def read_hits(path: Path, sets: Sequence[str], goals: Goals) -> Hits:
    """Return the hits in a file of answers, for goals that are shares of correct answers.

    Args:
        sets: the test sets on which the goals are measured.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has another form.
        KeyError: the file lacks a set or a goal.
    """
    from trainables.evaluation.answers import read_answers

    right = {(answers.set, answers.view): answers.measures()["accuracy"] for answers in read_answers(path)}
    return {goal.metric: [right[name, goal.view] for name in sets] for goal in goals if goal.view is not None}


def confirmations(
    front: Front,
    trials: Sequence[TrialRecord],
    hits: Mapping[PointName, Hits],
    *,
    bounds: Bounds,
    untouched_goals: Mapping[str, float],
    measurements: Mapping[PointName, Measurement] | None = None,
) -> dict[PointName, Confirmation]:
    """Return the confirmations of members that were trained again, from the retrainings that have ended.

    A member stays if three conditions hold: its means over the new seeds, on validation, keep the bounds; neither
    another confirmed member nor the untouched model is at least as good in both goals; every retraining ended well.

    Args:
        trials: of the study; after a second look, with the values by both measurements.
        hits: of the retrained weights, under (number of the retraining, weights, strength).
        untouched_goals: of the untouched model on validation.
        measurements: on test, under the same names, for goals that are not shares of correct answers.
    """
    by_member, metrics = retrained(front, trials), [goal.metric for goal in front.goals]
    confirmed: dict[PointName, Confirmation] = {}
    for member, retrainings in by_member.items():
        _, weights, strength = member
        points = [
            point
            for retraining in retrainings
            for point in retraining.points
            if (point.weights, point.strength) == (weights, strength)
        ]
        names: list[PointName] = [(retraining.number, weights, strength) for retraining in retrainings]
        confirmed[member] = Confirmation(
            seeds=len(points),
            failed=sum(retraining.state == "failed" for retraining in retrainings),
            validation=_mean_values([point.values for point in points], metrics, bounds) if points else None,
            stays=False,
            **_measured(
                [hits[name] for name in names if name in hits],
                [measurements[name] for name in names if measurements is not None and name in measurements],
                metrics,
                among=len(by_member),
            ),
        )
    sound = {
        member: confirmation.validation
        for member, confirmation in confirmed.items()
        if confirmation.validation and not confirmation.failed and keeps(bounds, confirmation.validation)
    }
    values = [oriented(of_member, front.goals) for of_member in sound.values()]
    flags = non_dominated([oriented(untouched_goals, front.goals), *values])[1:]
    staying = {member for member, flag in zip(sound, flags, strict=True) if flag}
    return {member: replace(confirmation, stays=member in staying) for member, confirmation in confirmed.items()}


def _mean_values(of_seeds: Sequence[Mapping[str, float]], metrics: Sequence[str], bounds: Bounds) -> dict[str, float]:
    """Return means of the goals and of the other metrics that must be kept."""
    names = dict.fromkeys([*metrics, *(bound.metric for bound in bounds)])
    return {name: fmean(values[name] for values in of_seeds) for name in names}


def _measured(
    tested: Sequence[Hits], measured: Sequence[Measurement], metrics: Sequence[str], among: int
) -> dict[str, Any]:
    """Return means and intervals on test as fields of ``Confirmation``; ``simultaneous``: Bonferroni over ``among``."""
    import numpy as np

    if len(tested) < 2:
        return {}
    values, intervals, simultaneous = {}, {}, {}
    for goal in metrics:
        if goal in tested[0]:
            sets = [np.stack(of_seeds) for of_seeds in zip(*(hits[goal] for hits in tested), strict=True)]
            values[goal] = float(np.mean([of_set.mean() for of_set in sets]))
            intervals[goal] = interval(sets)
            simultaneous[goal] = interval(sets, level=1 - (1 - LEVEL) / among)
        elif len(measured) == len(tested):
            of_seeds = [of_seed.values[goal] for of_seed in measured]
            over_images = [of_seed.intervals[goal] for of_seed in measured]
            values[goal] = float(np.mean(of_seeds))
            intervals[goal] = interval_of_values(of_seeds, over_images)
            simultaneous[goal] = interval_of_values(of_seeds, over_images, level=1 - (1 - LEVEL) / among)
    return {"values": values, "intervals": intervals, "simultaneous": simultaneous}

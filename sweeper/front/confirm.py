"""The confirm phase, as decisions: who of the front is trained again, and what that says of them. Knows no Ray.

A member of the front was picked as the best of many, so its validation values are too good: its seed and its validation
images were lucky. What is said of it here comes from seeds that the pick did not see, and, in intervals, from test
images that it did not see either. So nothing has to be corrected for the search, however long it was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sweeper.front.intervals import LEVEL, interval
from sweeper.front.pareto import hypervolume, non_dominated
from sweeper.records import GOALS, Confirmation, Front, FrontPoint, PointName, Retraining, TrialRecord
from sweeper.spec.sections import Confirm, Goals
from sweeper.spec.spec import Spec
from trainables.settings.sets import TypographicSet
from trainables.settings.task import split_of

if TYPE_CHECKING:
    import numpy as np

Hits = Mapping[str, Sequence["np.ndarray"]]
"""Goal -> per test set whether an image is answered right (N,)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    missing: tuple[Retraining, ...]
    """Not begun yet; member by member, so that whatever ends the phase early leaves whole members behind."""
    note: str
    """One line: who is trained again, and what the share of the budget leaves out."""


def plan(front: Front, trials: Sequence[TrialRecord], confirm: Confirm, *, seed: int, most: int | None) -> Plan:
    """Who is to be trained again. For the same front it is the same plan, less what has begun: a resumed sweep goes on.

    Args:
        trials: of the study.
        seed: of the sweep.
        most: re-trainings that the share of the budget allows in all (``Confirm.most_trainings``); None where the
            budget is one of device hours, which ends the phase itself.
    """
    begun = {(trial.confirms, trial.seed) for trial in trials if trial.confirms is not None}
    wanted = ranked_trials(front)[: confirm.members]
    room = math.inf if most is None else most - len(begun)
    missing: list[Retraining] = []
    taken: list[int] = []
    for trial in wanted:
        seeds = [confirm_seed(seed, trial, number) for number in range(confirm.seeds)]
        own = [Retraining(confirms=trial, seed=one) for one in seeds if (trial, one) not in begun]
        if len(missing) + len(own) > room:
            break
        missing += own
        taken.append(trial)
    if not wanted:
        return Plan(missing=(), note="confirm: the front has no member to train again")
    note = f"confirm: trained again, with {confirm.seeds} new seeds each: trials {', '.join(map(str, taken)) or 'none'}"
    if len(taken) < len(wanted):
        note += f"; share {confirm.share:g} of the budget allows {most} re-trainings in all, which leaves out trials "
        note += ", ".join(map(str, wanted[len(taken) :]))
    return Plan(missing=tuple(missing), note=note)


def ranked_trials(front: Front) -> list[int]:
    """Trials with a member on the front: of the knee, the most robust and the cleanest member, then those whose members
    add most to the hypervolume."""
    members = [point for point in front.points if point.member and point.trial is not None]
    values = [_goals(point.validation) for point in members]
    alone = [values[:i] + values[i + 1 :] for i in range(len(values))]
    added = [front.hypervolume - hypervolume(others, front.reference_point) for others in alone]
    order = {"knee": 0, "most robust": 1, "cleanest": 2}
    ranked = sorted(range(len(members)), key=lambda i: (order.get(members[i].name or "", 3), -added[i], i))
    return list(dict.fromkeys(trial for i in ranked if (trial := members[i].trial) is not None))


def confirm_seed(sweep_seed: int, trial: int, number: int) -> int:
    """A number below 2**31 that differs for each sweep seed, member and re-training."""
    digest = hashlib.sha256(f"confirm/{sweep_seed}/{trial}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def retrained(front: Front, trials: Sequence[TrialRecord]) -> dict[PointName, list[TrialRecord]]:
    """Members of the front whose trial was trained again -> those trainings, as far as they ended."""
    again: dict[int | None, list[TrialRecord]] = {}
    for trial in trials:
        if trial.confirms is not None and trial.state in ("complete", "failed"):
            again.setdefault(trial.confirms, []).append(trial)
    members = [point for point in front.points if point.member and point.trial in again]
    return {_name(point): again[point.trial] for point in members}


def pasted_sets(spec: Spec) -> list[str]:
    """Names, as answers have them, of the test sets that both goals are measured on."""
    named = [split_of(name, "test") for name in spec.evaluate.test.sets]
    return [f"{name}/{split}" for name, split in named if not isinstance(spec.sets[name], TypographicSet)]


def read_hits(path: Path, sets: Sequence[str]) -> Hits:
    """From a file of answers. Raises OSError, ValueError and KeyError for a file that is none of a sweep's."""
    from trainables.evaluation.answers import ATTACKED, CLEAN, read_answers

    right = {(one.set, one.view): one.measures()["accuracy"] for one in read_answers(path)}
    return {goal: [right[name, view] for name in sets] for goal, view in zip(GOALS, (CLEAN, ATTACKED), strict=True)}


def confirmations(
    front: Front,
    trials: Sequence[TrialRecord],
    hits: Mapping[PointName, Hits],
    *,
    goals: Goals,
    untouched: Mapping[str, float],
) -> dict[PointName, Confirmation]:
    """What the trainings so far say of the members that were trained again.

    A member stays where its means over the new seeds, on validation, are above the floors and no other confirmed
    member's and not the untouched model's are at least as good in both goals, and where every training ended well.

    Args:
        hits: of the re-trained weights, under (number of the re-training, weights, strength).
        untouched: goals of the untouched model on validation.
    """
    found: dict[PointName, Confirmation] = {}
    confirmed = retrained(front, trials)
    for name, again in confirmed.items():
        _, weights, strength = name
        points = [p for one in again for p in one.points if (p.weights, p.strength) == (weights, strength)]
        tested = [hits[one.number, weights, strength] for one in again if (one.number, weights, strength) in hits]
        found[name] = Confirmation(
            seeds=len(points),
            failed=sum(one.state == "failed" for one in again),
            validation={goal: fmean(point.values[goal] for point in points) for goal in GOALS} if points else None,
            stays=False,
            **_measured(tested, among=len(confirmed)),
        )
    floors = goals.floors(untouched)
    sound = {
        name: one.validation
        for name, one in found.items()
        if one.validation and not one.failed and all(one.validation[goal] >= floors[goal] for goal in floors)
    }
    flags = non_dominated([_goals(untouched), *map(_goals, sound.values())])[1:]
    stay = {name for name, flag in zip(sound, flags, strict=True) if flag}
    return {name: replace(one, stays=name in stay) for name, one in found.items()}


def _measured(tested: Sequence[Hits], among: int) -> dict[str, Any]:
    """Means and intervals on test; Bonferroni's over all confirmed members beside them."""
    import numpy as np

    if len(tested) < 2:
        return {}
    values, intervals, simultaneous = {}, {}, {}
    for goal in GOALS:
        sets = [np.stack(same) for same in zip(*(one[goal] for one in tested), strict=True)]
        values[goal] = float(np.mean([one.mean() for one in sets]))
        intervals[goal] = interval(sets)
        simultaneous[goal] = interval(sets, level=1 - (1 - LEVEL) / among)
    return {"values": values, "intervals": intervals, "simultaneous": simultaneous}


def _goals(values: Mapping[str, float]) -> tuple[float, float]:
    return values[GOALS[0]], values[GOALS[1]]


def _name(point: FrontPoint) -> PointName:
    return point.trial, point.weights, point.strength

"""Use of an earlier sweep in a new one: its finished trials as points of the new space. Imports no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.records import TrialRecord, UntouchedModel
from sweeper.search.sampler import PriorTrial
from sweeper.search.study import read_trials
from sweeper.spec.bounds import Bounds, violation
from sweeper.spec.domains import Choices, Range, Value
from sweeper.spec.space import Space
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder
from trainables.records import Goals
from trainables.settings.parameters import Parameters


def check_warm_start(storage: Path, names: Sequence[str], spec: Spec) -> None:
    """Check that a new sweep can learn from earlier sweeps.

    Raises:
        UserError: it cannot learn from one of them.
    """
    if names and spec.search.sampler != "tpe":
        raise UserError(f"--warm-start is for the sampler tpe; {spec.search.sampler} does not learn, leave it out")
    for name in names:
        folder = SweepFolder(storage, name)
        earlier = folder.spec()
        if [goal.metric for goal in earlier.task_goals()] != [goal.metric for goal in spec.task_goals()]:
            goals = " and ".join(goal.metric for goal in earlier.task_goals())
            raise UserError(f"--warm-start {name}: it has other goals, {goals}; name a sweep with the same goals")
        for module, digest in spec.code.items():
            if earlier.code.get(module, digest) != digest:
                raise UserError(f"--warm-start {name}: it ran other code of {module}; name a sweep with the same code")
        if not any(trial.state == "complete" for trial in read_trials(folder, earlier)):
            raise UserError(f"--warm-start {name}: no trial of it is complete; see `{folder.command('trials')}`")


def prior_trials_of(earlier: SweepFolder, spec: Spec, untouched: UntouchedModel) -> tuple[list[PriorTrial], list[str]]:
    """Return ``prior_trials`` of a sweep on disk.

    Raises:
        UserError: the sweep does not exist.
    """
    trials, before = read_trials(earlier, earlier.spec()), earlier.untouched()
    assert before is not None, "it has trials"
    return prior_trials(
        earlier.name,
        trials,
        space=spec.parameters,
        goals=spec.task_goals(),
        bounds=spec.goal_bounds(untouched.goals),
        untouched=untouched,
        before=before,
    )


def prior_trials(
    name: str,
    trials: Sequence[TrialRecord],
    *,
    space: Space,
    goals: Goals,
    bounds: Bounds,
    untouched: UntouchedModel,
    before: UntouchedModel,
) -> tuple[list[PriorTrial], list[str]]:
    """Return finished trials of sweep ``name`` for the sampler of a new sweep, and a line for each kind of skipped
    trials.

    Parameters are matched by name; a parameter that a trial or the space does not name has its default. A trial without
    a corresponding point of the new space is skipped. Goals are counted from the untouched model of each sweep, so that
    another model or other images only shift them.

    Args:
        space, goals, untouched: of the new sweep.
        bounds: of the goals, in the new sweep.
        before: ``untouched`` of the earlier sweep.
    """
    finished = [trial for trial in trials if trial.state == "complete" and trial.confirms is None]
    known, reasons = [], Counter[str]()
    metrics = [goal.metric for goal in goals]
    for trial in finished:
        try:
            parameters = _point_with(trial.parameters, space)
        except ValueError as error:
            reasons[str(error)] += 1
            continue
        assert trial.values is not None, "complete trials have values"
        values = {goal: trial.values[goal] - before.goals[goal] + untouched.goals[goal] for goal in metrics}
        known.append(
            PriorTrial(
                parameters=parameters,
                values=tuple(values[goal] for goal in metrics),
                violation=violation(bounds, values),
            )
        )
    notes = [f"warm start: {len(known)} of {len(finished)} finished trials of {name} are used by the search"]
    notes += [f"warm start: {count} not used: {reason}" for reason, count in reasons.most_common()]
    digests = (
        ("model", untouched.weights_digest, before.weights_digest),
        ("validation images", untouched.validation_digest, before.validation_digest),
    )
    for words, digest, digest_before in digests:
        if known and digest != digest_before:
            notes.append(f"warm start: {name} had another {words}; its goals count from its own untouched model")
    return known, notes


def _point_with(parameters: Mapping[str, Any], space: Space) -> dict[str, Value]:
    """Return the point of the space that trains as these parameters do.

    ``Space.place`` cannot do this: the space may search or fix a parameter that these leave at its default, or the
    reverse.

    Raises:
        ValueError: there is no such point.
    """
    wanted = Parameters.model_validate(parameters).model_dump()

    def wanted_value(name: str, domain: Choices | Range) -> Value:
        value = domain.match(wanted.get(name.partition("[")[0]))
        if value is None:
            raise ValueError(f"`{name}` was not {domain}")
        return value

    point = space.draw(wanted_value)
    drawn = Parameters.model_validate(point).model_dump()
    different = [f"`{name}`" for name in wanted if drawn.get(name) != wanted[name]]
    if different:
        raise ValueError(f"{', '.join(different)} cannot have the earlier value in the new space")
    return point

"""The front of finished or running sweeps, read from their folders."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.errors import UserError
from sweeper.front.build import build_front, confirmed, merged
from sweeper.records import Front, TrialRecord, UntouchedModel
from sweeper.search.study import read_trials
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder


def load_front(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> Front | None:
    """Return the front of a sweep's trials, with what its folder holds of them; None before the untouched model was
    measured."""
    untouched = folder.untouched()
    if untouched is None or not folder.study_path.exists():
        return None
    return front_of(folder, spec, untouched, trials)


def front_of(folder: SweepFolder, spec: Spec, untouched: UntouchedModel, trials: Sequence[TrialRecord]) -> Front:
    """Return the front of a sweep's trials, with what its folder holds of them."""
    front = build_front(
        folder.name,
        trials,
        goals=spec.task_goals(),
        bounds=spec.bounds(untouched.goals),
        untouched=untouched,
        measurements=folder.measurements(),
        planned=spec.search.trials,
        curves=spec.kind.curves(spec),
    )
    return confirmed(front, folder.confirmations())


def load_merged_front(sweeps: Sequence[tuple[SweepFolder, Spec]]) -> Front:
    """Return the front of a sweep, or the merged front of several.

    Raise UserError for sweeps that have not measured anything, or whose points cannot be compared.
    """
    fronts = []
    for folder, spec in sweeps:
        front = load_front(folder, spec, read_trials(folder, spec))
        if front is None:
            raise UserError(f"sweep {folder.name} has not measured anything yet; see `sweeper status {folder.name}`")
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

"""The front of finished or running sweeps, read from their folders."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.errors import UserError
from sweeper.front.build import build_front, confirmed, merged
from sweeper.records import Front
from sweeper.search.study import Study
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder


def load_front(folder: SweepFolder, spec: Spec) -> Front | None:
    """The front from the records on disk; None before the untouched model was measured."""
    untouched = folder.untouched()
    if untouched is None or not folder.study_path.exists():
        return None
    study = Study.open(folder.study_path, spec.parameters)
    try:
        trials = study.trials()
    finally:
        study.close()
    found = build_front(
        folder.name,
        trials,
        goals=spec.goals,
        untouched=untouched,
        tests=folder.tests(),
        planned=spec.search.trials,
    )
    return confirmed(found, folder.confirmations())


def load_merged_front(sweeps: Sequence[tuple[SweepFolder, Spec]]) -> Front:
    """One front of one or several sweeps.

    Raises UserError for sweeps that have not measured anything, or whose points cannot be compared.
    """
    fronts = []
    for folder, spec in sweeps:
        front = load_front(folder, spec)
        if front is None:
            raise UserError(f"sweep {folder.name} has not measured anything yet; see `sweeper status {folder.name}`")
        fronts.append(front)
    if len(fronts) == 1:
        return fronts[0]
    first, *others = [folder for folder, _ in sweeps]
    for other in others:
        for what, words in (("weights_digest", "another model"), ("validation_digest", "other validation images")):
            if (first.untouched() or {}).get(what) != (other.untouched() or {}).get(what):
                raise UserError(f"sweeps {first.name} and {other.name} share no front: {other.name} has {words}")
    return merged(fronts)

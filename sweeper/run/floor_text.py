"""The noise floor of a search in words."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.records import TrialRecord
from sweeper.search.floor_files import SearchEnd, UnknownFloor, load_floor, read_search_end
from sweeper.search.noise_floor import LEAST_COMPLETE, NoiseFloor
from sweeper.spec.spec import Spec
from sweeper.storage.sweep_folder import SweepFolder

_LEAST = 0.0001


def floor_line(floor: NoiseFloor | UnknownFloor) -> str:
    """Return a line on whether more search is worthwhile: ``noise floor: a further 16 trials would gain about 0.0004
    ...``.
    """
    if isinstance(floor, UnknownFloor):
        return f"noise floor: unknown, {floor.reason}"
    if floor.complete < LEAST_COMPLETE:
        return f"noise floor: not before {LEAST_COMPLETE} trials are complete, {floor.complete} so far"
    what = "less than these images can tell" if floor.reached else "more search is worth it"
    return (
        f"noise floor: a further {floor.further} trials would gain {_gain(floor.gain)} on fresh images "
        f"(standard error of the front {floor.standard_error:.4f}): {what}"
    )


def search_end_line(end: SearchEnd) -> str:
    """Return a line such as ``search ended after 41 of 64 trials: ...``."""
    return (
        f"search ended after {end.trials} of {end.planned} trials: a further quarter of trials would gain "
        f"{_gain(end.gain)} hypervolume on fresh images, less than the standard error {end.standard_error:.4f} of the "
        "front's"
    )


def sweep_floor_line(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> str | None:
    """Return a line on why a sweep's search ended before its last trial, or on whether more search is worthwhile.

    None if its goals have no noise floor or no trial is complete.
    """
    end = read_search_end(folder)
    if end is not None and end.holds(spec):
        return search_end_line(end)
    floor = load_floor(folder, spec, trials)
    return None if floor is None else floor_line(floor)


def _gain(gain: float) -> str:
    return f"about {gain:.4f}" if gain >= _LEAST else f"less than {_LEAST}"

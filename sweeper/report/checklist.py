"""The paragraph that the checklist of a paper asks for: search space, evaluations, selection, compute, error bars."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.records import Front, TrialRecord, UntouchedModel
from sweeper.report.numbers import Number, Section, Text, number
from sweeper.run.budget import Usage
from sweeper.spec.branches import Branch, all_branches
from sweeper.spec.domains import Choices, Fixed, Range
from sweeper.spec.spec import Spec
from trainables.evaluation.metrics import RESAMPLES

Pieces = list[str | Number]


def checklist_section(
    spec: Spec, front: Front, trials: Sequence[TrialRecord], untouched: UntouchedModel, usage: Usage
) -> Section:
    """Return the section; each of its texts is a sentence or two of the paragraph."""
    texts = (
        _space(spec),
        _evaluations(spec, trials),
        _selection(spec, front, untouched),
        _data(front, untouched),
        _compute(usage, trials, untouched),
        _error_bars(front),
        _seeds(spec, front),
    )
    return Section(name="checklist", title="Paragraph for a paper's checklist", texts=texts)


def _space(spec: Spec) -> Text:
    pieces: Pieces = ["Search space: "]
    branches = list(all_branches(spec.parameters.branches))
    searched = [branch for branch in branches if not isinstance(branch.domain, Fixed)]
    for branch in searched:
        pieces += [*_separator(pieces), f"{branch.name} ", *_domain(branch)]
    if not searched:
        pieces.append("no parameter was searched")
    fixed = [branch for branch in branches if isinstance(branch.domain, Fixed)]
    if fixed:
        pieces.append("; fixed: " if searched else "; fixed were ")
    for place, branch in enumerate(fixed):
        assert isinstance(branch.domain, Fixed)
        pieces += [", " if place else "", f"{branch.name} ", _value(f"space/{branch.name}", branch.domain.value)]
    return (*pieces, ".")


def _domain(branch: Branch) -> Pieces:
    domain, key = branch.domain, f"space/{branch.name}"
    if isinstance(domain, Choices):
        pieces: Pieces = ["in {"]
        for place, value in enumerate(domain.values):
            pieces += [", " if place else "", _value(f"{key}/{place}", value)]
        return [*pieces, "}"]
    assert isinstance(domain, Range)
    if domain.auto:
        return ["log-uniform, in a range that the first trials of the sweep found"]
    kind = ("log-uniform" if domain.log else "uniform") + (", whole numbers," if domain.integer else "")
    pieces = [f"{kind} in [", number(f"{key}/low", domain.low, "short"), ", "]
    pieces += [number(f"{key}/high", domain.high, "short"), "]"]
    return pieces if domain.step is None else [*pieces, " in steps of ", number(f"{key}/step", domain.step, "short")]


def _evaluations(spec: Spec, trials: Sequence[TrialRecord]) -> Text:
    search = [trial for trial in trials if trial.confirms is None]
    samplers = {
        "tpe": "a multi-objective TPE",
        "random": "random search",
        "grid": "a grid",
        "soup": "a soup of anchors",
    }
    pieces: Pieces = [f"Evaluations: trials were chosen by {samplers[spec.search.sampler]}"]
    if spec.search.sampler == "tpe":
        pieces += [" after ", number("checklist/startup", spec.search.startup(), "count"), " complete trials"]
    pieces += ["; ", number("checklist/trials", len(search), "count"), " trials were begun, of which "]
    for state in ("complete", "stopped", "failed"):
        count = sum(trial.state == state for trial in search)
        pieces += [number(f"checklist/{state}", count, "count"), f" {state}" + ("" if state == "failed" else ", ")]
    points = sum(len(trial.points) for trial in search)
    pieces += [" (baselines included); ", number("checklist/points", points, "count")]
    pieces.append(" points (weights and strength of a trial) were measured on validation. ")
    if spec.stopping.kind == "moasha":
        pieces.append("Hopeless trials were stopped by a multi-objective successive halving (MO-ASHA) at ")
        for place, share in enumerate(spec.stopping.shares()):
            pieces += [", " if place else "", number(f"checklist/rung {place}", share)]
        pieces += [" of their steps, reduction factor "]
        pieces += [number("checklist/reduction", spec.stopping.reduction_factor, "short"), "."]
    else:
        pieces.append("No trial was stopped early.")
    if spec.search.until == "noise_floor":
        pieces.append(" The search ended where further trials were expected to gain less than the noise of the front.")
    return tuple(pieces)


def _selection(spec: Spec, front: Front, untouched: UntouchedModel) -> Text:
    first, second = front.goals
    bounds = [str(bound) for bound in spec.bounds(untouched.goals)]
    kept = f", among points that keep {', '.join(bounds)}" if bounds else ""
    look = "" if front.second_look is None else " and on the images of a second look that the search did not see"
    return (
        f"Selection: points are non-dominated in {first.title} ({first.direction}d) and {second.title} "
        f"({second.direction}d) on validation{look}{kept}. Test images decided nothing: each point of the front was "
        "measured on them once.",
    )


def _data(front: Front, untouched: UntouchedModel) -> Text:
    pieces: Pieces = ["Data: ", number("checklist/pairs", untouched.pairs, "count"), " preference pairs"]
    if untouched.validation_images:
        seen = sum(untouched.validation_images)
        pieces += ["; ", number("checklist/validation images", seen, "count"), " validation images"]
    unseen = sum(untouched.unseen_images or [])
    if unseen:
        pieces += [" for the search, ", number("checklist/unseen images", unseen, "count"), " for the second look"]
    broken = sum(map(len, untouched.broken.values()))
    if broken:
        pieces += ["; ", number("checklist/broken", broken, "count"), " images that could not be read were left out"]
    return (*pieces, ". The sizes of the test sets are in the table of test sets.")


def _compute(usage: Usage, trials: Sequence[TrialRecord], untouched: UntouchedModel) -> Text:
    hours = usage.device_hours(trials)
    pieces: Pieces = [f"Compute: {untouched.device or 'a device that was not recorded'}"]
    if not hours:
        return (*pieces, "; device hours were not recorded.")
    pieces += [f", {usage.sessions[-1].devices} at a time; "]
    pieces += [number("checklist/hours", hours["device_h"], "hours"), f" {usage.device}-hours in total, of which "]
    return (*pieces, number("checklist/trial hours", hours["trials_device_h"], "hours"), " in trials.")


def _error_bars(front: Front) -> Text:
    return (
        "Error bars: 95 % percentile bootstrap intervals (",
        number("checklist/resamples", RESAMPLES, "count"),
        " resamples) over the test images, resampled within each set; they are of these weights and do not cover other "
        "training seeds"
        + (
            ". For members that were trained again, intervals cover seeds and images."
            if any(point.confirmation is not None and point.confirmation.intervals for point in front.points)
            else ": no member was trained again with other seeds."
        ),
    )


def _seeds(spec: Spec, front: Front) -> Text:
    pieces: Pieces = ["Seeds: ", number("checklist/seed", spec.search.seed, "count")]
    pieces.append(" for the search, the order of batches, and the images and words that were drawn")
    again = [point.confirmation.seeds for point in front.points if point.confirmation is not None]
    if again:
        pieces += ["; ", number("checklist/new seeds", max(again), "count"), " new seeds for members trained again"]
    return (*pieces, ".")


def _value(key: str, value: str | int | float) -> str | Number:
    return value if isinstance(value, str) else number(key, value, "short")


def _separator(pieces: Pieces) -> Pieces:
    return ["; "] if len(pieces) > 1 else []

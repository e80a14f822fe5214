"""Advice from a search about its own ranges: the best learning rate, and ranges that end too early. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweeper.commands import command
from sweeper.records import Front, TrialRecord, UntouchedModel
from sweeper.search.first_points import first_points, rate_found, worth_of
from sweeper.spec.branches import all_branches
from sweeper.spec.domains import Range
from sweeper.spec.problems import dotted
from sweeper.spec.spec import Spec
from trainables.records import oriented

EDGE = 0.05
"""Share of a range (of its logarithm, if it is drawn so): a value as near as this to an end lies at its edge."""
NO_GAIN = 0.01
"""A second goal that never was better than the untouched model's by more than this has not moved."""


def advice(
    spec: Spec, front: Front, trials: Sequence[TrialRecord], untouched: UntouchedModel, storage: Path | None = None
) -> list[str]:
    """Return the changes to make in the spec, a line each; the best learning rate of the first points comes first.

    Args:
        trials: of the study; running trials are ignored.
        storage: storage of the sweep, for the commands in the lines.
    """
    points = first_points(spec, untouched) if spec.finds_points else None
    found = None if points is None else rate_found(trials, points)
    searched = [trial for trial in trials if trial.confirms is None and trial.baseline is None]
    lines = [] if found is None else [found]
    lines += _about_rates(spec, searched, untouched, storage)
    return [*lines, *_edges(spec, front, storage)]


def _about_rates(
    spec: Spec, searched: Sequence[TrialRecord], untouched: UntouchedModel, storage: Path | None
) -> Iterator[str]:
    """Yield a line if the learning rates were all too low or mostly too high."""
    ended = [trial for trial in searched if trial.state in ("complete", "failed")]
    if not ended or all(trial.parameters.get("learning_rate") is None for trial in ended):
        return
    goals = spec.task_goals()
    worth = worth_of(goals, spec.bounds(untouched.goals), untouched.goals, untouched.chance)
    collapsed = sum(worth(trial).collapsed for trial in ended)
    best = (
        max((oriented(point.values, goals)[1] for trial in ended for point in trial.points), default=-math.inf)
        - oriented(untouched.goals, goals)[1]
    )
    if best <= NO_GAIN and collapsed < len(ended):
        yield (
            f"learning rate too low: {goals[1].title} never left the untouched model's "
            f"{untouched.goals[goals[1].metric]:.3f}; {_cure(spec, ended, storage, higher=True)}"
        )
    elif 2 * collapsed > len(ended):
        yield (
            f"learning rate too high: {collapsed} of {len(ended)} trials failed or lost more {goals[0].title} than the "
            f"floor allows; {_cure(spec, ended, storage, higher=False)}"
        )


def _cure(spec: Spec, ended: Sequence[TrialRecord], storage: Path | None, *, higher: bool) -> str:
    """Return how to get other learning rates than those of the trials that have ended."""
    domains = [branch.domain for branch in spec.parameters.branches["learning_rate"]]
    if not all(isinstance(domain, Range) and domain.auto for domain in domains):
        return f"run again: `{_run_again(spec, storage, 'parameters.learning_rate=auto')}`"
    tried = [float(trial.parameters["learning_rate"]) for trial in ended if "learning_rate" in trial.parameters]
    beyond = f"above {max(tried):.2g}" if higher else f"below {min(tried):.2g}"
    return f"give parameters.learning_rate a range {beyond}"


def _edges(spec: Spec, front: Front, storage: Path | None) -> Iterator[str]:
    """Yield a line for each range at whose end most members of the front lie."""
    members = [point for point in front.points if point.member and point.parameters]
    for branch in all_branches(spec.parameters.branches):
        domain = branch.domain
        if not isinstance(domain, Range) or domain.auto or domain.integer:
            continue
        own = {
            point.trial: float(point.parameters[branch.parameter])
            for point in members
            if branch.applies(point.parameters)
            and domain.match(point.parameters.get(branch.parameter)) is not None  # a baseline may lie outside
        }
        for end in ("low", "high"):
            at_end = [value for value in own.values() if _distance(domain, value, end) <= EDGE]
            if 2 * len(at_end) > len(own):
                wider = f"parameters.{dotted(branch.path)}.{end}={_wider(domain, end):.3g}"
                yield (
                    f"{branch.name}: {len(at_end)} of {len(own)} trials on the front lie at the {end} end of its range "
                    f"({', '.join(f'{value:.3g}' for value in at_end[:3])} of {domain.low:g} to {domain.high:g}); "
                    f"widen it in another sweep: `{_run_again(spec, storage, wider)}`"
                )


def _run_again(spec: Spec, storage: Path | None, change: str) -> str:
    """Return the command for another sweep with a change; SPEC stands for the spec's file, which may have moved."""
    return command("run", "SPEC", "--set", change, "--name", f"{spec.name}-2", storage=storage)


def _distance(domain: Range, value: float, end: str) -> float:
    """Return the distance of a value from an end of its range, as a share of the range."""
    if domain.log:
        place = math.log(value / domain.low) / math.log(domain.high / domain.low)
    else:
        place = (value - domain.low) / (domain.high - domain.low)
    return place if end == "low" else 1.0 - place


def _wider(domain: Range, end: str) -> float:
    """Return an end further out: by a factor of ten, or by the whole width of a range that is not logarithmic."""
    if domain.log:
        return domain.low / 10 if end == "low" else domain.high * 10
    width = domain.high - domain.low
    return max(0.0, domain.low - width) if end == "low" else domain.high + width

"""The sections of a report about the search: what mattered, what was stopped or failed, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.commands import command
from sweeper.front.rendering.page.data import SearchShown
from sweeper.records import Front, TrialRecord
from sweeper.report.numbers import Cell, Number, Section, Table, Text, number, optional
from sweeper.run.budget import Usage, time_saved_s
from sweeper.spec.quantities import HOUR_S, parse_budget
from sweeper.spec.spec import Spec

MOST_FAILURES = 30
"""Number of failed trials whose reasons are shown; trials.csv has all."""


def importance_section(search: SearchShown) -> Section:
    """Return the section with the importance of parameters."""
    title = "Importance of parameters"
    if not search.importance:
        return Section(name="importance", title=title, texts=((search.no_importance or "Not known.",),))
    shares = {shown.goal: dict(shown.shares) for shown in search.importance}
    parameters = dict.fromkeys(name for by_parameter in shares.values() for name in by_parameter)
    rows = tuple(
        (name, *(optional(f"importance/{name}/{goal}", by_name.get(name)) for goal, by_name in shares.items()))
        for name in parameters
    )
    table = Table(
        name="importance",
        title="Importance of each searched parameter",
        columns=("parameter", *shares),
        rows=rows,
    )
    text = (
        "Share of the variance of ranks in a goal that a parameter explains by itself, over the complete trials of the "
        "search, less what chance alone would explain. Shares need not sum to one.",
    )
    return Section(name="importance", title=title, texts=(text,), tables=(table,), figures=("importance",))


def slices_section(search: SearchShown) -> Section:
    """Return the section with each parameter against each goal."""
    title = "Each parameter against each goal"
    if not search.parameters or not search.trials:
        return Section(name="slices", title=title, texts=(("No parameter was searched, or no trial has ended.",),))
    text: Text = (
        number("slices/trials", len(search.trials), "count"),
        " trials of the search, on validation, last weights at full strength; stopped trials, at the values of their "
        "stop, are hollow. tables/trials.csv has the numbers.",
    )
    return Section(name="slices", title=title, texts=(text,), figures=("slices",))


def cost_section(trials: Sequence[TrialRecord], front: Front, usage: Usage, spec: Spec) -> Section:
    """Return the section on stopped trials and the hours of devices."""
    title, search = "Trials, stopped trials and hours", [trial for trial in trials if trial.confirms is None]
    states = ("complete", "stopped", "failed", "running")
    counted: list[str | Number] = []
    for state in states:
        count = sum(trial.state == state for trial in search)
        word = "unfinished" if state == "running" else state
        counted += [
            ", " if counted else "Trials of the search: ",
            number(f"trials/{state}", count, "count"),
            f" {word}",
        ]
    again = [trial for trial in trials if trial.confirms is not None]
    counted += ["; ", number("trials/again", len(again), "count"), " trainings with other seeds."]
    texts: list[Text] = [tuple(counted)]
    texts += _hours(usage, trials, front, spec)
    stopped = [trial for trial in search if trial.state == "stopped"]
    if not stopped:
        texts.append(("No trial was stopped early.",))
        return Section(name="cost", title=title, texts=tuple(texts))
    slot_hour = (usage.sessions[-1].devices_per_slot if usage.sessions else 1.0) / HOUR_S
    rows: list[tuple[Cell, ...]] = []
    for share in sorted({trial.stopped_at or 0.0 for trial in stopped}):
        of_rung = [trial for trial in stopped if (trial.stopped_at or 0.0) == share]
        base = f"stopped/{share:.4g}"
        rows.append((
            number(f"{base}/share", share),
            number(f"{base}/trials", len(of_rung), "count"),
            number(f"{base}/hours", sum(map(time_saved_s, of_rung)) * slot_hour, "hours"),
        ))  # fmt: skip
    columns = ("share of the steps", "trials stopped there", f"{usage.device}-hours saved")
    table = Table(name="stopped", title="Trials that were stopped early", columns=columns, rows=tuple(rows))
    return Section(name="cost", title=title, texts=tuple(texts), tables=(table,))


def failures_section(trials: Sequence[TrialRecord]) -> Section:
    """Return the section with the reasons of failed trials."""
    failed = [trial for trial in trials if trial.state == "failed"]
    if not failed:
        return Section(name="failures", title="Failures", texts=(("No trial has failed.",),))
    rows = tuple(
        (number(f"failures/{trial.number}", trial.number, "count"), trial.reason or "unknown")
        for trial in failed[:MOST_FAILURES]
    )
    texts: tuple[Text, ...] = ((number("failures/count", len(failed), "count"), " trials have failed."),)
    if len(failed) > len(rows):
        texts += ((f"The first {MOST_FAILURES} are shown; tables/trials.csv has all.",),)
    table = Table(name="failures", title="Failed trials", columns=("trial", "reason"), rows=rows)
    return Section(name="failures", title="Failures", texts=texts, tables=(table,))


def origin_sections(
    facts: Mapping[str, str], trained_with: Mapping[str, str], made_with: Mapping[str, str], name: str, text: str
) -> tuple[Section, Section, Section]:
    """Return the sections with versions and origin, with commands, and with the spec.

    Args:
        facts: name of a fact about the sweep -> its value.
        trained_with: package -> version on the workers.
        made_with: package -> version where the report was made.
        name: of the sweep.
        text: the spec as written.
    """
    rows: list[tuple[Cell, ...]] = [(what, value, "") for what, value in facts.items()]
    rows += [
        (package, trained_with.get(package, "-"), made_with.get(package, "-"))
        for package in dict.fromkeys((*trained_with, *made_with))
    ]
    columns = ("", "of the sweep", "of this report")
    table = Table(name="versions", title="Versions and origin", columns=columns, rows=tuple(rows))
    versions = Section(name="versions", title="Versions and commit", tables=(table,))
    commands = Section(
        name="commands",
        title="The commands that made it",
        texts=(("spec.yaml is the spec below. The last command needs the folder of the sweep.",),),
        plain="\n".join(
            [
                command("run", "spec.yaml", "--name", name),
                command("report", name),
                command("verify", "report"),
            ]
        ),
    )
    about = "As it was written; changes made on the command line are in spec.resolved.json of the sweep's folder."
    return versions, commands, Section(name="spec", title="The spec", texts=((about,),), plain=text)


def _hours(usage: Usage, trials: Sequence[TrialRecord], front: Front, spec: Spec) -> list[Text]:
    hours, unit = usage.device_hours(trials), f"{usage.device}-h"
    if not hours:
        return [("Device hours were not recorded.",)]
    used: list[str | Number] = [number("hours/used", hours["device_h"], "hours"), f" {unit} were used"]
    budget = None if spec.limits.budget is None else parse_budget(spec.limits.budget)
    if budget is not None:
        used += [" of ", number("hours/budget", budget.hours, "hours"), f" {budget.device}-h allowed"]
    used += [", idle slots included, over ", number("hours/sessions", len(usage.sessions), "count"), " session(s)."]
    texts: list[Text] = [tuple(used)]
    texts.append((number("hours/saved", hours["saved_device_h"], "hours"), f" {unit} were saved by stopping trials."))
    if "saved_by_noise_floor_device_h" in hours:
        texts.append((
            "About ", number("hours/saved by noise floor", hours["saved_by_noise_floor_device_h"], "hours"),
            f" {unit} were saved by the noise floor: ", number("hours/not begun", usage.not_begun, "count"),
            " trials were not begun.",
        ))  # fmt: skip
    point_h = usage.device_hours_per_point(front.hypervolume_of_accuracies())
    if point_h is not None:
        texts.append((number("hours/per point", point_h, "hours"), f" {unit} per point of hypervolume (0.01 x 0.01)."))
    if usage.price is not None:
        texts.append((f"At {usage.price} per {unit}: {usage.price.of(hours['device_h'])}.",))
    return texts

"""The content of a report, gathered from a sweep's folder: all its numbers and texts. Nothing is measured again."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweeper.errors import UserError
from sweeper.front.load import load_front
from sweeper.front.rendering.page.data import SearchShown, page_data
from sweeper.front.rendering.table import table
from sweeper.front.search_state import final_state
from sweeper.records import Front, TrialRecord, UntouchedModel
from sweeper.report.checklist import checklist_section
from sweeper.report.front_sections import (
    AnswersOf,
    front_section,
    held_out_section,
    knee_section,
    named,
    sets_section,
    strengths_section,
)
from sweeper.report.gallery import Gallery, gallery
from sweeper.report.numbers import Number, Section, Text, number, numbers_in
from sweeper.report.search_sections import (
    cost_section,
    failures_section,
    importance_section,
    origin_sections,
    slices_section,
)
from sweeper.run.usage_file import read_usage
from sweeper.search.floor_files import planned_trials
from sweeper.search.study import read_trials, searched
from sweeper.spec.spec import Spec
from sweeper.storage.files import storage_in_reach
from sweeper.storage.sweep_folder import SweepFolder
from trainables.evaluation.answers import Answers, read_answers


@dataclass(frozen=True, kw_only=True)
class Making:
    """Time and versions of the making of a report."""

    time: str
    """In ISO 8601."""
    versions: Mapping[str, str]
    """Package -> version."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report."""

    sweep: str
    sweep_id: str
    task: str
    making: Making
    head: tuple[Text, ...]
    """Texts at the top: the state of the sweep, if it is unfinished, then the result in a sentence."""
    sections: tuple[Section, ...]
    gallery: Gallery
    files: Mapping[str, str]
    """Further tables as CSV, by name."""
    front: Front
    """The front and the search, for the figures."""
    search: SearchShown

    def numbers(self) -> dict[str, Number]:
        """Return all numbers of the report by key, in the order in which they are shown."""
        whole = (Section(name="", title="", texts=self.head), *self.sections)
        shown = [*numbers_in(whole), *numbers_in([Section(name="", title="", texts=self.gallery.texts)])]
        by_key: dict[str, Number] = {}
        for one in shown:
            assert by_key.setdefault(one.key, one) == one, f"two different numbers are called {one.key}"
        return by_key


def gather(folder: SweepFolder, spec: Spec, making: Making) -> Report:
    """Return the content of the report on a sweep.

    Raises:
        UserError: the sweep has not measured anything yet, or a file of it is damaged.
        UnavailableError: the storage fails.
    """
    trials, untouched = read_trials(folder, spec), folder.untouched()
    front, state = load_front(folder, spec, trials), final_state(folder, spec, trials)
    if front is None or untouched is None or state is None:
        raise UserError(f"sweep {folder.name} has not measured anything yet; see `{folder.command('status')}`")
    search = page_data(front, state, datetime.datetime.fromisoformat(making.time)).search
    assert search is not None, "the page shows the search if its state is given"
    usage, answers = read_usage(folder), _answers(folder, front)
    with storage_in_reach():
        path = folder.path / "spec.yaml"
        text = path.read_text(errors="replace") if path.exists() else "spec.yaml is missing in the folder of the sweep."
    origin = origin_sections(_facts(folder, untouched), untouched.versions, making.versions, folder.name, text)
    return Report(
        sweep=folder.name,
        sweep_id=folder.sweep_id,
        task=spec.task,
        making=making,
        head=(*_unfinished(folder, spec, trials), _result(front)),
        sections=(
            front_section(front),
            knee_section(front, spec, answers),
            importance_section(search),
            slices_section(search),
            strengths_section(front),
            sets_section(front, answers),
            held_out_section(front, spec),
            cost_section(trials, front, usage, spec),
            failures_section(trials),
            checklist_section(spec, front, trials, untouched, usage),
            *origin,
        ),
        gallery=gallery(answers.get("untouched", ()), answers.get("knee", ())),
        files={"points": table(front, "csv"), "trials": _trials_csv(trials, front)},
        front=front,
        search=search,
    )


def _answers(folder: SweepFolder, front: Front) -> AnswersOf:
    """Return the answers on test of the named points.

    Raises:
        UserError: a file of answers is damaged.
    """
    found: dict[str, list[Answers]] = {}
    for key, point in named(front).items():
        path = folder.answers_path(point.point_name)
        try:
            with storage_in_reach():
                found |= {key: read_answers(path)} if path.exists() else {}
        except ValueError as error:
            raise UserError(f"{error}; restore the file from a backup") from error
    return found


def _unfinished(folder: SweepFolder, spec: Spec, trials: Sequence[TrialRecord]) -> list[Text]:
    """Return a text if the sweep is not finished."""
    ended, planned = searched(trials), planned_trials(folder, spec, trials)
    running = sum(trial.state == "running" for trial in trials)
    if not running and ended >= planned:
        return []
    return [
        (
            "This sweep is unfinished: ",
            number("state/ended", ended, "count"),
            " of ",
            number("state/planned", planned, "count"),
            " trials have ended. All numbers below are of that moment.",
        )
    ]


def _result(front: Front) -> Text:
    """Return the result in a sentence: what the knee reaches, on test where it was measured."""
    knee = next((point for point in front.points if point.name == "knee"), None)
    untouched = next(point for point in front.points if point.trial is None)
    if knee is None:
        return ("No trial is on the front: none was better than the untouched model in a goal within the bounds.",)
    where = "validation" if knee.values is None or untouched.values is None else "test"
    pieces: list[str | Number] = [f"The knee of the front, on {where}: "]
    for place, goal in enumerate(front.goals):
        before, after = (
            (point.values or {} if where == "test" else point.validation)[goal.metric] for point in (untouched, knee)
        )
        pieces += ["; " if place else "", f"{goal.title} ", number(f"result/{goal.metric}/knee", after)]
        pieces += [" (untouched model: ", number(f"result/{goal.metric}/untouched", before), ")"]
    return (*pieces, ".")


def _facts(folder: SweepFolder, untouched: UntouchedModel) -> dict[str, str]:
    return {
        "sweep": f"{folder.name} ({folder.sweep_id})",
        "commit of the spec": folder.git_commit or "not in a git repository",
        "device": untouched.device or "not recorded",
        "sha256 of the untouched weights": untouched.weights_digest,
        "sha256 of the data trained and searched on": untouched.data_digest,
        "sha256 of the validation images": untouched.validation_digest or "not recorded",
    }


def _trials_csv(trials: Iterable[TrialRecord], front: Front) -> str:
    trials = list(trials)
    parameters = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    goals = [goal.metric for goal in front.goals]
    heading = ["trial", "state", "baseline", "first_point", "confirms", "stopped_at", "cost_s", "seed"]
    heading += [f"validation_{goal}" for goal in goals] + parameters + ["reason"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    for trial in trials:
        values = trial.values or trial.values_then or {}
        row = [trial.number, trial.state, trial.baseline, trial.first_point, trial.confirms, trial.stopped_at]
        row += [trial.cost_s, trial.seed, *(values.get(goal) for goal in goals)]
        writer.writerow([*row, *(trial.parameters.get(name) for name in parameters), trial.reason])
    return text.getvalue()

"""The last lines of `sweeper run`: failures, cost, the files of the front, the next commands."""

from __future__ import annotations

from sweeper.front.advice import advice
from sweeper.layout import wrapped
from sweeper.run.floor_text import sweep_floor_line
from sweeper.run.sweep import Options, SweepResult, resume_command
from sweeper.run.usage_file import read_usage
from sweeper.run.usage_text import resume_options, unfinished_line, usage_line, value_lines
from sweeper.search.study import read_trials
from sweeper.secrets import shown_uri
from sweeper.spec.quantities import parse_budget
from sweeper.storage.sweep_folder import SweepFolder


def summary_lines(folder: SweepFolder, result: SweepResult, options: Options) -> list[str]:
    """Return lines for standard error.

    Args:
        options: of the session.
    """
    resume = resume_command(folder, options)
    lines = list(result.failures)
    spec = folder.spec()
    budget = None if spec.limits.budget is None else parse_budget(spec.limits.budget)
    usage, trials = read_usage(folder), read_trials(folder, spec)
    hypervolume = None if result.front is None else result.front.hypervolume_of_accuracies()
    costs = [f"cost:        {usage_line(usage, trials, budget)}", *value_lines(usage, trials, hypervolume)]
    floor = sweep_floor_line(folder, spec, trials)
    untouched = folder.untouched()
    if result.front is not None and untouched is not None:
        costs += advice(spec, result.front, trials, untouched, folder.storage)
    lines += [wrapped(line) for line in [*costs, *([] if floor is None else [floor])]]
    if result.tracking_problem is not None:
        lines.append(f"{result.tracking_problem}; `{resume}` sends the rest")
    if result.state != "complete":
        why = "too many trials failed" if result.state == "failed" else "stopped"
        return [*lines, f"{why}; go on with: {resume}"]
    if result.unfinished_work is not None:
        resume = resume_command(folder, options, *resume_options(result.unfinished_work))
        lines.append(f"{unfinished_line(result.unfinished_work)}; go on with: {resume}")
    tracked = () if options.tracking_uri is None else ("--tracking-uri", shown_uri(options.tracking_uri))
    lines.append(f"front:       {folder.front_path}/front.png, .html, .json, .csv")
    if result.front is not None and any(point.member for point in result.front.points):
        lines.append(f"export:      {folder.command('export', 'DIR', '--pick', 'knee', *tracked)}")
    else:
        lines.append("no trial is better than the untouched model within the floors: there is nothing to export")
    return [*lines, f"open MLflow: {folder.command('ui', *tracked)}"]

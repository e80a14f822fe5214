"""Hypervolume that searches reach over the epochs they spend, evaluations included, under a virtual clock.

    python -m benchmarks.search.run --output benchmarks/results/search.md

Compares sweeper's search, its parts, and the searches that users run instead, on analytic problems and on the embedded
world's response table. Also compares the policies for stopped trials, and the epochs that sweeper's search needs for
the hypervolume of the authors' grids.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy
import optuna

from benchmarks.common.machine import cpu, publish
from benchmarks.search.methods import (
    FACTOR,
    METHODS,
    OTHER_POLICIES,
    POPULATION,
    STARTUP_TRIALS,
    SWEEPER,
    SYNE_TUNE_FACTOR,
    UNSTOPPED,
    Method,
    run_sweep,
)
from benchmarks.search.peers import RUNGS, FinishedTrials
from benchmarks.search.problems import EPOCHS, Goals, Problem, World, analytic
from sweeper.search.pareto import hypervolume
from sweeper.search.sampler import STOPPED_TRIAL_POLICY

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
STEPS = 200
"""Equal parts of the full search's epochs after which the hypervolume is recorded."""
ENOUGH = 0.99
"""Share of the full search's final hypervolume that a search is to reach."""
TABLE = Path(__file__).parents[1] / "results" / "response_table.csv.gz"


@dataclass(frozen=True)
class SearchCourse:
    """Result of one search with one seed."""

    volumes: list[float]
    """(``STEPS`` + 1,) share of the attainable hypervolume at the start and after each part of the epochs."""
    budget_epochs: float
    finished: int
    """Trials that were trained to their end."""


@dataclass(frozen=True)
class Setting:
    problem: Problem
    method: Method
    trials: int
    slots: int


_problems: list[Problem] = []
_settings: list[Setting] = []
"""Inherited by the forked processes that run the searches: problems and methods cannot be pickled."""


def run(job: tuple[int, int]) -> SearchCourse:
    """Run one search; ``job``: (index of the setting, seed)."""
    setting, seed = _settings[job[0]], job[1]
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem, slots = setting.problem, setting.slots
    full = full_search(_problems.index(problem), seed, setting.trials, slots)
    budget_epochs = full[-1].spent_epochs
    finished = full if setting.method is UNSTOPPED else setting.method.run(problem, seed, slots, budget_epochs)
    return SearchCourse(volumes(problem, finished, budget_epochs), budget_epochs, len(finished))


@cache
def full_search(problem: int, seed: int, trials: int, slots: int) -> FinishedTrials:
    return run_sweep(_problems[problem], seed, slots, math.inf, trials=trials, stopping=False)


def volumes(problem: Problem, finished: FinishedTrials, budget_epochs: float) -> list[float]:
    """Return ``SearchCourse.volumes``."""
    course, front, seen = [0.0], list[Goals](), 0
    for part in range(1, STEPS + 1):
        spent = budget_epochs * part / STEPS * (1 + 1e-9)
        new = [point for trial in finished[seen:] if trial.spent_epochs <= spent for point in trial.points]
        seen += sum(trial.spent_epochs <= spent for trial in finished[seen:])
        front += new
        course.append(hypervolume(front, problem.reference) / problem.attainable if new else course[-1])
    return course


def kept(path: Path | None) -> dict[str, SearchCourse]:
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["search"]: SearchCourse(**line["course"]) for line in lines}


def mean_course(courses: Sequence[SearchCourse]) -> list[float]:
    return [statistics.fmean(course) for course in zip(*(search.volumes for search in courses), strict=True)]


def reached(course: Sequence[float], volume: float) -> float | None:
    """Return the share of the full search's epochs after which a course reaches ``volume``; None: it never does."""
    return next((part / STEPS for part, reached_volume in enumerate(course) if reached_volume >= volume), None)


def row(name: str, courses: Sequence[SearchCourse], target: float) -> str:
    cells = []
    for share in SHARES:
        at = [course.volumes[round(share * STEPS)] for course in courses]
        cells.append(f"{100 * statistics.fmean(at):.1f} +- {100 * statistics.stdev(at) / math.sqrt(len(at)):.1f}")
    share_needed = reached(mean_course(courses), target)
    needed = "not reached" if share_needed is None else f"{share_needed:.0%}"
    return (
        f"| {name} | {' | '.join(cells)} | {needed} | {statistics.fmean(course.finished for course in courses):.0f} |"
    )


def table(courses: dict[str, list[SearchCourse]]) -> list[str]:
    target = ENOUGH * mean_course(courses[UNSTOPPED.name])[-1]
    head = ["| search |", *(f" {share:.0%} |" for share in SHARES), f" {ENOUGH:.0%} of the full search at | finished |"]
    return ["".join(head), "|" + " --- |" * (len(SHARES) + 3), *(row(name, c, target) for name, c in courses.items())]


def sweeper_against_full(courses: dict[str, list[SearchCourse]]) -> str:
    full = mean_course(courses[UNSTOPPED.name])[-1]
    at = {share: mean_course(courses[SWEEPER.name])[round(share * STEPS)] / full for share in (0.4, 1.0)}
    return (
        f"Of what the full search ends with, ours has {at[0.4]:.1%} after 40 % of its epochs (target: {ENOUGH:.0%}) "
        f"and {at[1.0]:.1%} after all of them."
    )


def against_the_authors(world: World, courses: Sequence[SearchCourse]) -> list[str]:
    trials = world.table.part("authors")
    objectives = sorted({str(trial.parameters["objective"]) for trial in trials})
    cost_epochs, points = world.authors()
    volume = hypervolume([point.validation for point in points], world.reference) / world.attainable
    budget_epochs = statistics.fmean(course.budget_epochs for course in courses)
    shares = [reached(course.volumes, volume) for course in courses]
    spent = sorted(math.inf if share is None else share * budget_epochs for share in shares)
    middle = statistics.median_low(spent)
    if math.isinf(middle):
        result = (
            f"ours has not reached that in the {budget_epochs:.0f} epochs of the full search with half of the seeds"
        )
    else:
        result = (
            f"ours has reached that after {middle:.1f} epochs (median over seeds), {middle / cost_epochs:.1%} of "
            f"theirs; target: 10 %. {sum(map(math.isinf, spent))} of {len(spent)} seeds never reach it"
        )
    return [
        f"The authors' grids ({len(trials)} trials in the table: 8 betas, 8 lambdas, 4 numbers of copies, 5 of images, "
        f"one at a time, for each of {', '.join(objectives)}; the image tower, at one learning rate) cost "
        f"{cost_epochs:.0f} epochs, evaluation included, and find {volume:.1%} of the attainable hypervolume; {result}."
    ]


def environment() -> str:
    return (
        f"Python {platform.python_version()}, Optuna {optuna.__version__}, NumPy {numpy.__version__}, {cpu()}, "
        "one thread per search. The numbers depend on seeds alone, not on the machine."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", type=Path, default=TABLE, help="the embedded world's response table")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=64, help="of the full search")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="file of finished searches; an interrupted run is continued")
    options = parser.parse_args()

    began_s = time.perf_counter()
    _problems.extend([World(options.table, known=True), World(options.table, known=False), *analytic()])
    for problem in _problems:
        _settings.extend(
            Setting(problem, method, options.trials, options.slots) for method in (*METHODS, *OTHER_POLICIES)
        )
    jobs: dict[str, tuple[int, int]] = {}
    for methods in (METHODS, OTHER_POLICIES):
        for seed in range(options.seeds):
            for number, setting in enumerate(_settings):
                if setting.method in methods:
                    name = f"{setting.problem.name}, {setting.method.name}"
                    jobs[f"{name}, {options.trials} trials, {options.slots} slots, seed {seed}"] = number, seed
    done = kept(options.keep)
    missing = {name: job for name, job in jobs.items() if name not in done}
    with multiprocessing.get_context("fork").Pool(options.workers) as pool:
        for name, course in zip(missing, pool.imap(run, missing.values()), strict=True):
            done[name] = course
            print(f"{name}: {time.perf_counter() - began_s:.0f} s", file=sys.stderr)
            if options.keep is not None:
                with options.keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"search": name, "course": asdict(course)}) + "\n")
    courses: dict[tuple[str, str], list[SearchCourse]] = {}
    for name, (number, _) in jobs.items():
        setting = _settings[number]
        courses.setdefault((setting.problem.name, setting.method.name), []).append(done[name])

    lines = ["# What searches find for the epochs they spend", "", environment(), ""]
    lines += [
        f"{options.seeds} seeds, {options.slots} slots. The full search trains {options.trials} trials to their end, "
        f"{EPOCHS} epochs each; every other search goes on until it has spent as many epochs. Rungs "
        f"{', '.join(f'{rung:.3f}' for rung in RUNGS)}, reduction factor {FACTOR:g} (Syne Tune's rule: "
        f"its default, {SYNE_TUNE_FACTOR:g}); {STARTUP_TRIALS} random trials before a sampler learns, {POPULATION} in "
        "NSGA-II's population. Time is counted in epochs of training, and an evaluation takes its share of one: "
        "after each epoch, at the rungs of a search that stops, and at a trial's end at further strengths.",
        "",
        "Shown is the share of the attainable hypervolume, in per cent, mean over seeds +- its standard error, after "
        "shares of the full search's epochs; then after which of them the mean is 99 % of what the full search ends "
        "with (target: 40 %), and how many trials were trained to their end.",
        "",
        "Rungs, reduction factor and the number of random trials are the defaults of a spec. They were chosen on these "
        "problems (10 of the seeds), so that ours is seen here at its best.",
    ]
    for problem in _problems:
        compared = {method.name: courses[problem.name, method.name] for method in METHODS}
        budget_epochs = statistics.fmean(course.budget_epochs for course in compared[UNSTOPPED.name])
        lines += ["", f"## {problem.name}", "", problem.about, f"The full search: {budget_epochs:.0f} epochs.", ""]
        lines += [*table(compared), "", sweeper_against_full(compared)]
        if isinstance(problem, World):
            lines += ["", *against_the_authors(problem, compared[SWEEPER.name])]
    lines += ["", "## What the sampler is told of stopped trials", ""]
    lines += [
        "TPE, MO-ASHA in each of the ways of `sweeper.search.sampler.StoppedTrialPolicy`; the default is "
        f"`{STOPPED_TRIAL_POLICY}`."
    ]
    for problem in _problems:
        names = [UNSTOPPED.name, *(method.name for method in OTHER_POLICIES)]
        compared = {name: courses[problem.name, name] for name in names}
        compared[STOPPED_TRIAL_POLICY] = courses[problem.name, SWEEPER.name]
        lines += ["", f"### {problem.name}", "", *table(compared)]
    publish("\n".join(lines) + "\n", options.output)


if __name__ == "__main__":
    main()

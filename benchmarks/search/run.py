"""What searches find for the epochs they spend: ``python benchmarks/search.py --output benchmarks/results/search.md``.

Hypervolume over epochs spent, evaluation included, under a virtual clock: ours, its parts and what else users run, on
analytic problems and on the embedded world's response table; then how the sampler is best told of stopped trials, and
what ours needs for what the authors' grids find.
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

from benchmarks.common.machine import cpu
from benchmarks.search.methods import (
    FACTOR,
    METHODS,
    OURS,
    POPULATION,
    RUNGS,
    STARTUP_TRIALS,
    SYNE_TUNE_FACTOR,
    TOLD,
    UNSTOPPED,
    Found,
    Method,
    run_sweep,
)
from benchmarks.search.problems import EPOCHS, Goals, Problem, World, analytic
from sweeper.front.pareto import hypervolume
from sweeper.search.sampler import STOPPED_TRIAL_POLICY

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
STEPS = 200
"""At which a search's hypervolume is noted, from 0 to the full search's epochs."""
ENOUGH = 0.99
TABLE = Path(__file__).parents[1] / "results" / "response_table.csv.gz"


@dataclass(frozen=True)
class SimulatedTrial:
    """One search with one seed."""

    volumes: list[float]
    """Share of the attainable hypervolume after each of STEPS + 1 equal parts of the full search's epochs."""
    budget_epochs: float
    finished: int


@dataclass(frozen=True)
class Setting:
    problem: Problem
    method: Method
    trials: int
    slots: int


_problems: list[Problem] = []
_settings: list[Setting] = []
"""For the processes that run them: problems and methods do not travel."""


def run(job: tuple[int, int]) -> SimulatedTrial:
    """One search; ``job``: number of the setting, seed."""
    setting, seed = _settings[job[0]], job[1]
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem, slots = setting.problem, setting.slots
    full = full_search(_problems.index(problem), seed, setting.trials, slots)
    budget_epochs = full[-1][0]
    found = full if setting.method is UNSTOPPED else setting.method.run(problem, seed, slots, budget_epochs)
    return SimulatedTrial(volumes(problem, found, budget_epochs), budget_epochs, len(found))


@cache
def full_search(problem: int, seed: int, trials: int, slots: int) -> Found:
    return run_sweep(_problems[problem], seed, slots, math.inf, trials=trials, stopping=False)


def volumes(problem: Problem, found: Found, budget_epochs: float) -> list[float]:
    course, front, seen = [0.0], list[Goals](), 0
    for part in range(1, STEPS + 1):
        spent = budget_epochs * part / STEPS * (1 + 1e-9)
        new = [point for at, points in found[seen:] if at <= spent for point in points]
        seen += sum(at <= spent for at, _ in found[seen:])
        front += new
        course.append(hypervolume(front, problem.reference) / problem.attainable if new else course[-1])
    return course


def kept(path: Path | None) -> dict[str, SimulatedTrial]:
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["search"]: SimulatedTrial(**line["course"]) for line in lines}


def mean_course(courses: Sequence[SimulatedTrial]) -> list[float]:
    return [statistics.fmean(course) for course in zip(*(one.volumes for one in courses), strict=True)]


def reached(course: Sequence[float], volume: float) -> float | None:
    """Share of the full search's epochs after which a course is at or above a volume."""
    return next((part / STEPS for part, one in enumerate(course) if one >= volume), None)


def row(name: str, courses: Sequence[SimulatedTrial], target: float) -> str:
    cells = []
    for share in SHARES:
        at = [course.volumes[round(share * STEPS)] for course in courses]
        cells.append(f"{100 * statistics.fmean(at):.1f} +- {100 * statistics.stdev(at) / math.sqrt(len(at)):.1f}")
    share_needed = reached(mean_course(courses), target)
    needed = "not reached" if share_needed is None else f"{share_needed:.0%}"
    return f"| {name} | {' | '.join(cells)} | {needed} | {statistics.fmean(one.finished for one in courses):.0f} |"


def table(courses: dict[str, list[SimulatedTrial]]) -> list[str]:
    target = ENOUGH * mean_course(courses[UNSTOPPED.name])[-1]
    head = ["| search |", *(f" {share:.0%} |" for share in SHARES), f" {ENOUGH:.0%} of the full search at | finished |"]
    return ["".join(head), "|" + " --- |" * (len(SHARES) + 3), *(row(name, c, target) for name, c in courses.items())]


def ours_against_full(courses: dict[str, list[SimulatedTrial]]) -> str:
    full = mean_course(courses[UNSTOPPED.name])[-1]
    at = {share: mean_course(courses[OURS.name])[round(share * STEPS)] / full for share in (0.4, 1.0)}
    return (
        f"Of what the full search ends with, ours has {at[0.4]:.1%} after 40 % of its epochs (target: {ENOUGH:.0%}) "
        f"and {at[1.0]:.1%} after all of them."
    )


def against_the_authors(world: World, courses: Sequence[SimulatedTrial]) -> list[str]:
    trials = world.table.part("authors")
    objectives = sorted({str(trial.parameters["objective"]) for trial in trials})
    cost_epochs, points = world.authors()
    volume = hypervolume(points, world.reference) / world.attainable
    budget_epochs = statistics.fmean(one.budget_epochs for one in courses)
    shares = [reached(one.volumes, volume) for one in courses]
    spent = sorted(math.inf if share is None else share * budget_epochs for share in shares)
    middle = statistics.median_low(spent)
    if math.isinf(middle):
        ours = f"ours has not reached that in the {budget_epochs:.0f} epochs of the full search with half of the seeds"
    else:
        ours = (
            f"ours has reached that after {middle:.1f} epochs (median over seeds), {middle / cost_epochs:.1%} of "
            f"theirs; target: 10 %. {sum(map(math.isinf, spent))} of {len(spent)} seeds never reach it"
        )
    return [
        f"The authors' grids ({len(trials)} trials in the table: 8 betas, 8 lambdas, 4 numbers of copies, 5 of images, "
        f"one at a time, for each of {', '.join(objectives)}; the image tower, at one learning rate) cost "
        f"{cost_epochs:.0f} epochs, evaluation included, and find {volume:.1%} of the attainable hypervolume; {ours}."
    ]


def environment() -> str:
    return (
        f"Python {platform.python_version()}, Optuna {optuna.__version__}, NumPy {numpy.__version__}, {cpu()}, "
        "one thread per search. The numbers depend on seeds alone, not on the machine."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", type=Path, default=TABLE, help="the embedded world's response table")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=64, help="of the full search")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="file for what is done, so that a run that was ended goes on")
    options = parser.parse_args()

    began_s = time.perf_counter()
    _problems.extend([World(options.table, known=True), World(options.table, known=False), *analytic()])
    for problem in _problems:
        _settings.extend(Setting(problem, method, options.trials, options.slots) for method in (*METHODS, *TOLD))
    jobs: dict[str, tuple[int, int]] = {}
    for methods in (METHODS, TOLD):
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
    courses: dict[tuple[str, str], list[SimulatedTrial]] = {}
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
        mine = {method.name: courses[problem.name, method.name] for method in METHODS}
        budget_epochs = statistics.fmean(one.budget_epochs for one in mine[UNSTOPPED.name])
        lines += ["", f"## {problem.name}", "", problem.about, f"The full search: {budget_epochs:.0f} epochs.", ""]
        lines += [*table(mine), "", ours_against_full(mine)]
        if isinstance(problem, World):
            lines += ["", *against_the_authors(problem, mine[OURS.name])]
    lines += ["", "## What the sampler is told of stopped trials", ""]
    lines += [
        "TPE and MO-ASHA under each `StoppedTrialPolicy` of sweeper/search/sampler.py; the default is "
        f"`{STOPPED_TRIAL_POLICY}`."
    ]
    for problem in _problems:
        told = {name: courses[problem.name, name] for name in (UNSTOPPED.name, *(method.name for method in TOLD))}
        told[STOPPED_TRIAL_POLICY] = courses[problem.name, OURS.name]
        lines += ["", f"### {problem.name}", "", *table(told)]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

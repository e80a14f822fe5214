"""What a user gets from a search: goals on test of what is chosen on validation, over epochs and numbers of trials.

    python -m benchmarks.search.merit --output benchmarks/results/merit.md

Searches are simulated over trained trials: scattered ones (``benchmarks.search.scattered_problem``) and the response
table. ``--keep`` names a file of finished searches, with which an interrupted run goes on.

Syne Tune and NePS have an environment of their own: ``pip install -r benchmarks/peers.txt`` into a new one, and run the
command with its Python. Without them their rows are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import optuna

from benchmarks.common.machine import environment, publish
from benchmarks.search.methods import (
    FACTOR,
    STARTUP_TRIALS,
    SYNE_TUNE_FACTOR,
    mean,
    run_asha,
    run_default_tpe,
    run_gp,
    run_nsga2,
    run_primo,
    run_sweep,
    run_syne_tune,
)
from benchmarks.search.peers import PEER_FACTOR, PRIOR_CONFIDENCE, FinishedTrials, cost_epochs
from benchmarks.search.problems import Goals, MeasuredPoint, TestedProblem, World
from benchmarks.search.scattered_problem import FLOOR, SEEN_IMAGES, SHARE, load_recordings, scattered_problem
from sweeper.search.pareto import hypervolume, knee, non_dominated
from sweeper.spec.middle import values_of

RESULTS = Path(__file__).parents[1] / "results"
SHARES = (0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
FULL_TRIALS = 64
"""A full search may spend the epochs of so many trials that are trained to their end."""
TRIALS = (1, 3, 10, 30, 100)
SLOTS = 4
CLEAN_COST = 0.01
"""Of the picked point, at most."""
MARGIN = 0.01
"""By which a point may fall short of the front and is looked at."""
LOOK_EPOCHS = 0.03
AUTHORS_SHARE = 0.1
"""Of the cost of the authors' grids: so much ours may spend."""
SLOW_SEEDS, SLOW_SHARE = 10, 0.3
"""Seeds, and share of a full search's epochs, of searches whose suggestions take more than a second."""
JUDGED_SHARES = (0.3, 1.0)
JUDGED_ERRORS = 2.0
"""By so many standard errors of the paired difference a search is better or worse than ours."""
JUDGED_PROBLEMS = 2
"""On so many problems a search has to be better, and on none worse, to become the default."""

Search = list[tuple[float, list[MeasuredPoint]]]
"""(epochs spent by all slots until its end, points) of each trial that came to its end, in order of time."""
RunTrials = Callable[[TestedProblem, int, float, int, int], FinishedTrials]
"""(problem, seed, budget in epochs, trials, trials that first points are planned for) -> finished trials."""


@dataclass(frozen=True)
class Merit:
    """What is chosen from the points of a search, all but the first number on test."""

    validation_volume: float
    """Hypervolume of the chosen front on the images that chose it, above the untouched model's robust and its clean
    accuracy - ``FLOOR``."""
    test_volume: float
    robust: float
    """Robust accuracy of the pick: the most robust point with a clean cost of at most ``CLEAN_COST``, both on the
    images that chose; the untouched model where there is none."""
    clean_cost: float
    """Clean accuracy of the untouched model minus that of the pick."""
    knee: float
    """Mean of both goals at the front's knee; the untouched model's where there is no front."""


def merit(points: Sequence[MeasuredPoint], untouched: MeasuredPoint, *, looked: bool = False) -> Merit:
    """``looked``: points near the front are measured on further validation images, and all is chosen on both."""
    values = _seen(points)
    floors = _floors(untouched.validation)
    of_untouched = untouched.validation
    if looked:
        points = [points[index] for index in near(values, floors)]
        values = _on_both(points)
        of_untouched = _on_both([untouched])[0]
        floors = _floors(of_untouched)
    above = [i for i, value in enumerate(values) if value[0] >= floors[0] and value[1] > floors[1]]
    kept = non_dominated([values[i] for i in above])
    front = [i for i, keep in zip(above, kept, strict=True) if keep]
    allowed = [i for i, value in enumerate(values) if value[0] >= of_untouched[0] - CLEAN_COST]
    pick = max(allowed, key=lambda i: values[i][1], default=None)
    picked = untouched if pick is None or values[pick][1] < of_untouched[1] else points[pick]
    best = untouched if not front else points[front[knee([values[i] for i in front])]]
    return Merit(
        validation_volume=hypervolume([values[i] for i in front], floors),
        test_volume=hypervolume([points[i].test for i in front], _floors(untouched.test)),
        robust=picked.test[1],
        clean_cost=untouched.test[0] - picked.test[0],
        knee=mean(best.test),
    )


def near(values: Sequence[Goals], floors: Goals) -> list[int]:
    """Return the indices of the points that a second look takes, as ``sweeper.front.second_look.near_front`` does:
    those that would be on the front, if both of their goals were better by ``MARGIN``."""
    above = [value for value in values if value[0] >= floors[0] and value[1] > floors[1]]
    front = np.array([value for value, keep in zip(above, non_dominated(above), strict=True) if keep]).reshape(-1, 2)
    better = np.array(values).reshape(-1, 2) + MARGIN
    dominated = (front[None] >= better[:, None]).all(-1).any(-1)
    return [int(i) for i in np.flatnonzero(~dominated & (better[:, 0] >= floors[0]) & (better[:, 1] > floors[1]))]


def merit_until(
    search: Search, untouched: MeasuredPoint, epochs: float, *, looked: bool = False, look_epochs: float = LOOK_EPOCHS
) -> Merit:
    """Return the merit of what a search has found for so many epochs; those of a second look are spent at its end.

    Args:
        look_epochs: cost of a second look, per point.
    """
    trials = [(spent, points) for spent, points in search if spent <= epochs * (1 + 1e-9)]
    while looked and trials:
        values = _seen([point for _, points in trials for point in points])
        if trials[-1][0] + look_epochs * len(near(values, _floors(untouched.validation))) <= epochs:
            break
        trials.pop()
    return merit([point for _, points in trials for point in points], untouched, looked=looked)


def _seen(points: Sequence[MeasuredPoint]) -> list[Goals]:
    return [point.validation for point in points]


def _on_both(points: Sequence[MeasuredPoint]) -> list[Goals]:
    """Goals on the images of the search and of the second look."""
    both = [point.looked for point in points if point.looked is not None]
    assert len(both) == len(points), "only problems with further validation images have a second look"
    return both


def _floors(untouched: Goals) -> Goals:
    return untouched[0] - FLOOR, untouched[1]


@dataclass(frozen=True)
class Method:
    name: str
    run: RunTrials
    trials: tuple[int, ...] = TRIALS
    slow: bool = False
    """Whether a suggestion takes more than a second: ``SLOW_SEEDS`` seeds, and no longer than ``SLOW_SHARE``."""
    over_epochs: bool = True
    """Whether it also runs for the epochs of a full search."""
    judged: bool = False
    """Whether it is given the first points of ours and is compared with ours."""

    @property
    def share(self) -> float:
        """Of the epochs of a full search."""
        return SLOW_SHARE if self.slow else 1.0


def _sweep(sampler: str, factor: float, with_points: bool) -> RunTrials:
    def run(problem: TestedProblem, seed: int, epochs: float, trials: int, planned: int) -> FinishedTrials:
        return run_sweep(
            problem,
            seed,
            SLOTS,
            epochs,
            trials=trials,
            sampler="random" if sampler == "random" else "tpe",
            factor=factor,
            first_points_for=planned if with_points else None,
        )

    return run


def _peer(run_peer: Callable[..., FinishedTrials], *, with_points: bool) -> RunTrials:
    def run(problem: TestedProblem, seed: int, epochs: float, trials: int, planned: int) -> FinishedTrials:
        points = planned if with_points else None
        return run_peer(problem, seed, SLOTS, epochs, trials=trials, first_points_for=points)

    return run


def _given_points(name: str, run_peer: Callable[..., FinishedTrials], *, slow: bool = False) -> Method:
    return Method(f"{name}, first points", _peer(run_peer, with_points=True), trials=(), slow=slow, judged=True)


OURS = Method("TPE, MO-ASHA, first points (ours)", _sweep("tpe", FACTOR, True))
SINGLE = Method(
    "one cross-entropy training, its strengths (PAINT)", _sweep("tpe", FACTOR, True), (1,), over_epochs=False
)
PACKAGES = {
    "syne_tune": (_given_points("random, MO-ASHA (Syne Tune)", run_syne_tune),),
    "neps": (_given_points("PriMO (NePS), priors", run_primo, slow=True),),
}
"""Module -> searches that need it."""
METHODS = (
    OURS,
    Method("random, MO-ASHA, first points", _sweep("random", SYNE_TUNE_FACTOR, True), judged=True),
    _given_points("TPE, default (Optuna)", run_default_tpe),
    _given_points("GP (Optuna)", run_gp, slow=True),
    _given_points("NSGA-II (Optuna)", run_nsga2),
    _given_points("TPE, ASHA on the goals' mean (Optuna)", partial(run_asha, merit=mean)),
    *(method for module, methods in PACKAGES.items() if find_spec(module) is not None for method in methods),
    Method("TPE, MO-ASHA, no first points", _sweep("tpe", FACTOR, False)),
    Method("TPE, default (Optuna)", _peer(run_default_tpe, with_points=False)),
    Method("NSGA-II (Optuna)", _peer(run_nsga2, with_points=False)),
    Method("TPE, ASHA on the goals' mean (Optuna)", _peer(partial(run_asha, merit=mean), with_points=False), trials=()),
    SINGLE,
)
NAMES = {"syne_tune": "syne-tune", "neps": "neural-pipeline-search"}
"""Module -> name of its package."""
MANY_TRIALS = 100_000


def full_epochs(problem: TestedProblem) -> float:
    """Return the epochs of a full search: of ``FULL_TRIALS`` trials, mean over the scopes."""
    scopes = values_of(problem.space, "tune")
    return FULL_TRIALS * statistics.fmean(sum(cost_epochs(problem, {"tune": tune}, (), 1.0)) for tune in scopes)


@dataclass(frozen=True)
class Job:
    method: Method
    seed: int
    trials: int | None
    """None: as many as the epochs of a full search allow."""

    @property
    def name(self) -> str:
        return f"{self.method.name}, seed {self.seed}, {self.trials or 'full'}"

    def run(self, problem: TestedProblem) -> Search:
        if self.trials is None:
            epochs = self.method.share * full_epochs(problem)
            finished = self.method.run(problem, self.seed, epochs, MANY_TRIALS, FULL_TRIALS)
        else:
            finished = self.method.run(problem, self.seed, math.inf, self.trials, self.trials)
        return [(trial.spent_epochs, list(problem.measured(trial.parameters))) for trial in finished]


def jobs(methods: Sequence[Method], seeds: int) -> Iterator[Job]:
    for seed in range(seeds):
        for method in methods:
            if seed < SLOW_SEEDS or not method.slow:
                if method.over_epochs:
                    yield Job(method, seed, None)
                yield from (Job(method, seed, trials) for trials in method.trials)


@dataclass(frozen=True)
class Compared:
    """All searches of one problem."""

    title: str
    about: str
    methods: Sequence[Method]
    problem_of: Callable[[int], TestedProblem]
    """Of a seed; unused, as new."""
    has_looks: bool
    searches: dict[Job, Search]
    look_epochs: float = LOOK_EPOCHS

    def over_epochs(self, method: Method, share: float, looked: bool) -> list[Merit]:
        """Per seed, after a share of the epochs of a full search; none where it did not run for so long."""
        merits: list[Merit] = []
        if share > method.share + 1e-9:
            return merits
        for job, search in self._of(method, None if method.over_epochs else method.trials[0]):
            problem = self.problem_of(job.seed)
            epochs = share * full_epochs(problem)
            merits.append(merit_until(search, problem.untouched, epochs, looked=looked, look_epochs=self.look_epochs))
        return merits

    def gains(self, method: Method, share: float, looked: bool) -> list[float]:
        """Return a search's hypervolume on test minus that of ours, per seed that both have."""
        pairs = zip(self.over_epochs(method, share, looked), self.over_epochs(OURS, share, looked), strict=False)
        return [theirs.test_volume - ours.test_volume for theirs, ours in pairs]

    def over_trials(self, method: Method, trials: int, looked: bool) -> list[Merit]:
        """Per seed, at the end of a search of so many trials; epochs of a second look come on top."""
        return [
            merit_until(search, self.problem_of(job.seed).untouched, math.inf, looked=looked)
            for job, search in self._of(method, trials)
        ]

    def epochs(self, method: Method, trials: int) -> str:
        """Return the mean, as a cell."""
        spent = [search[-1][0] for _, search in self._of(method, trials) if search]
        return f"{statistics.fmean(spent):.0f}" if spent else "-"

    def everything(self, seeds: int, looked: bool) -> list[Merit]:
        """Per seed, of all trials that its search may find."""
        problems = map(self.problem_of, range(seeds))
        return [merit(problem.everything(), problem.untouched, looked=looked) for problem in problems]

    def _of(self, method: Method, trials: int | None) -> list[tuple[Job, Search]]:
        return [(job, one) for job, one in self.searches.items() if job.method is method and job.trials == trials]

    def looks(self) -> tuple[bool, ...]:
        return (False, True) if self.has_looks else (False,)


def run_all(compared: Compared, seeds: int, keep: Path | None, key: str) -> None:
    """Run the searches that ``keep`` does not hold. ``key``: of the problem, in that file."""
    done: dict[str, Search] = {}
    if keep is not None and keep.exists():
        for line in map(json.loads, keep.read_text(encoding="utf-8").splitlines()):
            done[line["search"]] = [(spent, list(map(_point, points))) for spent, points in line["trials"]]
    began_s = time.perf_counter()
    for job in jobs(compared.methods, seeds):
        name = f"{key}, {job.name}"
        if name not in done:
            done[name] = job.run(compared.problem_of(job.seed))
            print(f"{name}: {time.perf_counter() - began_s:.0f} s", file=sys.stderr)
            if keep is not None:
                trials = [[spent, [[p.validation, p.looked, p.test] for p in points]] for spent, points in done[name]]
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"search": name, "trials": trials}) + "\n")
        compared.searches[job] = done[name]


def _point(goals: Sequence[Sequence[float] | None]) -> MeasuredPoint:
    validation, looked, test = (None if pair is None else (pair[0], pair[1]) for pair in goals)
    assert validation is not None and test is not None
    return MeasuredPoint(validation, looked, test)


# The results file


def error_of(values: Sequence[float]) -> float:
    """Return the standard error of a mean."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def cell(values: Sequence[float], scale: float, digits: int) -> str:
    if not values:
        return "-"
    return f"{scale * statistics.fmean(values):.{digits}f} +- {scale * error_of(values):.{digits}f}"


VOLUME = 1e4, 0
"""Scale and digits of a hypervolume, in points^2."""
PERCENT = 100.0, 1


def tables(compared: Compared, seeds: int) -> list[str]:
    lines = []
    for looked in compared.looks():
        chosen = "after a second look" if looked else "chosen on validation"
        over = [method for method in compared.methods if method.over_epochs or method is SINGLE]
        shares = "".join(f" {share:.0%} |" for share in SHARES)
        lines += ["", f"### Over the epochs of a full search, {chosen}", ""]
        lines += ["Hypervolume on test; in the last columns that on validation and the finished trials.", ""]
        lines += [f"| search |{shares} validation, 100% | finished |", "|" + " --- |" * (len(SHARES) + 3)]
        for method in over:
            merits = [compared.over_epochs(method, share, looked) for share in SHARES]
            cells = [cell([one.test_volume for one in column], *VOLUME) for column in merits]
            cells.append(cell([one.validation_volume for one in merits[-1]], *VOLUME))
            full = None if method.over_epochs else method.trials[0]
            cells.append(f"{statistics.fmean(len(search) for _, search in compared._of(method, full)):.0f}")
            lines.append(f"| {method.name} | {' | '.join(cells)} |")
        whole = compared.everything(seeds, looked)
        lines += ["", f"All recorded trainings: {cell([one.test_volume for one in whole], *VOLUME)} on test, "]
        lines[-1] += f"{cell([one.validation_volume for one in whole], *VOLUME)} on validation; robust accuracy of the "
        lines[-1] += f"pick {cell([one.robust for one in whole], *PERCENT)} per cent."
        lines += ["", "Robust accuracy on test of the pick, per cent; in the last column its clean cost on test.", ""]
        lines += [f"| search |{shares} clean cost, 100% |", "|" + " --- |" * (len(SHARES) + 2)]
        for method in over:
            merits = [compared.over_epochs(method, share, looked) for share in SHARES]
            cells = [cell([one.robust for one in column], *PERCENT) for column in merits]
            cells.append(cell([one.clean_cost for one in merits[-1]], *PERCENT))
            lines.append(f"| {method.name} | {' | '.join(cells)} |")
        numbers = "".join(f" {trials} |" for trials in TRIALS)
        by_trials = [method for method in compared.methods if method.trials]
        for title, value in (("Hypervolume on test", "volume"), ("Robust accuracy on test of the pick", "robust")):
            lines += ["", f"### {title} by the number of trials, {chosen}", ""]
            lines += [f"| search |{numbers}", "|" + " --- |" * (len(TRIALS) + 1)]
            for method in by_trials:
                cells = []
                for trials in TRIALS:
                    merits_then = compared.over_trials(method, trials, looked)
                    values = [one.test_volume if value == "volume" else one.robust for one in merits_then]
                    cells.append(cell(values, *(VOLUME if value == "volume" else PERCENT)))
                lines.append(f"| {method.name} | {' | '.join(cells)} |")
        lines += ["", f"### Overtuning, {chosen}", ""]
        lines += ["Of all seeds: at the knee, the mean of both goals on test is worse than at the first point's."]
        lines += ["", f"| search |{numbers}", "|" + " --- |" * (len(TRIALS) + 1)]
        first = [one.knee for one in compared.over_trials(SINGLE, 1, looked)]
        for method in by_trials:
            cells = []
            for trials in TRIALS:
                knees = [one.knee for one in compared.over_trials(method, trials, looked)]
                worse = sum(own < alone - 1e-12 for own, alone in zip(knees, first, strict=False))
                cells.append(f"{worse} of {len(knees)}" if knees else "-")
            lines.append(f"| {method.name} | {' | '.join(cells)} |")
    lines += ["", "### Epochs until the last trial ended, idle slots included", ""]
    lines += [f"| search |{numbers}", "|" + " --- |" * (len(TRIALS) + 1)]
    for method in by_trials:
        cells = [compared.epochs(method, trials) for trials in TRIALS]
        lines.append(f"| {method.name} | {' | '.join(cells)} |")
    return lines


def share_of_full(compared: Compared, share: float, looked: bool) -> float:
    """Return how much of its final hypervolume on test ours has after a share of the epochs."""
    then, end = (
        statistics.fmean(one.test_volume for one in compared.over_epochs(OURS, at, looked)) for at in (share, 1.0)
    )
    return then / end


def against_single(compared: Compared, looked: bool) -> list[str]:
    """Ours minus one cross-entropy training, paired by seed, per number of trials."""
    lines = []
    alone = compared.over_trials(SINGLE, 1, looked)
    for trials in TRIALS:
        ours = compared.over_trials(OURS, trials, looked)
        volumes = [own.test_volume - one.test_volume for own, one in zip(ours, alone, strict=True)]
        robust = [own.robust - one.robust for own, one in zip(ours, alone, strict=True)]
        met = all(statistics.fmean(values) >= -error_of(values) for values in (volumes, robust))
        lines.append(
            f"{trials} trials: hypervolume {cell(volumes, *VOLUME)}, robust {cell(robust, *PERCENT)}: {verdict(met)}"
        )
    return lines


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def targets(scattered: Compared | None, world: Compared, table: World) -> list[str]:
    lines = ["", "## Targets", ""]
    for compared, share, enough in ((scattered, 0.3, 0.99), (world, 0.1, 0.98)):
        if compared is None:
            continue
        for looked in compared.looks():
            reached = share_of_full(compared, share, looked)
            lines.append(
                f"- {compared.title}{', second look' if looked else ''}: ours has {reached:.1%} of its final "
                f"hypervolume on test after {share:.0%} of the epochs (target {enough:.0%}): "
                f"{verdict(reached >= enough)}"
            )
    lines += against_authors(world, table)
    for each in filter(None, (scattered, world)):
        for looked in each.looks():
            lines.append(
                f"- {each.title}{', second look' if looked else ''}: ours minus one cross-entropy training "
                "(target: at most a standard error below it, in hypervolume and in robust accuracy)"
            )
            lines += [f"  - {line}" for line in against_single(each, looked)]
    return lines + judge([one for one in (scattered, world) if one is not None])


def against_authors(world: Compared, table: World) -> list[str]:
    """Return a line on the authors' whole grids, and on those of their trainings that a search over the table has."""
    lines = []
    grids = ((None, "the authors' grids"), (1, "those with one attacked copy per image, as all that is searched here"))
    for most_copies, name in grids:
        cost_epochs, points = table.authors(most_copies=most_copies)
        theirs = merit(points, table.untouched)
        ours = world.over_epochs(OURS, AUTHORS_SHARE * cost_epochs / full_epochs(table), False)
        met = statistics.fmean(one.test_volume for one in ours) >= theirs.test_volume
        lines.append(
            f"- response table: {name}: {cost_epochs:.0f} epochs, hypervolume on test "
            f"{1e4 * theirs.test_volume:.0f}, robust accuracy of the pick {100 * theirs.robust:.1f}; ours for "
            f"{AUTHORS_SHARE:.0%} of that {cell([one.test_volume for one in ours], 1e4, 0)} and "
            f"{cell([one.robust for one in ours], 100, 1)} (target: their front): {verdict(met)}"
        )
    return lines


def judge(compared: Sequence[Compared]) -> list[str]:
    """Say whether a search that is given the first points of ours is to become the default."""
    rows, verdicts = [], []
    for method in METHODS:
        if not method.judged:
            continue
        better = worse = 0
        for problem in compared:
            signs = set[int]()
            for looked in problem.looks():
                cells = []
                for share in JUDGED_SHARES:
                    gains = problem.gains(method, share, looked)
                    signs.add(sign_of(gains))
                    cells.append(cell(gains, VOLUME[0], 1))
                title = f"{problem.title}{', second look' if looked else ''}"
                rows.append(f"| {method.name} | {title} | {' | '.join(cells)} |")
            better, worse = better + (1 in signs), worse + (-1 in signs)
        default = better >= JUDGED_PROBLEMS and worse == 0
        verdicts.append(
            f"  - {method.name}: better on {better} of {len(compared)} problems, worse on {worse}: "
            f"{'**becomes the default**' if default else 'not the default'}"
        )
    shares = "".join(f" {share:.0%} |" for share in JUDGED_SHARES)
    return [
        f"- A search with the same first points becomes the default where it is better than ours on {JUDGED_PROBLEMS} "
        f"problems and worse on none: by {JUDGED_ERRORS:g} standard errors of the paired difference over seeds, in "
        f"hypervolume on test, at {' or at '.join(f'{share:.0%}' for share in JUDGED_SHARES)} of the epochs, with or "
        "without a second look",
        *verdicts,
        "",
        "Hypervolume on test minus that of ours with the same seed, in points^2:",
        "",
        f"| search | problem |{shares}",
        "|" + " --- |" * (len(JUDGED_SHARES) + 2),
        *rows,
    ]


def sign_of(gains: Sequence[float]) -> int:
    """Return 1 or -1 where paired differences are positive or negative by ``JUDGED_ERRORS`` standard errors, else 0."""
    if len(gains) < 2:
        return 0
    mean_gain, least = statistics.fmean(gains), max(JUDGED_ERRORS * error_of(gains), 1e-12)
    return 0 if abs(mean_gain) <= least else 1 if mean_gain > 0 else -1


def text(compared: Sequence[Compared], scattered: Compared | None, world: Compared, table: World, seeds: int) -> str:
    left_out = [method.name for module, own in PACKAGES.items() if find_spec(module) is None for method in own]
    packages = ("optuna", "numpy", "scipy", *(name for module, name in NAMES.items() if find_spec(module) is not None))
    lines = [
        "# What a user gets from a search",
        "",
        f"{environment(*packages)}. The numbers depend on seeds and recorded trials, not on the machine.",
        *([f"Left out, as their package is not installed: {'; '.join(left_out)}."] if left_out else []),
        "",
        f"{seeds} seeds ({min(seeds, SLOW_SEEDS)} where a suggestion takes more than a second: GP and PriMO, which "
        f"also run for {SLOW_SHARE:.0%} of the epochs only), mean +- standard error over seeds. "
        f"{SLOTS} slots. Hypervolume in points^2 above the untouched model's robust and its clean accuracy - "
        f"{FLOOR:g}. The pick is the most robust point with at most {100 * CLEAN_COST:g} point of clean cost. "
        "Everything is chosen on validation and shown on test. A full search spends the epochs of "
        f"{FULL_TRIALS} trials trained to their end; evaluations cost their recorded share. A search of n trials is "
        "what a sweep with `trials: n` does, first points planned for n; those that are stopped count.",
        "",
        f"A second look measures the points within {MARGIN:g} of the front on further validation images, and all is "
        f"chosen on both. Over epochs, each such point costs {world.look_epochs:g} epochs, an estimate for 50 000 "
        "pairs an epoch; by the number of trials it comes on top.",
        "",
        f"Random trials before a sampler learns: {STARTUP_TRIALS}. Reduction factor {FACTOR:g}, of random search "
        f"{SYNE_TUNE_FACTOR:g}. Sweeps and peers learn from an ended trial at the recorded parameters; sweeps plan "
        "their first points, and a running trial stands in a peer's study, at those asked for. Optuna's GP learns the "
        "parameters that all trials have; it draws the others at random.",
        "",
        "Peers with first points are given those of ours, each as soon as ours would try it, and train them to their "
        "end, as ours does. The default TPE has the settings of Optuna 5; it, GP and NSGA-II stop no trial, as Optuna "
        "supports that for one goal only. ASHA on the goals' mean is what users of W&B and Ray do, a weighted sum. "
        "The one cross-entropy training is our first point; its strengths are PAINT's: weights between the untouched "
        "and the trained ones. It costs one trial, whatever the epochs.",
        "",
        f"Syne Tune's MO-ASHA (reduction factor {PEER_FACTOR}) and PriMO are the packages' own code. They know no "
        "conditions, so that each branch of a parameter is one of its own. Syne Tune 0.16 takes the order of the "
        "trials for their ranks, so that random search with our MO-ASHA is the row of the published rule. PriMO has "
        "the middle point, which is our first one, as the prior of each goal (confidence "
        f"{PRIOR_CONFIDENCE:g}, NePS's high), and the first points as trials given to it, which pay for its initial "
        "design. A trial that it promotes goes on from its last rung.",
        *targets(scattered, world, table),
    ]
    for one in compared:
        lines += ["", f"## {one.title}", "", one.about, *tables(one, seeds)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the results file")
    parser.add_argument("--recordings", type=Path, default=RESULTS, help="folder of scattered_SCOPE.npz")
    parser.add_argument("--table", type=Path, default=RESULTS / "response_table.csv.gz")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--look-epochs", type=float, default=LOOK_EPOCHS, help="cost of a second look per point")
    parser.add_argument("--keep", type=Path, help="file of finished searches; an interrupted run is continued")
    options = parser.parse_args()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    recordings = load_recordings(options.recordings)
    scattered = None
    if recordings:
        problems = [scattered_problem(recordings, seed) for seed in range(options.seeds)]
        counts = [sum(map(len, problem.entries.values())) for problem in problems]
        settings = {one.conditions.scope: len({t.number for t in one.trainings}) for one in recordings}
        further = recordings[0].conditions.sizes.validation - SEEN_IMAGES
        costs = ", ".join(f"{cost:.2f} of an epoch ({scope})" for scope, cost in problems[0].evaluation_cost.items())
        about = (
            f"Settings that were trained: {', '.join(f'{n} ({scope})' for scope, n in settings.items())}. A seed cuts "
            f"each range of learning rate, lambda and beta to {SHARE:g} of its width ({min(counts)} to {max(counts)} "
            f"trainings lie inside) and draws the {SEEN_IMAGES} validation images that the search sees; {further} are "
            "left for the second look. A trial stands for the nearest training that the search has not had. An "
            f"evaluation costs {costs}, a second look in this small world {further / SEEN_IMAGES:g} times that per "
            "point."
        )
        scattered = Compared(
            "scattered trainings",
            about,
            METHODS,
            lambda seed: replace(problems[seed]),
            True,
            {},
            options.look_epochs,
        )
        run_all(scattered, options.seeds, options.keep, f"scattered {settings}")
    table = World(options.table, known=False)
    world = Compared("response table", table.about, METHODS, lambda seed: table, False, {}, options.look_epochs)
    run_all(world, options.seeds, options.keep, "table")
    compared = [world] if scattered is None else [scattered, world]
    publish(text(compared, scattered, world, table, options.seeds), options.output)


if __name__ == "__main__":
    main()

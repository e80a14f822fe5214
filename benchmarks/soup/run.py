"""What share of a sweep's hypervolume mixes of a few trained anchors reach, and at what share of the sweep's cost.

    python -m benchmarks.soup.run

The sweep is multi-objective TPE over the response table (``benchmarks.search.response_table``); the anchors are trained
here, on the same images. Points are chosen on validation and compared on test. Cost is counted in images: an image
counts three times when it is trained on and once when it is evaluated; sweep and strategies pay for their validation
images alike. Writes tables to --output and a picture to --picture; with --cache, an interrupted run is continued.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import torch

from benchmarks.common.machine import publish
from benchmarks.search.response_table import world_task
from benchmarks.search.table import Part, RecordedTrial, Table, load_table
from benchmarks.soup.figure import draw
from benchmarks.soup.mixing import BACKWARD, Anchor, AnchorKey, MixedPoint, Mixer, Value, lines, metric
from benchmarks.soup.points import Comparison, Point, StrategyResult, SweepCourse
from benchmarks.soup.strategies import LAMBDA_MIDDLE, STRATEGIES, STRENGTHS, TRANSFORM_STRATEGIES, Scope, Strategy
from sweeper.search.pareto import hypervolume, non_dominated
from trainables.context.trial_context import TrialContext
from trainables.settings.parameters import Parameters
from trainables.tasks.known import open_context

TRIALS = 64
"""Of the full sweep."""
SWEEPS = 5
"""Seeds of the full sweep, which trains nothing: its trials are in the response table."""
FIRST_TRIALS, MEMBERS = 8, 3
"""Trials of a small sweep, and members of its front that are mixed."""
FLOOR = 0.10
"""Clean accuracy that a point may lose against the untouched model and still count, as in the quickstart."""
NEARLY_FREE = 0.02
"""A second, stricter floor: clean accuracy that nearly free points lose at most."""
BAR = (0.90, 0.20)
"""Least share of the hypervolume, and largest share of the cost, at which strategies are worth a mode of sweeper."""


def front_of(points: Sequence[Point], untouched: Point) -> list[Point]:
    """Return the points above the floor, and the untouched model, that are not dominated on validation."""
    floor = untouched.validation[0] - FLOOR
    allowed = [untouched, *(point for point in points if point.validation[0] >= floor)]
    kept = non_dominated([point.validation for point in allowed])
    return [point for point, keep in zip(allowed, kept, strict=True) if keep]


def validation_volume(points: Sequence[Point], untouched: Point) -> float:
    """Return the hypervolume over (untouched clean - ``FLOOR``, untouched robust) on validation."""
    return _volume([point.validation for point in points], untouched.validation, FLOOR)


def test_volume(points: Sequence[Point], untouched: Point, floor: float = FLOOR) -> float:
    """Return the hypervolume over (untouched clean - floor, untouched robust) on test."""
    return _volume([point.test for point in points], untouched.test, floor)


def _volume(values: Sequence[Value], untouched: Value, floor: float) -> float:
    return hypervolume(values, (untouched[0] - floor, untouched[1]))


def sweep(
    table: Table,
    tune: str,
    seed: int,
    *,
    trials: int = TRIALS,
    objectives: Sequence[str] = ("dpo", "ipo", "kto", "cross_entropy"),
    first: Parameters | None = None,
) -> list[RecordedTrial]:
    """Return the trials of a search over the table's grid: TPE as sweeper runs it, one trial at a time.

    ``first``: parameters of the first trial; None: the sampler chooses it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, warn_independent_sampling=False)
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
    chosen = []
    for number in range(trials):
        if number == 0 and first is not None:
            point: dict[str, Any] = table.nearest(first.model_dump(exclude_defaults=True)).parameters
            choices = table.choices(tune=tune, objective=point["objective"])
            names = [name for name in choices if name not in ("tune", "objective")]
            study.enqueue_trial({n: choices[n].index(point[n]) for n in names} | {"objective": point["objective"]})
        trial = study.ask()
        point = {"tune": tune}
        point["objective"] = trial.suggest_categorical("objective", objectives)
        for name, values in sorted(table.choices(tune=tune, objective=point["objective"]).items()):
            if name not in point:
                index = trial.suggest_int(
                    f"{name} of {point['objective']}" if name == "beta" else name, 0, len(values) - 1
                )
                point[name] = values[index]
        chosen.append(table.find(point))
        study.tell(trial, chosen[-1].points[0].validation)
    return chosen


def course_of(trials: Sequence[RecordedTrial], untouched: Point) -> SweepCourse:
    """Return cost and hypervolume after each trial: it pays for its steps, an evaluation per epoch and its points."""
    course, points, cost = SweepCourse([], [], [], []), [], 0
    for trial in trials:
        evaluations = sum(row.epoch == int(row.epoch) for row in trial.course) + len(trial.points) - 1
        cost += BACKWARD * trial.points[0].image_steps + evaluations * trial.course[0].evaluation_images
        points += [Point(point.validation, point.test) for point in trial.points]
        front = front_of(points, untouched)
        course.costs.append(cost)
        course.validation.append(validation_volume(front, untouched))
        course.test.append(test_volume(front, untouched))
    course.front.extend(front)
    return course


def small_sweep(table: Table, untouched: Point, trials: int) -> Strategy:
    """The first trials of a search over transforms, and mixes of those that are on its front."""

    def strategy(mixer: Mixer, scope: Scope) -> list[MixedPoint]:
        swept = sweep(table, scope.tune, mixer.seed, trials=trials)
        mixer.cost.evaluation_images += course_of(swept, untouched).costs[-1]
        mixer.cost.trainings += trials
        points = [MixedPoint("swept", {}, point.validation, point.test) for trial in swept for point in trial.points]
        reported = [Point(trial.points[0].validation, trial.points[0].test) for trial in swept]
        front = front_of(reported, untouched)
        members = {reported.index(point): swept[reported.index(point)] for point in front if point != untouched}
        members = dict(sorted(members.items(), key=lambda item: -item[1].points[0].robust_validation)[:MEMBERS])
        weights = [
            mixer.retrain(Parameters.model_validate(trial.parameters), trial.number) for trial in members.values()
        ]
        whole = scope.parameters("cross_entropy", 1.0)
        return points + mixer.evaluate(whole, lines(metric, mixer.untouched(whole), weights, (0.5,), STRENGTHS))

    return strategy


def run_strategy(mixer: Mixer, strategy: Strategy, scope: Scope, untouched: Point) -> StrategyResult:
    """Run a strategy and measure on test the points that it has on the validation front, one per validation value."""
    mixes = strategy(mixer, scope)
    allowed = [Point(mix.validation, mix.validation) for mix in mixes]
    left = {point.validation for point in front_of(allowed, untouched)} - {untouched.validation}
    points = []
    for mix in mixes:
        if mix.validation in left:
            left.remove(mix.validation)
            test = mix.test or mixer.test(scope.parameters("cross_entropy", 1.0), mix.weights)
            points.append(Point(mix.validation, test))
    front = front_of(points, untouched)
    volumes = validation_volume(front, untouched), test_volume(front, untouched)
    return StrategyResult(mixer.seed, mixer.cost, *volumes, front)


@dataclass(frozen=True)
class Study:
    """The comparison in one scope."""

    table: Table
    context: TrialContext
    scope: Scope
    cache: Path

    @property
    def untouched(self) -> Point:
        return Point(self.table.untouched.validation, self.table.untouched.test)

    def run(self, seeds: int) -> Comparison:
        """Run the strategies, seed by seed, then the sweeps."""
        strategies, transform = dict(STRATEGIES), self.scope.tune == "transform"
        strategies |= TRANSFORM_STRATEGIES if transform else {}
        results: dict[str, list[StrategyResult]] = {name: [] for name in strategies}
        for seed in range(seeds):
            anchors: dict[AnchorKey, Anchor] = {}
            for name, strategy in strategies.items():
                results[name].append(self._result(name, strategy, seed, anchors))
        if transform:
            small = f"first {FIRST_TRIALS} trials of TPE, its front mixed"
            strategy = small_sweep(self.table, self.untouched, FIRST_TRIALS)
            results[small] = [self._result(small, strategy, seed, {}) for seed in range(seeds)]
        whole = self.table.part(self.scope.tune)
        points = [Point(point.validation, point.test) for trial in whole for point in trial.points]
        everything = test_volume(front_of(points, self.untouched), self.untouched)
        middle = self.scope.parameters("cross_entropy", LAMBDA_MIDDLE)
        sweeps = self._sweeps(), self._sweeps(objectives=["cross_entropy"]), self._sweeps(first=middle)
        return Comparison(results, *sweeps, self.untouched, everything, len(whole))

    def _sweeps(self, **options: Any) -> list[SweepCourse]:
        swept = [sweep(self.table, self.scope.tune, seed, **options) for seed in range(SWEEPS)]
        return [course_of(trials, self.untouched) for trials in swept]

    def _result(self, name: str, strategy: Strategy, seed: int, anchors: dict[AnchorKey, Anchor]) -> StrategyResult:
        """Return the cached result of a strategy; run it first where the cache has none."""
        key = hashlib.sha256(f"{self.scope.tune} {seed} {name}".encode()).hexdigest()[:16]
        path = self.cache / f"{key}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            result = run_strategy(Mixer(self.context, seed, anchors), strategy, self.scope, self.untouched)
            path.write_text(json.dumps(asdict(result)))
            print(f"{self.scope.tune}, seed {seed}, {name}: {result.test:.5f}", file=sys.stderr)
        return StrategyResult.from_json(path.read_text())


def table_of(comparison: Comparison) -> str:
    """Return the Markdown table of one scope; all shares are of the mean full sweep."""
    full = comparison.full
    peers = (full, comparison.cross_entropy, comparison.after_middle)
    full_cost, area = _mean([course.costs[-1] for course in full]), _mean([course.test[-1] for course in full])
    on_validation = _mean([course.validation[-1] for course in full])

    def nearly_free(results: Sequence[SweepCourse | StrategyResult]) -> float:
        return _mean([test_volume(result.front, comparison.untouched, NEARLY_FREE) for result in results])

    free = nearly_free(full)
    ends = [_mean([course.test[-1] for course in sweeps]) / area for sweeps in peers]
    head = "| | trainings | looks at validation | cost | hypervolume, test | worst seed | validation | nearly free "
    rows = [
        head + "| for the same cost: TPE | TPE of CE only | TPE after one CE in the middle | both bars |",
        "| --- " * 12 + "|",
        f"| full sweep, TPE | {TRIALS} | {TRIALS * 5} | 100 % ({full_cost:.3g} images) | {_spread(full, area)} "
        f"| {min(course.test[-1] for course in full) / area:.3f} | 1.000 | 1.000 | | {ends[1]:.3f} | {ends[2]:.3f} | |",
    ]
    for name, results in comparison.strategies.items():
        used = [result.cost for result in results]
        share = _mean([cost.images for cost in used]) / full_cost
        areas = [result.test / area for result in results]
        same = [_mean([course.at_cost(share * full_cost) for course in sweeps]) / area for sweeps in peers]
        reached = _mean(areas) >= BAR[0] and share <= BAR[1]
        deviation = f" +- {statistics.stdev(areas):.3f}" if len(areas) > 1 else ""
        rows.append(
            f"| {name} | {_mean([cost.trainings for cost in used]):.1f} "
            f"| {_mean([cost.evaluations for cost in used]):.0f} | {share:.1%} | {_mean(areas):.3f}{deviation} "
            f"| {min(areas):.3f} | {_mean([result.validation for result in results]) / on_validation:.3f} "
            f"| {nearly_free(results) / free:.3f} "
            f"| {same[0]:.3f} | {same[1]:.3f} | {same[2]:.3f} | {'yes' if reached else 'no'} |"
        )
    seeds = len(next(iter(comparison.strategies.values())))
    rows.append(
        f"\n{seeds} seed(s) of the anchors. The whole grid of {comparison.grid} trials, its front chosen on "
        f"validation: {comparison.everything / area:.3f} on test. The full sweep's hypervolume is {area:.5f} on test."
    )
    return "\n".join(rows)


def _mean(values: Sequence[float]) -> float:
    return statistics.mean(values)


def _spread(sweeps: Sequence[SweepCourse], area: float) -> str:
    return f"1.000 +- {statistics.stdev([course.test[-1] / area for course in sweeps]):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("benchmarks/results/response_table.csv.gz"))
    parser.add_argument("--visual-seeds", type=int, default=2, help="of the anchors' training; 0 leaves the scope out")
    parser.add_argument("--transform-seeds", type=int, default=10)
    parser.add_argument(
        "--cache", type=Path, default=None, help="folder that keeps prepared images and results for the next run"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/soup.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/soup.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    table = load_table(options.table)
    scopes: dict[Part, int] = {"visual": options.visual_seeds, "transform": options.transform_seeds}
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder)
        context = open_context(world_task(), data_seed=0, cache=cache, device=torch.device("cpu"))
        comparisons = {
            tune: Study(table, context, Scope(tune), cache / "soup").run(seeds)
            for tune, seeds in scopes.items()
            if seeds
        }
    head = heading(options.visual_seeds, options.transform_seeds)
    tables = [f"## {tune}\n\n{table_of(comparison)}" for tune, comparison in comparisons.items()]
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    options.picture.write_bytes(draw(comparisons, Point(table.untouched.validation, table.untouched.test)))
    publish("\n\n".join([head, *tables]) + "\n", options.output)


def heading(visual: int, transform: int) -> str:
    return (
        f"# Mixes of a few trainings against a sweep\n\n`python -m benchmarks.soup.run --visual-seeds {visual} "
        f"--transform-seeds {transform}`\n\n"
        f"Embedded world. Full sweep: {TRIALS} trials of multi-objective TPE over the response table, {SWEEPS} seeds. "
        f"Hypervolume over (untouched clean - {FLOOR:g}, untouched robust) on test of the points chosen on validation, "
        "as a share of the mean full sweep's; mean +- standard deviation over seeds of the anchors' training. Cost: "
        "images looked at, one that is trained on counting three times. Nearly free: the hypervolume on test over "
        f"(untouched clean - {NEARLY_FREE:g}, untouched robust). Both bars: "
        f"{BAR[0]:.0%} of the hypervolume for {BAR[1]:.0%} of the cost, by the mean.\n\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, optuna {optuna.__version__}, "
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), bf16."
    )


if __name__ == "__main__":
    main()

"""One training instead of many: what share of a sweep's hypervolume mixes of a few trained anchors reach, at what share
of its cost: ``python benchmarks/soup.py``.

The sweep is multi-objective TPE over the response table (``response_table.py``); the anchors are trained here, on the
same images. Points are chosen on validation and compared on test. Cost is counted in images: one that is trained on
counts three times, one that is looked at once; both sides pay for what they look at on validation. Writes tables to
--output and a picture to --picture; with --cache, a run that was ended goes on.
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

from benchmarks.search.response_table import LAMBDAS, world_task
from benchmarks.search.table import Part, RecordedTrial, Table, load_table
from benchmarks.soup.figure import draw
from benchmarks.soup.mixing import BACKWARD, Key, Kitchen, Mixed, Trained, Value, lines, metric
from benchmarks.soup.points import Compared, Point, Served, Swept
from benchmarks.soup.strategies import RECIPES, STRENGTHS, TRANSFORM_RECIPES, Cook, Scope
from sweeper.front.pareto import hypervolume, non_dominated
from trainables.settings.parameters import Parameters
from trainables.trial_context import TrialContext

TRIALS = 64
"""Of the full sweep."""
SWEEPS = 5
"""Seeds of the full sweep: it only looks up."""
FIRST_TRIALS, MEMBERS = 8, 3
"""Of a small sweep, and members of its front that are mixed."""
FLOOR = 0.10
"""Of clean accuracy below the untouched model, as in the quickstart: a point that loses more does not count."""
NEARLY_FREE = 0.02
"""A second, stricter floor: what of the cure costs at most this much clean accuracy."""
BAR = (0.90, 0.20)
"""Share of hypervolume at share of cost from which this would be worth a mode."""


def front_of(points: Sequence[Point], untouched: Point) -> list[Point]:
    """The untouched model and what is not dominated on validation, above the floor."""
    floor = untouched.validation[0] - FLOOR
    allowed = [untouched, *(one for one in points if one.validation[0] >= floor)]
    return [one for one, kept in zip(allowed, non_dominated([p.validation for p in allowed]), strict=True) if kept]


def volume(points: Sequence[Point], untouched: Point, which: str, floor: float = FLOOR) -> float:
    """Hypervolume of points over (untouched clean - floor, untouched robust)."""
    reference: Value = getattr(untouched, which)
    return hypervolume([getattr(one, which) for one in points], (reference[0] - floor, reference[1]))


def sweep(
    table: Table,
    tune: str,
    seed: int,
    *,
    trials: int = TRIALS,
    objectives: Sequence[str] = ("dpo", "ipo", "kto", "cross_entropy"),
    first: Parameters | None = None,
) -> list[RecordedTrial]:
    """A search over the table's grid: TPE as sweeper runs it, one trial at a time; ``first`` is the first one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, warn_independent_sampling=False)
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
    found = []
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
                at = trial.suggest_int(
                    f"{name} of {point['objective']}" if name == "beta" else name, 0, len(values) - 1
                )
                point[name] = values[at]
        found.append(table.find(point))
        study.tell(trial, found[-1].points[0].validation)
    return found


def accounted(trials: Sequence[RecordedTrial], untouched: Point) -> Swept:
    """Every trial pays for its steps, an evaluation after each epoch and its further points."""
    swept, points, cost = Swept([], [], [], []), [], 0
    for trial in trials:
        looked_at = sum(one.epoch == int(one.epoch) for one in trial.course) + len(trial.points) - 1
        cost += BACKWARD * trial.points[0].image_steps + looked_at * trial.course[0].evaluation_images
        points += [Point(one.validation, one.test) for one in trial.points]
        front = front_of(points, untouched)
        swept.costs.append(cost)
        swept.validation.append(volume(front, untouched, "validation"))
        swept.test.append(volume(front, untouched, "test"))
    swept.front.extend(front)
    return swept


def small_sweep(table: Table, untouched: Point, trials: int) -> Cook:
    """The first trials of a search over transforms, and mixes of those that are on its front."""

    def cook(kitchen: Kitchen, scope: Scope) -> list[Mixed]:
        found = sweep(table, scope.tune, kitchen.seed, trials=trials)
        swept = accounted(found, untouched)
        kitchen.bill.evaluation_images += swept.costs[-1]
        kitchen.bill.trainings += trials
        points = [Mixed("swept", {}, one.validation, one.test) for trial in found for one in trial.points]
        told = [Point(trial.points[0].validation, trial.points[0].test) for trial in found]
        front = front_of(told, untouched)
        members = {told.index(one): found[told.index(one)] for one in front if one != untouched}
        members = dict(sorted(members.items(), key=lambda item: -item[1].points[0].robust_validation)[:MEMBERS])
        weights = [
            kitchen.again(Parameters.model_validate(trial.parameters), trial.number) for trial in members.values()
        ]
        whole = scope.parameters("cross_entropy", 1.0)
        return points + kitchen.taste(whole, lines(metric, kitchen.untouched(whole), weights, (0.5,), STRENGTHS))

    return cook


def cooked(
    bench: TrialContext, recipe: Cook, scope: Scope, seed: int, untouched: Point, trained: dict[Key, Trained]
) -> Served:
    kitchen = Kitchen(bench, seed, trained)
    mixes = recipe(kitchen, scope)
    allowed = [Point(one.validation, one.validation) for one in mixes]
    left = {one.validation for one in front_of(allowed, untouched)} - {untouched.validation}
    points = []
    for one in mixes:
        if one.validation in left:
            left.remove(one.validation)
            test = one.test or kitchen.test(scope.parameters("cross_entropy", 1.0), one.weights)
            points.append(Point(one.validation, test))
    front = front_of(points, untouched)
    volumes = volume(front, untouched, "validation"), volume(front, untouched, "test")
    return Served(seed, kitchen.bill, *volumes, front)


@dataclass(frozen=True)
class Study:
    table: Table
    bench: TrialContext
    scope: Scope
    cache: Path

    @property
    def untouched(self) -> Point:
        return Point(self.table.untouched.validation, self.table.untouched.test)

    def run(self, seeds: int) -> Compared:
        """Recipes seed by seed, then the sweeps."""
        recipes, transform = dict(RECIPES), self.scope.tune == "transform"
        recipes |= TRANSFORM_RECIPES if transform else {}
        served: dict[str, list[Served]] = {name: [] for name in recipes}
        for seed in range(seeds):
            trained: dict[Key, Trained] = {}
            for name, recipe in recipes.items():
                served[name].append(self._cooked(name, recipe, seed, trained))
        if transform:
            small = f"first {FIRST_TRIALS} trials of TPE, its front mixed"
            cook = small_sweep(self.table, self.untouched, FIRST_TRIALS)
            served[small] = [self._cooked(small, cook, seed, {}) for seed in range(seeds)]
        whole = self.table.part(self.scope.tune)
        points = [Point(one.validation, one.test) for trial in whole for one in trial.points]
        everything = volume(front_of(points, self.untouched), self.untouched, "test")
        middle = self.scope.parameters("cross_entropy", (LAMBDAS[0] * LAMBDAS[1]) ** 0.5)
        others = self._sweeps(), self._sweeps(objectives=["cross_entropy"]), self._sweeps(first=middle)
        return Compared(served, *others, self.untouched, everything, len(whole))

    def _sweeps(self, **kind: Any) -> list[Swept]:
        found = [sweep(self.table, self.scope.tune, seed, **kind) for seed in range(SWEEPS)]
        return [accounted(one, self.untouched) for one in found]

    def _cooked(self, name: str, recipe: Cook, seed: int, trained: dict[Key, Trained]) -> Served:
        key = hashlib.sha256(f"{self.scope.tune} {seed} {name}".encode()).hexdigest()[:16]
        path = self.cache / f"{key}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            found = cooked(self.bench, recipe, self.scope, seed, self.untouched, trained)
            path.write_text(json.dumps(asdict(found)))
            print(f"{self.scope.tune}, seed {seed}, {name}: {found.test:.5f}", file=sys.stderr)
        return Served.loaded(path.read_text())


def rows(study: Compared) -> str:
    """The table of one scope: all shares are of the mean full sweep."""
    peers = (study.full, study.cross_entropy, study.after_middle)
    cost, area = statistics.mean(one.costs[-1] for one in study.full), _mean([one.test[-1] for one in study.full])
    on_validation = _mean([one.validation[-1] for one in study.full])

    def nearly_free(found: Sequence[Swept | Served]) -> float:
        return _mean([volume(one.front, study.untouched, "test", NEARLY_FREE) for one in found])

    free = nearly_free(study.full)
    ends = [_mean([one.test[-1] for one in sweeps]) / area for sweeps in peers]
    head = "| | trainings | looks at validation | cost | hypervolume, test | worst seed | validation | nearly free "
    lines_ = [
        head + "| for the same cost: TPE | TPE of CE only | TPE after one CE in the middle | both bars |",
        "| --- " * 12 + "|",
        f"| full sweep, TPE | {TRIALS} | {TRIALS * 5} | 100 % ({cost:.3g} images) | {_spread(study.full, area)} "
        f"| {min(one.test[-1] for one in study.full) / area:.3f} | 1.000 | 1.000 | | {ends[1]:.3f} | {ends[2]:.3f} | |",
    ]
    for name, found in study.served.items():
        share = _mean([one.bill.cost for one in found]) / cost
        areas = [one.test / area for one in found]
        same = [_mean([one.at_cost(share * cost) for one in sweeps]) / area for sweeps in peers]
        reached = _mean(areas) >= BAR[0] and share <= BAR[1]
        deviation = f" +- {statistics.stdev(areas):.3f}" if len(areas) > 1 else ""
        lines_.append(
            f"| {name} | {_mean([one.bill.trainings for one in found]):.1f} "
            f"| {_mean([one.bill.evaluations for one in found]):.0f} | {share:.1%} | {_mean(areas):.3f}{deviation} "
            f"| {min(areas):.3f} | {_mean([one.validation for one in found]) / on_validation:.3f} "
            f"| {nearly_free(found) / free:.3f} "
            f"| {same[0]:.3f} | {same[1]:.3f} | {same[2]:.3f} | {'yes' if reached else 'no'} |"
        )
    seeds = len(next(iter(study.served.values())))
    lines_.append(
        f"\n{seeds} seed(s) of the anchors. The whole grid of {study.grid} trials, its front chosen on validation: "
        f"{study.everything / area:.3f} on test. The full sweep's hypervolume is {area:.5f} on test."
    )
    return "\n".join(lines_)


def _mean(values: Sequence[float]) -> float:
    return statistics.mean(values)


def _spread(sweeps: Sequence[Swept], area: float) -> str:
    return f"1.000 +- {statistics.stdev([one.test[-1] / area for one in sweeps]):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("benchmarks/results/response_table.csv.gz"))
    parser.add_argument("--visual-seeds", type=int, default=2, help="of the anchors' training; 0 leaves the scope out")
    parser.add_argument("--transform-seeds", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=None, help="keeps prepared images and results for a next time")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/soup.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/soup.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    table = load_table(options.table)
    scopes: dict[Part, int] = {"visual": options.visual_seeds, "transform": options.transform_seeds}
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder)
        bench = TrialContext(world_task(), data_seed=0, cache=cache, device=torch.device("cpu"))
        studies = {
            tune: Study(table, bench, Scope(tune), cache / "soup").run(seeds) for tune, seeds in scopes.items() if seeds
        }
    head = heading(options.visual_seeds, options.transform_seeds)
    text = "\n\n".join([head, *(f"## {tune}\n\n{rows(one)}" for tune, one in studies.items())]) + "\n"
    for path in (options.output, options.picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text)
    options.picture.write_bytes(draw(studies, Point(table.untouched.validation, table.untouched.test)))
    print(text)


def heading(visual: int, transform: int) -> str:
    return (
        f"# Mixes of a few trainings against a sweep\n\n`python benchmarks/soup.py --visual-seeds {visual} "
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

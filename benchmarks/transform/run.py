"""Effects of rank, start, penalty and strength on the transform W.

    python -m benchmarks.transform.run

Runs on several seeds of the embedded world, or on the data and model of ``--trial``. Trials work on embeddings that are
computed once, so a thousand trials take minutes on one core. Writes ``transform.png`` into ``--output`` and the tables
into ``--results``.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.transform.figure import draw
from benchmarks.transform.trials import STARTS, Embeddings, Start, embed, goals, measure, started, train
from trainables.__main__ import read_trial
from trainables.models.transform import power
from trainables.settings.parameters import Parameters
from trainables.settings.task import ModelSettings, TaskSettings
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.known import open_context

RANKS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 128, 256, 512, 768, 1024)
STRENGTHS = tuple(i / 4 for i in range(-8, 9))
PENALTIES = (0.0, 1e-3, 1e-2, 1e-1, 0.3, 1.0)
WORLD_PARAMETERS = {
    "CE": Parameters(objective="cross_entropy", lambda_reg=2.0, tune="transform", learning_rate=0.01),
    "DPO": Parameters(objective="dpo", beta=0.4, lambda_reg=6.0, tune="transform", learning_rate=0.01),
}
SEARCHED: tuple[Start, ...] = ("images", "preference texts", "all class texts", "I + BA")
DRAWS = 8
CLEAN_LOSS = 0.02
"""Clean accuracy that a pick of the small search may lose against the untouched model."""

Rows = dict[tuple[Any, ...], dict[str, float]]
"""Key of a trial -> metric -> mean over seeds; the standard deviation is under ``NAME +-``."""


@dataclass(frozen=True)
class Study:
    """The data of every seed, and the settings of training."""

    data: tuple[Embeddings, ...]
    parameters: dict[str, Parameters]
    epochs: int
    batch: int
    warmup_share: float

    @property
    def width(self) -> int:
        return self.data[0].width

    @property
    def ranks(self) -> list[int]:
        return sorted({rank for rank in RANKS if rank <= self.width} | {self.width})

    def trained(
        self, seed: int, parameters: Parameters, start: Start, rank: int, *, squared: bool = True
    ) -> tuple[Tensor, list[float]]:
        """Return W and its identity distance after each epoch."""
        data = self.data[seed]
        tensors, matrix = started(data, start, rank, seed)
        settings: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "warmup_share": self.warmup_share}
        return train(data, tensors, matrix, parameters, seed=seed, squared=squared, **settings)

    def over_seeds(self, measure_seed: Callable[[int], dict[str, float]]) -> dict[str, float]:
        """Return mean and standard deviation over seeds of each metric of ``measure_seed(seed)``."""
        by_seed = [measure_seed(seed) for seed in range(len(self.data))]
        row: dict[str, float] = {}
        for name in by_seed[0]:
            values = torch.tensor([metrics[name] for metrics in by_seed], dtype=torch.float64)
            row[name] = float(values.mean())
            row[f"{name} +-"] = float(values.std()) if len(values) > 1 else math.nan
        return row


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="instead of the world's: local-dir:FOLDER, hf-hub:NAME or ARCHITECTURE:TAG")
    parser.add_argument("--trial", type=Path, help="trial.json of a transform: its images, parameters and model")
    parser.add_argument("--seeds", type=int, default=None, help="default: 3 worlds; 1 with --trial")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of transform.png")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder of transform.md")
    parser.add_argument(
        "--cache", type=Path, default=None, help="folder that keeps prepared images and embeddings for the next run"
    )
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            study = _study(options, options.cache or Path(folder))
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 2
    prepared_s = time.monotonic() - started_s
    for target in (options.output, options.results):
        target.mkdir(parents=True, exist_ok=True)
    tables: list[str] = []
    for title, table in _tables(study, options.output / "transform.png"):
        tables.append(f"## {title}\n\n{table}")
        seconds = f"{prepared_s:.0f} s for embeddings, {time.monotonic() - started_s - prepared_s:.0f} s for trials"
        text = "\n\n".join([_heading(study, arguments, seconds), *tables])
        (options.results / "transform.md").write_text(text + "\n")
        print(f"{seconds}: {title}", file=sys.stderr)
    return 0


def _study(options: argparse.Namespace, cache: Path) -> Study:
    parameters, data = WORLD_PARAMETERS, []
    seeds = options.seeds or (1 if options.trial else 3)
    for seed in range(seeds):
        print(f"embeddings of seed {seed}", file=sys.stderr)
        if options.trial:
            trial = read_trial(options.trial, [])
            if trial.parameters.tune != "transform":
                raise ValueError(f"{options.trial} tunes {trial.parameters.tune}; this measures transforms")
            task, data_seed = trial.task, trial.data_seed + seed
            parameters = {trial.parameters.objective: trial.parameters}
        else:
            task, data_seed = _world_task(seed), seed
        if options.model:
            task = task.model_copy(update={"model": _model(options.model)})
        data.append(embed(open_context(task, data_seed=data_seed, cache=cache, device=torch.device("cpu"))))
    how = task.training
    return Study(tuple(data), parameters, how.epochs, how.global_batch_size, how.warmup_share)


def _world_task(seed: int) -> TaskSettings:
    """Return a task of 2048 pairs of ten classes, with goals over all twenty classes."""
    return TypographicSettings.model_validate(
        {
            "sets": {"world": {"kind": "world", "seed": seed, "train": 4096, "validation": 1000, "test": 4000}},
            "train": {"set": "world", "classes": 0.5},
            "attack": {"recipe": "sign"},
            "evaluate": {"search": {"sets": ["world"]}, "test": {"sets": ["world"]}},
            "training": {"epochs": 10, "global_batch_size": 256, "warmup_share": 0.1},
        }
    )


def _model(text: str) -> ModelSettings:
    if text.startswith(("local-dir:", "hf-hub:")) or ":" not in text:
        return ModelSettings(architecture=text)
    architecture, _, tag = text.partition(":")
    return ModelSettings(architecture=architecture, pretrained=tag)


def _tables(study: Study, picture: Path) -> Iterator[tuple[str, str]]:
    """Yield (title, table) as they are measured, and draw the figure."""
    identity = torch.eye(study.width)
    untouched = study.over_seeds(lambda seed: measure(study.data[seed], identity))
    names = [name for name in untouched if not name.endswith("+-")]
    yield "The untouched model", _table(names, [[f"{untouched[name]:.3f}" for name in names]])
    step0 = _step_0(study)
    yield "a. Step 0: clean accuracy", _over_rank(study, step0, "clean")
    yield "a. Step 0: KL(reference || W) in nats", _over_rank(study, step0, "KL")
    ranked = _ranked(study)
    for name in study.parameters:
        rows = {key[1:]: row for key, row in ranked.items() if key[0] == name}
        title = f"b. After training with {name}"
        yield f"{title}: clean / robust", _over_rank(study, rows, "clean", "robust")
        unseen = _over_rank(study, rows, "clean unseen", "robust unseen")
        yield f"{title}: clean / robust of classes that are not in the preference data", unseen
        yield f"{title}: reads signs / KL in nats", _over_rank(study, rows, "reads signs", "KL")
    curves = _strengths(study)
    picture.write_bytes(draw(curves, ranked, untouched, study.ranks))
    yield from _strength_tables(study, curves)
    yield f"c. The penalty, rank {study.width}", _penalties(study)
    yield "e. Identity distance ||W^T W - I||_F / sqrt(d) over training", _distances(study)
    yield from _searches(study)


def _step_0(study: Study) -> Rows:
    def at_start(start: Start, rank: int) -> Callable[[int], dict[str, float]]:
        return lambda seed: measure(study.data[seed], started(study.data[seed], start, rank, seed)[1]().detach())

    return {(start, rank): study.over_seeds(at_start(start, rank)) for start in STARTS for rank in study.ranks}


def _ranked(study: Study) -> Rows:
    def after_training(name: str, start: Start, rank: int) -> Callable[[int], dict[str, float]]:
        parameters = study.parameters[name]
        return lambda seed: measure(study.data[seed], study.trained(seed, parameters, start, rank)[0])

    return {
        (name, start, rank): study.over_seeds(after_training(name, start, rank))
        for name in study.parameters
        for start in STARTS
        for rank in study.ranks
    }


def _searches(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the test results of a random search's picks per form and rank; all searches try the same parameters."""
    ranks = [rank for rank in (4, 8, 16) if rank < study.width] + [study.width]
    rows = {
        (start, rank): study.over_seeds(partial(_search, study, start, rank)) for start in SEARCHED for rank in ranks
    }
    pick = f"the pick on validation, clean at most {CLEAN_LOSS:.0%} below untouched: test"
    for words, name in (
        (f"{pick} robust accuracy", "robust"),
        (f"{pick} clean accuracy", "clean"),
        ("area on test that the validation front adds to (untouched clean - 0.1, untouched robust), x 100", "area"),
    ):
        lines = [
            [start, *(f"{rows[start, rank][name]:.3f} +- {rows[start, rank][f'{name} +-']:.3f}" for rank in ranks)]
            for start in SEARCHED
        ]
        table = _table(["start \\ rank", *map(str, ranks)], lines)
        yield f"b. {DRAWS} random trials per form and rank, each at t = 0.5, 0.75, 1; {words}", table


def _search(study: Study, start: Start, rank: int, seed: int) -> dict[str, float]:
    generator, data = random.Random(seed), study.data[seed]
    identity = torch.eye(study.width)
    floor, untouched_robust = goals(data, identity, data.validation)
    points = [(goals(data, identity, data.validation), goals(data, identity, data.tests))]
    for _ in range(DRAWS):
        base = generator.choice(sorted(study.parameters.values(), key=lambda choice: choice.objective))
        factors = [math.exp(generator.uniform(-2.3, 2.3)) for _ in range(3)]
        changes = {"learning_rate": base.learning_rate * factors[0], "lambda_reg": base.lambda_reg * factors[1]}
        if base.beta is not None:
            changes["beta"] = base.beta * factors[2]
        w, _distance = study.trained(seed, base.model_copy(update=changes), start, rank)
        for t in (0.5, 0.75, 1.0):
            at = power(w, t)
            points.append((goals(data, at, data.validation), goals(data, at, data.tests)))
    allowed = [point for point in points if point[0][0] >= floor - CLEAN_LOSS]
    clean, robust = max(allowed, key=lambda point: point[0][1])[1]
    front = [p for p in points if not any(q[0] != p[0] and q[0][0] >= p[0][0] and q[0][1] >= p[0][1] for q in points)]
    corner = goals(data, identity, data.tests)
    return {"clean": clean, "robust": robust, "area": 100 * _area([p[1] for p in front], corner[0] - 0.1, corner[1])}


def _area(points: Iterable[tuple[float, float]], x0: float, y0: float) -> float:
    area, top = 0.0, y0
    for x, y in sorted(points, reverse=True):
        if x > x0 and y > top:
            area, top = area + (x - x0) * (y - top), y
    return area


def _penalties(study: Study) -> str:
    def with_penalty(name: str, weight: float, squared: bool) -> Callable[[int], dict[str, float]]:
        parameters = study.parameters[name].model_copy(update={"penalty": weight})

        def measured(seed: int) -> dict[str, float]:
            w, distances = study.trained(seed, parameters, "images", study.width, squared=squared)
            s = torch.linalg.svdvals(w.double())
            singular = {"identity distance": distances[-1], "smallest s": float(s[-1]), "largest s": float(s[0])}
            reversed_clean, _ = goals(study.data[seed], _bare_power(w, -1.0), study.data[seed].tests)
            return measure(study.data[seed], w) | singular | {"clean at t = -1, not clamped": reversed_clean}

        return measured

    names = ["identity distance", "smallest s", "largest s", "clean", "robust", "reads signs", "KL"]
    names.append("clean at t = -1, not clamped")
    lines = []
    for name in study.parameters:
        for squared in (True, False):
            for weight in PENALTIES if squared else PENALTIES[1:]:
                row = study.over_seeds(with_penalty(name, weight, squared))
                norm = "none" if weight == 0 else "squared" if squared else "not squared"
                lines.append([name, norm, f"{weight:g}", *(f"{row[column]:.3f}" for column in names)])
    return _table(["objective", "norm", "weight", *names], lines)


def _bare_power(w: Tensor, t: float) -> Tensor:
    """Return W^t; unlike ``power``, singular values are not clamped."""
    u, s, vt = torch.linalg.svd(w.double(), full_matrices=False)
    return ((u * s**t) @ vt).to(w.dtype)


def _forms(study: Study) -> list[tuple[Start, int]]:
    return [("images", study.width), ("all class texts", max(1, study.width // 4)), ("I + BA", min(4, study.width))]


def _strengths(study: Study) -> Rows:
    rows: Rows = {}
    for name, parameters in study.parameters.items():
        for start, rank in _forms(study):
            weights = [study.trained(seed, parameters, start, rank)[0] for seed in range(len(study.data))]
            for t in STRENGTHS:
                for clamped in (True, False) if t < 0 else (True,):
                    at = [(power if clamped else _bare_power)(w, t) for w in weights]
                    rows[name, start, rank, t, clamped] = study.over_seeds(partial(_measured_at, study, at))
    return rows


def _strength_tables(study: Study, rows: Rows) -> Iterator[tuple[str, str]]:
    columns = ["clean", "robust", "says the word"]
    head = ["t", *columns, *(f"{column}, not clamped" for column in columns), "reads signs"]
    for name in study.parameters:
        for start, rank in _forms(study):
            lines = []
            for t in STRENGTHS:
                clamped = rows[name, start, rank, t, True]
                bare = rows.get((name, start, rank, t, False), clamped)
                values = [row[column] for row in (clamped, bare) for column in columns] + [clamped["reads signs"]]
                lines.append([f"{t:g}", *(f"{value:.3f}" for value in values)])
            yield f"d. W^t, {name}, start {start}, rank {rank}", _table(head, lines)


def _measured_at(study: Study, weights: Sequence[Tensor], seed: int) -> dict[str, float]:
    return measure(study.data[seed], weights[seed])


def _distances(study: Study) -> str:
    epochs = [e for e in (0, 1, 2, 3, 5, 7, 10, 15, 20, 30) if e < study.epochs] + [study.epochs]
    lines = []
    for name, parameters in study.parameters.items():
        for rank in sorted({max(1, study.width // 4), study.width}):
            for weight in (0.0, 1e-2, 1e-1):
                changed = parameters.model_copy(update={"penalty": weight})
                runs = [study.trained(seed, changed, "images", rank)[1] for seed in range(len(study.data))]
                means = [sum(run[epoch] for run in runs) / len(runs) for epoch in epochs]
                lines.append([name, str(rank), f"{weight:g}", *(f"{value:.3f}" for value in means)])
    head = ["objective", "rank", "penalty", *(f"epoch {epoch}" for epoch in epochs)]
    return _table(head, lines)


def _over_rank(study: Study, rows: Rows, *names: str) -> str:
    def cell(start: Start, rank: int) -> str:
        return " / ".join(f"{rows[start, rank][name]:.3f}" for name in names)

    lines = [[start, *(cell(start, rank) for rank in study.ranks)] for start in STARTS]
    return _table(["start \\ rank", *map(str, study.ranks)], lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _heading(study: Study, arguments: list[str] | None, seconds: str) -> str:
    data = study.data[0]
    command = " ".join(["python -m benchmarks.transform.run", *(sys.argv[1:] if arguments is None else arguments)])
    settings = "; ".join(
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in parameters.model_dump(exclude_defaults=True).items())
        for name, parameters in study.parameters.items()
    )
    return (
        f"# The transform, measured\n\n`{command}`\n\n"
        f"{len(study.data)} seed(s); each: {len(data.chosen)} pairs of {len(data.text)} classes, "
        f"{sum(len(test.labels) for test in data.tests)} test images, embedding width {data.width}; "
        f"{study.epochs} epochs, batch {study.batch}. Trials unless a table says otherwise: {settings}. "
        f"Accuracies on test, over all class prompts, mean over seeds.\n\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} thread(s); {seconds}."
    )


if __name__ == "__main__":
    sys.exit(main())

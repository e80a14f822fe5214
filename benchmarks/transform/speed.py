"""Trials of the transform per minute on cached embeddings.

    python -m benchmarks.transform.speed --output FILE

``run_trial`` with everything it does (checkpoints, metric lines, evaluations, the strength curve, weights on disk) is
compared with a plain loop over the same embeddings that saves nothing and is evaluated once, at its end. Both run on
the embedded world with the settings of the quickstart, in turn, in a process per core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.common.machine import cpu, publish
from benchmarks.transform.trials import embed, goals, train
from trainables.models.transform import initial_transform
from trainables.settings.parameters import Parameters
from trainables.settings.typographic import TypographicSettings
from trainables.tasks.known import open_context
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

EPOCHS, BATCH, WARMUP_SHARE = 3, 128, 0.1
TASK = TypographicSettings.model_validate(
    {
        "sets": {"world": {"kind": "world", "train": 1024, "validation": 700, "test": 1000}},
        "train": {"set": "world", "classes": 0.5},
        "attack": {"recipe": "sign"},
        "evaluate": {"search": {"sets": ["world"]}, "test": {"sets": ["world"]}},
        "training": {"epochs": EPOCHS, "global_batch_size": BATCH, "warmup_share": WARMUP_SHARE},
    }
)
CHOICES = [
    Parameters.model_validate({**objective, "tune": "transform", "learning_rate": 0.02, "rank": rank})
    for objective in (
        {"objective": "dpo", "beta": 0.4},
        {"objective": "ipo", "beta": 0.05},
        {"objective": "kto", "beta": 1.0},
        {"objective": "cross_entropy"},
    )
    for rank in (16, 32, None)
]
TARGET = 120
"""Trials per minute on two cores."""

Times = list[tuple[float, float]]
"""(processor time, wall-clock time) of each trial, in seconds."""


def timed(run: Callable[[], object]) -> tuple[float, float]:
    processor_s, clock_s = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - processor_s, time.perf_counter() - clock_s


def measure(number: int, folder: Path, trials: int) -> tuple[Times, Times]:
    """Return the times of ``run_trial`` and of the plain loop, in turn. The first trial of each is not counted."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    context = open_context(TASK, data_seed=0, cache=folder / "cache", device=torch.device("cpu"))
    data = embed(context)
    images = torch.cat([data.clean, data.attacked])
    library: Times = []
    plain: Times = []

    def loop(choice: Parameters, seed: int) -> None:
        rank = data.width if choice.rank is None else choice.rank
        w = initial_transform(images, rank, data.all_text).requires_grad_(True)
        settings = {"epochs": EPOCHS, "batch": BATCH, "warmup_share": WARMUP_SHARE, "seed": seed}
        goals(data, train(data, [w], lambda: w, choice, **settings)[0], data.validation)

    for i in range(trials + 1):
        choice, trial = CHOICES[i % len(CHOICES)], TrialFolder(folder / f"{number}-{i}")
        library_times = timed(partial(run_trial, context, choice, seed=i, folder=trial))
        plain_times = timed(partial(loop, choice, i))
        if i > 0:
            library.append(library_times)
            plain.append(plain_times)
    return library, plain


def table(parts: list[tuple[Times, Times]]) -> list[str]:
    cores = len(parts)
    lines = ["| trial | processor s | clock s | a minute on 2 cores, by processor time | ratio to the plain loop |"]
    lines.append("| --- " * 5 + "|")
    plain_s = statistics.median(processor for _, plain in parts for processor, _ in plain)
    rows = [("`run_trial`", [trial for library, _ in parts for trial in library])]
    rows.append(("plain loop", [trial for _, plain in parts for trial in plain]))
    for name, times in rows:
        processor_s = statistics.median(processor for processor, _ in times)
        clock_s = statistics.median(clock for _, clock in times)
        lines.append(
            f"| {name} | {processor_s:.3f} | {clock_s:.3f} | {2 * 60 / processor_s:.0f} | {processor_s / plain_s:.2f} |"
        )
    rate = sum(60 * len(library) / sum(clock for _, clock in library) for library, _ in parts)
    lines += ["", f"By the clock, {cores} processes at once: {rate:.0f} trials a minute (target on 2 cores: {TARGET})."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    parser.add_argument("--trials", type=int, default=24, help="trials of each kind per process")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        open_context(TASK, data_seed=0, cache=Path(name) / "cache", device=torch.device("cpu")).data.pairs  # noqa: B018
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            jobs = [(number, Path(name), options.trials) for number in range(options.processes)]
            parts = pool.starmap(measure, jobs)
    lines = ["# Speed of a transform trial", ""]
    lines += [
        f"{cpu()}, {options.processes} processes of one thread; torch "
        f"{torch.__version__}. {options.trials} trials of each kind and process: {EPOCHS} epochs of 512 pairs, batch "
        f"{BATCH}, 700 validation images clean and attacked, four objectives and three ranks in turn; medians.",
        "",
    ]
    text = "\n".join([*lines, *table(parts)]) + "\n"
    publish(text, options.output)


if __name__ == "__main__":
    main()

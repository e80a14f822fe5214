"""Trains scattered settings on the embedded world and records what each answered, for simulated searches.

    python -m benchmarks.search.record --scope transform --seconds 3600

A run goes on where the file of its scope ends, and trains nothing twice: first each setting once, then the best of them
with further seeds. Scopes are recorded by processes of their own. The settings are those of
``benchmarks.search.scattered_space``; ``benchmarks.search.scattered_problem`` searches over them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.search.recorder import Recorder
from benchmarks.search.scattered_file import Conditions, Recording, Sizes, Training, load, save
from benchmarks.search.scattered_space import SCOPES, Scope
from sweeper.search.pareto import hypervolume
from trainables.numerics import thread_count

SETTINGS: dict[Scope, int] = {"transform": 2560, "last_blocks": 384, "visual": 384}
TEST_IMAGES: dict[Scope, tuple[int, ...]] = {"transform": (6000, 20_000), "last_blocks": (6000,), "visual": (6000,)}
SEEDS = 3
BEST_SHARE = 0.02
"""Of the settings: so many of the best are trained with ``SEEDS`` seeds."""
SAVED_EVERY_S = 30.0
FLOOR = 0.10
RESULTS = Path(__file__).parents[1] / "results"


def recording_path(scope: Scope) -> Path:
    """Return the file of a scope that ships with the repository."""
    return RESULTS / f"scattered_{scope}.npz"


def seed_of(number: int, repetition: int) -> int:
    return SEEDS * number + repetition


def remaining(recording: Recording, settings: int) -> Iterator[tuple[int, int]]:
    """Yield setting and seed of what is to be trained: the settings, and when these are trained the best of them."""
    done = {(training.number, training.seed) for training in recording.trainings}
    wanted = [(number, seed_of(number, 0)) for number in range(settings)]
    if done.issuperset(wanted):
        firsts = [training for training in recording.trainings if training.seed == seed_of(training.number, 0)]
        best = sorted(firsts, key=lambda training: -volume(recording, training))[: round(BEST_SHARE * settings)]
        wanted = [(one.number, seed_of(one.number, repetition)) for one in best for repetition in range(1, SEEDS)]
    yield from (one for one in wanted if one not in done)


def volume(recording: Recording, training: Training) -> float:
    """Return the hypervolume on test of a training's points, over (untouched clean - ``FLOOR``, untouched robust)."""
    clean, robust = recording.untouched.test[-1]
    return hypervolume([sizes[-1] for sizes in training.test], (clean - FLOOR, robust))


def record(scope: Scope, path: Path, cache: Path, *, settings: int, seconds: float) -> Recording:
    """Train what is missing in the recording at ``path`` until ``seconds`` have passed; return all of it."""
    end_s = time.monotonic() + seconds
    conditions = Conditions(scope, Sizes(test=TEST_IMAGES[scope]))
    recorder = Recorder(conditions, cache)
    recording = load(path) if path.exists() else Recording(conditions, recorder.untouched(), ())
    if recording.conditions != conditions:
        raise SystemExit(f"{path} was recorded under other conditions: {recording.conditions}")
    saved_s = time.monotonic()
    while waiting := list(remaining(recording, settings)):
        for number, seed in waiting:
            if time.monotonic() > end_s:
                save(path, recording)
                return recording
            training = recorder.train(number, seed)
            trainings = sorted([*recording.trainings, training], key=lambda one: (one.number, one.seed))
            recording = Recording(conditions, recording.untouched, tuple(trainings))
            if time.monotonic() > saved_s + SAVED_EVERY_S:
                save(path, recording)
                saved_s = time.monotonic()
        save(path, recording)
    return recording


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scope", choices=SCOPES, required=True)
    parser.add_argument("--settings", type=int, help=f"scattered settings to train; by default {SETTINGS}")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no training begins later than this")
    parser.add_argument("--record", type=Path, help="file of the recording; by default that of the repository")
    parser.add_argument("--cache", type=Path, help="folder that keeps prepared images for the next run")
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    with thread_count(1), tempfile.TemporaryDirectory() as folder:
        recording = record(
            options.scope,
            options.record or recording_path(options.scope),
            options.cache or Path(folder),
            settings=options.settings or SETTINGS[options.scope],
            seconds=options.seconds,
        )
    seconds = sum(training.reports[-1].spent_s for training in recording.trainings if training.reports)
    print(f"{options.scope}: {len(recording.trainings)} trainings, {seconds:.0f} s of training and evaluation")
    failed = sum(training.failure is not None for training in recording.trainings)
    print(f"{failed} of them did not come to their end", file=sys.stderr)


if __name__ == "__main__":
    main()

"""What a search loses that ends at its noise floor, simulated: ``python -m benchmarks.search.noise_floor``.

Pretended searches, whose points' accuracies in truth are known. A trial lies somewhere on the trade-off between both
goals and falls short of the best by a random deficit, whose scale shrinks where the search learns. Answers of different
trials to the same image are correlated (a Gaussian copula), as those of fine-tuned copies of one model are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from benchmarks.common.machine import environment, publish
from sweeper.search.noise_floor import LEAST_COMPLETE, Floor, Points, noise_floor
from sweeper.search.pareto import hypervolume

TRIALS = 64
SEARCHES = 20
STRENGTHS = 0.25, 0.5, 0.75, 1.0
LEAST = LEAST_COMPLETE, 24, 32
"""The search may not end earlier. The first is the rule's own."""
CORRELATION = 0.8
UNTOUCHED = 0.9, 0.3
REFERENCE = Floor(offset=-0.1, relative=True)
LEARNS_TRIALS = {"random": np.inf, "learning": 20.0}
"""Name -> trials after which the scale of the deficits is 1 / e of what it was."""


def truths(generator: np.random.Generator, learns_trials: float) -> np.ndarray:
    """Return both accuracies in truth of the points, trial by trial: (T * S, 2)."""
    place = np.outer(generator.random(TRIALS), STRENGTHS)
    deficit = generator.exponential(0.1, TRIALS) * np.exp(-np.arange(TRIALS) / learns_trials)
    short = np.outer(deficit, STRENGTHS)
    clean, robust = 0.9 - 0.08 * place**2, 0.3 + 0.5 * np.sqrt(place)
    return np.stack([clean - 0.5 * short, robust - short], axis=2).reshape(-1, 2)


def answers(generator: np.random.Generator, shares: np.ndarray, images: int) -> np.ndarray:
    """Return which images are answered right: (P, 2) shares -> (P, 2, N) bool."""
    own = generator.normal(size=(*shares.shape, images))
    of_image = generator.normal(size=(1, 2, images))
    mixed = np.sqrt(CORRELATION) * of_image + np.sqrt(1 - CORRELATION) * own
    return np.asarray(mixed < ndtri(np.clip(shares, 1e-6, 1 - 1e-6))[:, :, None])


def search(seed: int, learns_trials: float, images: int) -> list[tuple[int, float]]:
    """Return for each of ``LEAST`` after how many trials a search ends, and what share of the hypervolume of all trials
    it has then: in truth, of the points that were non-dominated on validation."""
    generator = np.random.default_rng(seed)
    of_points = truths(generator, learns_trials)
    hits = answers(generator, np.concatenate([np.array([UNTOUCHED]), of_points]), images)
    reached = [ended for ended in range(min(LEAST), TRIALS) if is_reached(hits, ended)]
    ends = [next((ended for ended in reached if ended >= least), TRIALS) for least in LEAST]
    whole, each = picked(of_points, hits[1:]), len(STRENGTHS)
    return [(end, picked(of_points[: end * each], hits[1 : 1 + end * each]) / whole) for end in ends]


def is_reached(hits: np.ndarray, ended: int) -> bool:
    """``hits``: (1 + P, 2, N), the untouched model first."""
    points = Points(
        untouched=[hits[0]],
        hits=[hits[1 : 1 + ended * len(STRENGTHS)]],
        place=np.repeat(np.arange(ended), len(STRENGTHS)),
        reference=REFERENCE,
        floors=(REFERENCE, None),
    )
    floor = noise_floor(points, trials=ended, complete=ended)
    return floor is not None and floor.reached


def picked(of_points: np.ndarray, hits: np.ndarray) -> float:
    """Return the hypervolume in truth of what is non-dominated on validation."""
    measured = hits.mean(2)
    better = (measured[None] >= measured[:, None]).all(2) & (measured[None] > measured[:, None]).any(2)
    members = [(float(first), float(second)) for first, second in of_points[~better.any(1)]]
    return hypervolume(members, (UNTOUCHED[0] - 0.1, UNTOUCHED[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="the results file")
    lines = [
        "# What ending a search at its noise floor loses",
        "",
        f"Simulated ({SEARCHES} searches a row, {TRIALS} trials of {len(STRENGTHS)} points); {environment('numpy')}.",
        "Share: hypervolume in truth of what was picked on validation, of that of all trials.",
        "",
        "| search | images | not before | ends after (median, 10-90 %) | share (mean) | share (worst) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    output = parser.parse_args().output
    for name, learns_trials in LEARNS_TRIALS.items():
        for images in (200, 1000, 5000):
            results = np.array([search(seed, learns_trials, images) for seed in range(SEARCHES)])
            for number, least in enumerate(LEAST):
                low, median, high = np.percentile(results[:, number, 0], [10, 50, 90])
                shares = results[:, number, 1]
                ends = f"{median:.0f} ({low:.0f}-{high:.0f})"
                lines.append(f"| {name} | {images} | {least} | {ends} | {shares.mean():.3f} | {shares.min():.3f} |")
    publish("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    main()

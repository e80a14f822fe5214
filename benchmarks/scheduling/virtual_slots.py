"""Virtual slots: a ``TrialScheduler`` is driven by synthetic trials, without Ray, training or waiting."""

from __future__ import annotations

import heapq
import json
import math
import random
import time
from collections.abc import Iterator
from typing import Any

from sweeper.jobs import Outcome, TrainJob
from sweeper.search.scheduler import TrialScheduler
from trainables.records import Point, Report, TrialResult, WeightsKind

PROGRESS = (1 / 9, 1 / 3, 2 / 3, 1.0)
"""Progress at the reports of a trial of three epochs: two rungs, then the ends of the second and third epoch."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
IMAGES = 5000
"""Validation images that the values are shares of."""


def run_slots(scheduler: TrialScheduler, slots: int) -> Iterator[int]:
    """Run trials on slots under a virtual clock, each for about 100 units of time.

    Yields the number of ended trials after each of them.
    """
    noise = random.Random(0)
    events: list[tuple[float, int, TrainJob, int, int]] = []
    """(time, trial, its job, slot, index into ``PROGRESS`` of the report at that time)."""
    free, now, ended = list(range(slots)), 0.0, 0
    while True:
        while free and (job := scheduler.next_job()) is not None:
            assert isinstance(job, TrainJob)
            heapq.heappush(events, (now + noise.uniform(70, 130) * PROGRESS[0], job.key, job, free.pop(), 0))
        if not events:
            return
        now, key, job, slot, index = heapq.heappop(events)
        scheduler.on_tick()
        scheduler.on_report(key, report_of(job.parameters, PROGRESS[index], noise))
        if index + 1 < len(PROGRESS):
            later = now + noise.uniform(70, 130) * (PROGRESS[index + 1] - PROGRESS[index])
            heapq.heappush(events, (later, key, job, slot, index + 1))
            continue
        scheduler.on_end(key, outcome_of(job, slot, noise))
        free.append(slot)
        ended += 1
        yield ended


def values_of(parameters: dict[str, Any], progress: float, strength: float, noise: random.Random) -> dict[str, float]:
    """Return metrics with a trade-off: stronger changes raise robust and lower clean accuracy."""
    reach = math.log10(parameters["learning_rate"] / (1e-3 if parameters["tune"] == "visual" else 2e-2))
    hold = math.log10(parameters["lambda_reg"] + 1e-2)
    push = strength * progress**0.3 / (1 + math.exp(-2 * (reach - 0.4 * hold)))
    waste = 0.05 * abs(reach) + 0.03 * abs(hold) + 0.02 * (parameters["objective"] == "ipo")
    clean = 0.91 - 0.25 * push**2 - waste * push + noise.gauss(0.0, 0.004)
    robust = 0.31 + 0.5 * push - waste * push + noise.gauss(0.0, 0.006)
    rounded = [round(min(1.0, max(0.0, value)) * IMAGES) / IMAGES for value in (clean, robust, 0.9 - robust)]
    return dict(zip(("clean_accuracy", "robust_accuracy", "text_confusion_rate"), rounded, strict=True))


def report_of(parameters: dict[str, Any], progress: float, noise: random.Random) -> Report:
    """Return the synthetic report of a trial of three epochs and 36 steps."""
    return Report(
        step=round(36 * progress),
        steps=36,
        epoch=round(3 * progress, 4),
        epochs=3,
        progress=progress,
        rung=progress < 0.5,
        values=values_of(parameters, progress, 1.0, noise),
        loss=0.5 / progress,
        preference_loss=0.4 / progress,
        reference_kl=0.1,
        train_s=60 * progress,
        evaluation_s=4.0,
        time_s=time.time(),
    )


def outcome_of(job: TrainJob, slot: int, noise: random.Random) -> Outcome:
    """Write the synthetic result of a trial, and return its outcome."""
    kinds: list[tuple[WeightsKind, float]] = [*(("last", strength) for strength in STRENGTHS), ("averaged", 1.0)]
    points = tuple(
        Point(weights=weights, strength=strength, values=values_of(job.parameters, 1.0, strength, noise))
        for weights, strength in kinds
    )
    values = points[len(STRENGTHS) - 1].values
    result = TrialResult(values=values, points=points, epochs=3, train_s=60.0, evaluation_s=16.0)
    (job.folder / "result.json").write_text(json.dumps(result.to_json()))
    return Outcome(kind="complete", result=result, slot=slot, attempt=job.attempt, busy_s=76.0)

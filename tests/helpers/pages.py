"""Made-up fronts with the searches behind them, for tests of the page."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sweeper.front.search_state import SearchState
from sweeper.records import Confirmation, Front, PointName, TrialRecord
from sweeper.search.importance import importance
from sweeper.search.study import Study
from sweeper.spec.space import Space
from tests.helpers.fronts import front_of_trials
from tests.helpers.goals import DIRECTIONS, TYPOGRAPHIC
from tests.helpers.reports import make_report, make_untouched
from trainables.records import Goal, Goals, Measurement, Point
from trainables.tasks.attribute import CONTENT_ACCURACY

SPACE = Space.parse(
    {
        "objective": {"choices": ["dpo", "ipo", "kto", "cross_entropy"]},
        "beta": [
            {"when": {"objective": ["dpo", "kto"]}, "low": 0.05, "high": 5.0, "log": True},
            {"when": {"objective": "ipo"}, "low": 0.005, "high": 0.5, "log": True},
        ],
        "lambda_reg": {"low": 0.01, "high": 10.0, "log": True},
        "tune": {"choices": ["transform", "last_blocks", "visual"]},
        "blocks": {"when": {"tune": "last_blocks"}, "choices": [1, 2]},
        "penalty": {"when": {"tune": "transform"}, "choices": [0.0, 1e-3]},
        "rank": {"when": {"tune": "transform"}, "low": 16, "high": 64, "log": True},
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    }
)
SKEW = Goal(
    metric="max_skew_at_30", direction="minimize", short="skew", title="MaxSkew among the best 30 retrievals",
    best="least biased", view=None,
)  # fmt: skip
ATTRIBUTE: Goals = (CONTENT_ACCURACY, SKEW)
PAINT = {"objective": "cross_entropy", "tune": "visual", "learning_rate": 1e-3, "lambda_reg": 0.0}


def searched_trials(count: int, *, strengths: int = 4, seed: int = 0, running: int = 0) -> list[TrialRecord]:
    """Return PAINT and trials at random points of ``SPACE``: the better the learning rate, the more robust."""
    study = Study.in_memory(SPACE, seed=seed, startup_trials=count, sampler="random", goals=DIRECTIONS)
    chance = random.Random(seed)
    trials = []
    for number in range(count + running):
        trial = study.add(PAINT, baseline="paint") if number == 0 else study.ask()
        trials.append(trial)
        if number >= count:
            continue
        rate = abs(math.log10(float(trial.parameters["learning_rate"])) + 2.5)
        gain = max(0.02, 0.38 - 0.12 * rate) * chance.uniform(0.85, 1.0)
        loss = chance.uniform(0.01, 0.09) * (0.5 if trial.parameters["tune"] == "transform" else 1.0)
        points = []
        for step in range(1, strengths + 1):
            share = step / strengths
            robust, clean = 0.3 + gain * share**0.8, 0.9 + 0.02 * math.sin(3 * share) - loss * share**2
            goals = {"clean_accuracy": round(clean * 900) / 900, "robust_accuracy": round(robust * 900) / 900}
            points.append(Point(weights="last", strength=share, values=goals | {"text_confusion_rate": 0.1}))
        told = {name: points[-1].values[name] for name in DIRECTIONS}
        trials[-1] = replace(trial, state="complete", values=told, points=tuple(points), duration_s=1.0)
    return trials


def state_of(trials: Sequence[TrialRecord], goals: Goals = TYPOGRAPHIC, *, running: bool = False) -> SearchState:
    """Return the state of a search with these trials; those that run have reported."""
    latest = {trial.number: make_report(step=3, progress=0.3) for trial in trials if trial.state == "running"}
    ended = sum(trial.state != "running" for trial in trials)
    return SearchState(
        trials=tuple(trials),
        planned=len(trials),
        running=running,
        space=SPACE,
        latest=latest,
        hypervolumes=tuple((count + 1, 0.04 * (1 - 0.9**count)) for count in range(ended)),
        importance={goal.metric: importance(SPACE, trials, goal.metric) for goal in goals},
    )


def measured(front: Front) -> dict[PointName, Measurement]:
    """Return test values of all points of a front, a little off validation, with intervals."""
    chance = random.Random(1)
    measurements = {}
    for point in front.points:
        values = {metric: value + chance.uniform(-0.012, 0.012) for metric, value in point.validation.items()}
        intervals = {metric: (value - 0.015, value + 0.015) for metric, value in values.items()}
        measurements[point.point_name] = Measurement(values=values, intervals=intervals, images=900)
    return measurements


def made_up(trials: Sequence[TrialRecord], *, test: bool = True, **changes: Any) -> Front:
    """Return the front of trials with test values."""
    front = front_of_trials(trials, **changes)
    return front_of_trials(trials, measurements=measured(front), **changes) if test else front


def confirmed_knee(front: Front) -> Front:
    """Return the front with its knee trained again."""

    def again(confirmation: Confirmation, name: str | None) -> Confirmation | None:
        return confirmation if name == "knee" else None

    knee = next(point for point in front.points if point.name == "knee")
    assert knee.values is not None
    means = {metric: value - 0.01 for metric, value in knee.values.items()}
    bounds = {metric: (value - 0.02, value + 0.02) for metric, value in means.items()}
    trained = Confirmation(seeds=3, failed=0, validation=means, stays=True, values=means, intervals=bounds)
    return replace(
        front, points=tuple(replace(point, confirmation=again(trained, point.name)) for point in front.points)
    )


def far_trial(number: int) -> TrialRecord:
    """Return a trial that has forgotten everything."""
    values = {"clean_accuracy": 0.06, "robust_accuracy": 0.05}
    return TrialRecord(
        number=number, state="complete", parameters={**PAINT, "learning_rate": 0.1}, seed=0, values=values,
        points=(Point(weights="last", strength=1.0, values=values | {"text_confusion_rate": 0.1}),), duration_s=1.0,
    )  # fmt: skip


def attribute_front() -> Front:
    """Return a front whose second goal is to be minimised, above 1 for some."""
    trials = []
    for trial in searched_trials(30, seed=3)[1:]:
        points = tuple(
            replace(
                point,
                values={
                    CONTENT_ACCURACY.metric: point.values["clean_accuracy"],
                    SKEW.metric: 1.6 - 2 * point.values["robust_accuracy"],
                },
            )
            for point in trial.points
        )
        trials.append(replace(trial, points=points, values=points[-1].values))
    untouched = make_untouched(goals={CONTENT_ACCURACY.metric: 0.9, SKEW.metric: 1.0})
    return made_up(trials, goals=ATTRIBUTE, untouched=untouched)

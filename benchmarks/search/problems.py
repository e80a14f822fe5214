"""Problems for simulated searches: what a trial reports at each of its evaluations, and what that costs in epochs.

Analytic problems have a known front. The embedded world's problem reads the reports of trained trials from a response
table (``benchmarks.search.response_table``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.search.table import RecordedTrial, Table, load_table
from sweeper.search.pareto import hypervolume
from sweeper.spec.space import Space

Goals = tuple[float, float]
"""(clean accuracy, robust accuracy), both maximised."""
Parameters = Mapping[str, Any]

EPOCHS = 3
"""Epochs of a trial."""
SEARCHED = ("learning_rate", "beta", "lambda_reg", "weight_decay")
"""Parameters that carry the coordinates of an analytic problem, each over two decades."""


class Problem(Protocol):
    """A search space, and the goals that its trials report."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """Description for the results file."""

    @property
    def space(self) -> Space: ...

    @property
    def reference(self) -> Goals:
        """Reference point of the hypervolume."""

    @property
    def attainable(self) -> float:
        """Hypervolume of the true front."""

    @property
    def floors(self) -> tuple[float | None, float | None]: ...

    @property
    def points(self) -> Sequence[Parameters]:
        """Parameters of the first trials of every search."""

    @property
    def final_evaluations(self) -> int:
        """Evaluations at the end of a trial: of the last weights, further strengths and averaged weights."""

    def evaluation_epochs(self, parameters: Parameters) -> float:
        """Return the cost of an evaluation in epochs of the trial's training."""

    def at(self, parameters: Parameters, progress: float, seed: int) -> Goals:
        """Return the goals that a trial reports after a share of its steps, 1 at its end."""

    def front_points(self, parameters: Parameters, seed: int) -> Sequence[Goals]:
        """Return the goals of a finished trial's points, its last report included."""

    def learned_at(self, parameters: Parameters) -> Parameters:
        """Return the point of the space that a sampler takes a trial for: that of the trial which stands for it."""


@dataclass(frozen=True)
class MeasuredPoint:
    """What was measured of one set of weights."""

    validation: Goals
    """On the images that a search sees."""
    looked: Goals | None
    """On these and the images of a second look together; None where no further images were recorded."""
    test: Goals


class TestedProblem(Problem, Protocol):
    """A problem of trained trials, whose points were measured on test."""

    @property
    def untouched(self) -> MeasuredPoint: ...

    def measured(self, parameters: Parameters) -> Sequence[MeasuredPoint]:
        """Return what was measured of a finished trial's points, in the order of ``front_points``."""

    def everything(self) -> Sequence[MeasuredPoint]:
        """Return the points of all trials that a search may find."""


@dataclass(frozen=True)
class Analytic:
    """Two goals of four parameters. Goals go from a common start to their final values.

    The speed of a trial depends on its parameters, so the best trial after a ninth of the steps need not be the best
    at the end. The noise of the reports falls linearly to zero.
    """

    name: str
    final: Callable[[np.ndarray], Goals]
    """Coordinates (4,) in [0, 1] -> final goals, both maximised; values of 0 and below add no hypervolume."""
    start: Goals
    attainable: float
    noise: float = 0.05
    final_evaluations: int = 1
    reference: Goals = (0.0, 0.0)
    floors: tuple[float | None, float | None] = (None, None)
    points: Sequence[Parameters] = ()

    @property
    def about(self) -> str:
        return (
            "Analytic: four parameters; trials learn at speeds of their own from a common start, seen through noise of "
            f"{self.noise:g} that falls to none at their end; an evaluation costs a tenth of an epoch."
        )

    def evaluation_epochs(self, parameters: Parameters) -> float:
        return 0.1

    @cached_property
    def space(self) -> Space:
        ranges = {name: {"low": 0.01, "high": 1.0, "log": True} for name in SEARCHED}
        return Space.parse({"objective": "dpo", "tune": "visual", **ranges})

    def at(self, parameters: Parameters, progress: float, seed: int) -> Goals:
        position = np.array([math.log10(parameters[name]) / 2 + 1 for name in SEARCHED])
        speed = 1.0 + 5.0 * position[1]
        learned = (1 - math.exp(-speed * progress)) / (1 - math.exp(-speed))
        key = hashlib.sha256(f"{seed}/{progress:.6f}/{position.tobytes().hex()}".encode()).digest()
        errors = np.random.default_rng(int.from_bytes(key[:8], "big")).normal(scale=self.noise * (1 - progress), size=2)
        first, second = (
            start + (end - start) * learned + float(error)
            for start, end, error in zip(self.start, self.final(position), errors, strict=True)
        )
        return first, second

    def front_points(self, parameters: Parameters, seed: int) -> Sequence[Goals]:
        return [self.at(parameters, 1.0, seed)]

    def learned_at(self, parameters: Parameters) -> Parameters:
        return parameters


def zdt1(position: np.ndarray) -> Goals:
    """Return goals with a convex front (Zitzler, Deb and Thiele 2000), their optimum moved inside the box."""
    first, away = float(position[0]), 1 + 4 * float(np.abs(position[1:] - 0.4).mean())
    return 1 - first, 1 - away * (1 - math.sqrt(first / away)) / 2


def dtlz2(position: np.ndarray) -> Goals:
    """Return goals whose front is a quarter of a circle (Deb, Thiele, Laumanns and Zitzler 2002)."""
    radius = 1 + float(((position[1:] - 0.4) ** 2).sum())
    angle = float(position[0]) * math.pi / 2
    return 1.2 - radius * math.cos(angle), 1.2 - radius * math.sin(angle)


def analytic() -> list[Analytic]:
    return [
        Analytic("ZDT1", zdt1, start=(0.4, 0.2), attainable=5 / 6),
        Analytic("DTLZ2", dtlz2, start=(0.1, 0.1), attainable=1.44 - math.pi / 4),
    ]


class World:
    """The embedded world: a trial reports what the recorded trial at the nearest point of the grid reported."""

    def __init__(self, path: Path, *, known: bool) -> None:
        """``known``: the first trials are those a user would guess, as in ``search_spaces/typo.yaml``: each objective
        on the image tower, in the middle of its ranges."""
        self.name = "embedded world, known points first" if known else "embedded world"
        self.table: Table = load_table(path)
        untouched = self.table.untouched.validation
        self.floors: tuple[float | None, float | None] = (untouched[0] - 0.10, None)
        self.reference: Goals = (untouched[0] - 0.10, untouched[1])
        searched = self.table.part("transform", "visual")
        self.final_evaluations = len(searched[0].points)
        self.space = Space.parse(self._raw_space())
        self._evaluation_epochs = _evaluation_epochs(searched)
        self.attainable = hypervolume([point.validation for t in searched for point in t.points], self.reference)
        shares = ", ".join(f"{share:.2f} of an epoch ({scope})" for scope, share in self._evaluation_epochs.items())
        self.about = (
            f"The response table of the embedded world: {len(searched)} trials that were trained, objectives, scopes, "
            "beta, lambda, learning rate and rank differing; a suggestion is what the nearest of them reported. An "
            f"evaluation costs {shares}."
        )
        self.points: list[Parameters] = []
        if known:
            self.points = [self._middle(objective) for objective in ("cross_entropy", "kto", "dpo", "ipo")]
            self.about += " Every search tries each objective first, on the image tower, in the middle of its ranges."
        self._nearest: dict[tuple[tuple[str, Any], ...], RecordedTrial] = {}

    def at(self, parameters: Parameters, progress: float, seed: int) -> Goals:
        return self.trial(parameters).at(progress).validation

    def evaluation_epochs(self, parameters: Parameters) -> float:
        return self._evaluation_epochs[parameters["tune"]]

    def front_points(self, parameters: Parameters, seed: int) -> Sequence[Goals]:
        return [point.validation for point in self.trial(parameters).points]

    def learned_at(self, parameters: Parameters) -> Parameters:
        return parameters

    @property
    def untouched(self) -> MeasuredPoint:
        return MeasuredPoint(self.table.untouched.validation, None, self.table.untouched.test)

    def measured(self, parameters: Parameters) -> Sequence[MeasuredPoint]:
        return _measured(self.trial(parameters))

    def everything(self) -> Sequence[MeasuredPoint]:
        return [point for trial in self.table.part("transform", "visual") for point in _measured(trial)]

    def authors(self, *, most_copies: int | None = None) -> tuple[float, list[MeasuredPoint]]:
        """Return (epochs over all images, evaluations included, all points) of the authors' grids.

        ``most_copies``: without the trainings of more attacked copies per image, which no search over the table has.
        """
        trials = [
            trial
            for trial in self.table.part("authors")
            if most_copies is None or trial.parameters["copies"] <= most_copies
        ]
        last = self.table.part("visual")[0].course[-1]
        images = last.image_steps / last.epoch
        trained = sum(trial.course[-1].image_steps / images for trial in trials)
        evaluations = len(trials) * (EPOCHS + self.final_evaluations - 1)
        points = [point for trial in trials for point in _measured(trial)]
        return trained + evaluations * self._evaluation_epochs["visual"], points

    def trial(self, parameters: Parameters) -> RecordedTrial:
        """Return the recorded trial at the nearest point of the grid."""
        key = tuple(parameters.items())
        if key not in self._nearest:
            self._nearest[key] = self.table.nearest(parameters)
        return self._nearest[key]

    def _middle(self, objective: str) -> Parameters:
        """Return the geometric middle of the ranges of an objective on the image tower."""
        point: dict[str, Any] = {"objective": objective, "tune": "visual"}
        for name in ("beta", "lambda_reg", "learning_rate"):
            fixed = (
                {"objective": objective} if name == "beta" else {"tune": "visual"} if name == "learning_rate" else {}
            )
            values = self.table.choices(**fixed).get(name)
            if values is not None:
                point[name] = math.sqrt(values[0] * values[-1])
        return point

    def _raw_space(self) -> dict[str, Any]:
        """Return the ranges that the recorded grid spans, with a branch per objective or scope where they differ."""

        def span(name: str, **fixed: str) -> dict[str, Any]:
            values = self.table.choices(**fixed)[name]
            return {"when": fixed, "low": values[0], "high": values[-1], "log": True}

        choices = self.table.choices()
        with_beta = [o for o in choices["objective"] if "beta" in self.table.choices(objective=o)]
        raw: dict[str, Any] = {name: {"choices": choices[name]} for name in ("objective", "tune")}
        raw["beta"] = [span("beta", objective=str(objective)) for objective in with_beta]
        raw["lambda_reg"] = {"low": choices["lambda_reg"][0], "high": choices["lambda_reg"][-1], "log": True}
        raw["learning_rate"] = [span("learning_rate", tune=str(tune)) for tune in choices["tune"]]
        raw["rank"] = {"when": {"tune": "transform"}, "choices": choices["rank"]}
        return raw


def _measured(trial: RecordedTrial) -> list[MeasuredPoint]:
    return [MeasuredPoint(point.validation, None, point.test) for point in trial.points]


def _evaluation_epochs(trials: Sequence[RecordedTrial]) -> dict[Any, float]:
    """Return scope -> mean cost of an evaluation over its trials, in epochs of training.

    A mean, because a single evaluation of few images is too short to be timed.
    """
    shares = {}
    for scope in sorted({str(trial.parameters["tune"]) for trial in trials}):
        ends = [(t.course[-1], len(t.course)) for t in trials if t.parameters["tune"] == scope]
        epoch_s = sum(end.train_s / end.epoch for end, _ in ends)
        shares[scope] = sum(end.evaluation_s / count for end, count in ends) / epoch_s
    return shares

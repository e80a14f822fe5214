"""One small sweep of ``benchmarks.intervals.coverage``: search, confirm phase, and the true values of its picks.

Search, front, confirm phase and intervals are sweeper's own, driven in this process without Ray.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.goals import DIRECTIONS, GOALS, TYPOGRAPHIC
from benchmarks.intervals.pool import PAIRS, POOL, TEST, VALIDATION, Draw
from sweeper.front.build import build_front, confirmed
from sweeper.front.confirm import Hits, confirm_seed, confirmations, plan, retrained
from sweeper.front.second_look import UNTOUCHED, near_front
from sweeper.jobs import Outcome, TrainJob
from sweeper.models.model_card import validation_intervals
from sweeper.records import Front, FrontPoint, PointName, Retraining, TrialRecord, UntouchedModel
from sweeper.search.first_points import first_points
from sweeper.search.scheduler import NoLimits, TrialScheduler
from sweeper.search.study import Study
from sweeper.spec.bounds import Bounds
from sweeper.spec.spec import Spec, spec_type
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import means, untouched_policy
from trainables.evaluation.metrics import bootstrap_interval
from trainables.evaluation.typographic import goal_scores
from trainables.models.policy import Policy
from trainables.records import Report, SecondLook, TrialResult
from trainables.settings.parameters import Parameters
from trainables.training.hooks import NonFiniteLoss
from trainables.training.trial import run_trial
from trainables.training.trial_folder import TrialFolder

PICKS = ("knee", "most robust")
FIRST_POINT_KEY = 999_999
"""Folder of the training that a search begins with; here it is no trial of the search."""
TRUTH_SEEDS = 8
"""Seeds over which the true value of a confirmed pick is averaged."""


def fresh_images(unseen: int) -> int:
    """Return how many images of the pool a sweep has not seen; ``unseen``: images of its second look."""
    return POOL["test"] - VALIDATION - TEST - unseen


def spec(seed: int) -> Spec:
    """Return a search over transforms: the best is picked of 16 trials with 5 points each."""
    return spec_type("typographic").model_validate(
        {
            "name": "calibration",
            "sets": {"world": {"kind": "world", **POOL}},
            "train": {"set": "world", "classes": 0.5},
            "attack": {"recipe": "sign"},
            "evaluate": {"search": {"sets": ["world"]}, "test": {"sets": ["world"], "variants": False}},
            "parameters": {
                "objective": {"choices": ["dpo", "ipo", "kto", "cross_entropy"]},
                "beta": [
                    {"when": {"objective": "dpo"}, "low": 0.1, "high": 2.0, "log": True},
                    {"when": {"objective": "kto"}, "low": 0.1, "high": 3.0, "log": True},
                    {"when": {"objective": "ipo"}, "low": 0.01, "high": 0.2, "log": True},
                ],
                "lambda_reg": {"low": 0.03, "high": 10.0, "log": True},
                "tune": "transform",
                "rank": {"choices": [16, 32, 64]},
                "learning_rate": {"low": 1e-3, "high": 2e-1, "log": True},
            },
            "paint": None,
            "search": {"trials": 16, "seed": seed},
            "confirm": {"members": len(PICKS), "seeds": 3, "share": 0.3},
            "training": {"epochs": 3, "global_batch_size": 32, "warmup_share": 0.1},
        }
    )


class NoListener:
    """A ``TrialListener`` that does nothing."""

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...


class InProcessFiles:
    """``TrialFiles`` of trials that are trained in this process without interruption."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def job(self, trial: TrialRecord, rungs: Sequence[float]) -> TrainJob:
        return TrainJob(
            key=trial.number,
            folder=self._folder / str(trial.number),
            parameters=trial.parameters,
            seed=trial.seed,
            rungs=tuple(rungs),
        )

    def ended(self, number: int) -> None:
        """Do nothing: all files are here."""

    def reports(self, number: int) -> list[Report]:
        return []

    def stopped(self, number: int) -> None: ...


class OneConfirmPhase(NoLimits):
    """The control of a sweep whose confirm phase is planned from ``front()``."""

    def __init__(self, spec: Spec, front: Callable[[], Front]) -> None:
        self._spec, self._front = spec, front

    def plan_retrainings(self, trials: Sequence[TrialRecord]) -> Sequence[Retraining]:
        confirm, search = self._spec.confirm, self._spec.search
        assert confirm is not None
        most = confirm.most_trainings(search.trials)
        return plan(self._front(), trials, confirm, seed=search.seed, most=most).missing


class SmallSweep:
    """One small sweep, and the true values of its picks."""

    def __init__(self, context: Draw, seed: int, folder: Path) -> None:
        self._context, self._spec, self._folder = context, spec(seed), folder
        (self._unseen,) = context.data.unseen_images()
        self._looks: dict[PointName, SecondLook] = {}
        self._group = WorkerGroup(device=context.device)
        scores = goal_scores(context, untouched_policy(context), context.data.search_sets, self._group)
        self._untouched = UntouchedModel(
            goals=means(scores),
            chance=1 / len(context.data.parts["test"].images.class_names),
            validation_images=[VALIDATION],
            unseen_images=context.data.unseen_images(),
            pairs=PAIRS,
            weights_digest="",
            data_digest="",
            validation_digest=None,
            broken={},
            assumed=None,
            versions={},
            device=None,
        )
        self._study = Study.in_memory(
            self._spec.parameters, goals=DIRECTIONS, seed=seed, startup_trials=self._spec.search.startup()
        )

    def run(self) -> dict[str, Any]:
        self._search()
        front, records = self._front(), self._study.trials()
        hits: dict[PointName, Hits] = {
            (trial.number, weights, strength): self._hits(trial.number, trial.parameters, weights, strength)
            for (_, weights, strength), trials in retrained(front, records).items()
            for trial in trials
        }
        by_point = confirmations(
            front, records, hits, bounds=self._spec.bounds(self._untouched.goals), untouched_goals=self._untouched.goals
        )
        members = [point for point in confirmed(front, by_point).points if point.confirmation is not None]
        truths = self._truths(members)
        lines = [self._line(point, truth) for point, truth in zip(members, truths, strict=True)]
        return {
            "seed": self._spec.search.seed,
            "unseen": self._unseen,
            "members": len([p for p in front.points if p.member]),
            "lines": lines,
            "first_point": self._first_point(),
        }

    def _first_point(self) -> list[dict[str, float]]:
        """Return the goals on fresh images of the training that a search begins with, at each strength of the front."""
        point = first_points(self._spec, self._untouched).next([])
        assert point is not None, "a search that names no points finds its first one"
        self._train(FIRST_POINT_KEY, point.parameters, seed=self._spec.search.seed)
        strengths = self._spec.evaluate.front.strengths
        return [self._fresh(FIRST_POINT_KEY, point.parameters, "last", strength) for strength in strengths]

    def _search(self) -> None:
        control, files = OneConfirmPhase(self._spec, self._front), InProcessFiles(self._folder)
        scheduler = TrialScheduler(self._spec, self._study, files, self._untouched.goals, NoListener(), control)
        while (job := scheduler.next_job()) is not None:
            assert isinstance(job, TrainJob)
            scheduler.on_end(job.key, self._outcome(job))

    def _outcome(self, job: TrainJob) -> Outcome:
        try:
            result = self._train(job.key, job.parameters, job.seed)
        except NonFiniteLoss as error:
            return Outcome(kind="failed", reason=str(error), slot=0, attempt=1)
        return Outcome(kind="complete", result=result, slot=0, attempt=1)

    def _train(self, key: int, parameters: dict[str, Any], seed: int) -> TrialResult:
        folder = TrialFolder(self._folder / str(key))
        return run_trial(self._context, Parameters.model_validate(parameters), seed=seed, folder=folder)

    def _front(self) -> Front:
        trials = self._study.trials()
        bounds = self._spec.bounds(self._untouched.goals)
        if self._unseen:
            self._look_again(trials, bounds)
        return build_front(
            "calibration",
            trials,
            goals=TYPOGRAPHIC,
            bounds=bounds,
            untouched=self._untouched,
            measurements={},
            planned=len(trials),
            second_looks=self._looks if self._unseen else None,
        )

    def _look_again(self, trials: Sequence[TrialRecord], bounds: Bounds) -> None:
        look = self._spec.evaluate.second_look
        assert look is not None and not bounds, "bounds would be relative to what both say of the untouched model"
        near = near_front(
            trials, goals=TYPOGRAPHIC, bounds=bounds, untouched_goals=self._untouched.goals, margin=look.margin
        )
        if UNTOUCHED not in self._looks:
            self._looks[UNTOUCHED] = self._looked(untouched_policy(self._context))
        for point, parameters in near.items():
            number, weights, strength = point
            if point not in self._looks and number is not None:
                with self._policy(number, parameters, weights, strength) as policy:
                    self._looks[point] = self._looked(policy)

    def _looked(self, policy: Policy) -> SecondLook:
        scores = goal_scores(self._context, policy, self._context.data.unseen_sets, self._group)
        return SecondLook(values=means(scores), images=[self._unseen])

    def _hits(self, key: int, parameters: dict[str, Any], weights: str, strength: float) -> dict[str, list[np.ndarray]]:
        with self._policy(key, parameters, weights, strength) as policy:
            scores = goal_scores(self._context, policy, self._context.data.test_sets, self._group)
        return {goal: scores[goal] for goal in GOALS}

    def _fresh(self, key: int, parameters: dict[str, Any], weights: str, strength: float) -> dict[str, float]:
        """Return the goals on all images of the pool that the sweep has not seen."""
        fresh = self._context.data.parts["fresh"]
        assert fresh.clean is not None
        text = self._context.reference.text_embeddings(fresh.images.class_names, fresh.images.templates)
        goals = {}
        with self._policy(key, parameters, weights, strength) as policy, torch.no_grad():
            prompts = policy.text_embeddings(text)
            for goal, view in zip(GOALS, (fresh.clean, fresh.attacked), strict=True):
                logits = policy.logits(policy.image_embeddings(self._context.reference.embeddings(view)), prompts)
                goals[goal] = float((logits.argmax(-1) == view.labels).double().mean())
        return goals

    @contextlib.contextmanager
    def _policy(self, key: int, parameters: dict[str, Any], weights: str, strength: float) -> Iterator[Policy]:
        policy = self._context.policy(Parameters.model_validate(parameters))
        try:
            policy.set_weights(TrialFolder(self._folder / str(key)).weights(weights), strength)
            yield policy
        finally:
            policy.restore()

    def _truths(self, members: Sequence[FrontPoint]) -> list[dict[str, list[float]]]:
        """Return per member: goal -> values on fresh images of trainings with ``TRUTH_SEEDS`` further seeds."""
        truths: list[dict[str, list[float]]] = [{goal: [] for goal in GOALS} for _ in members]
        for trial in {point.trial: point for point in members}.values():
            assert trial.trial is not None
            for number in range(1000, 1000 + TRUTH_SEEDS):
                key = number * 1000 + trial.trial
                self._train(key, trial.parameters, confirm_seed(self._spec.search.seed, trial.trial, number))
                for i, point in enumerate(members):
                    if point.trial == trial.trial:
                        for goal, value in self._fresh(key, point.parameters, point.weights, point.strength).items():
                            truths[i][goal].append(value)
        return truths

    def _line(self, point: FrontPoint, truth: Mapping[str, list[float]]) -> dict[str, Any]:
        """Return the values and intervals of a confirmed member beside the true values."""
        assert point.confirmation is not None and point.trial is not None
        weights = (point.trial, point.parameters, point.weights, point.strength)
        hits, fresh = self._hits(*weights), self._fresh(*weights)
        validation = validation_intervals(
            {goal: point.validation[goal] for goal in GOALS}, [VALIDATION + self._unseen], TYPOGRAPHIC
        )
        confirmation, goals = point.confirmation, {}
        for goal in GOALS:
            assert confirmation.validation and confirmation.values
            assert confirmation.intervals and confirmation.simultaneous
            goals[goal] = {
                "validation": [point.validation[goal], *validation[goal]],
                "test": [float(hits[goal][0].mean()), *bootstrap_interval(hits[goal])],
                "confirm": [confirmation.values[goal], *confirmation.intervals[goal]],
                "simultaneous": [confirmation.values[goal], *confirmation.simultaneous[goal]],
                "confirm_validation": confirmation.validation[goal],
                "fresh": fresh[goal],
                "seeds": truth[goal],
            }
        return {"name": point.name, "stays": confirmation.stays, "goals": goals}

"""Do the printed 95 % intervals of a sweep's picks cover what they say? ``python benchmarks/calibration.py``.

Many small sweeps over the embedded world, each with training, validation and test images of its own, drawn from a
large pool; what a pick is worth is measured on all images of the pool that its sweep has not seen. Search, front,
confirm phase and intervals are the library's own, driven in this process without Ray. One line per sweep is kept in
``--keep``, so a run that is cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.intervals.pool import PAIRS, POOL, TEST, VALIDATION, Draw
from sweeper.front.build import build_front, confirmed
from sweeper.front.confirm import Hits, confirm_seed, confirmations, plan, retrained
from sweeper.models.model_card import validation_intervals
from sweeper.records import GOALS, Front, FrontPoint, Outcome, PointName, Report, Task, TrialRecord
from sweeper.search.scheduler import TrialScheduler
from sweeper.search.study import Study
from sweeper.spec.spec import Spec
from trainables.distributed import WorkerGroup
from trainables.evaluation.measure import goal_scores, means, untouched_policy
from trainables.evaluation.metrics import bootstrap_interval
from trainables.models.policy import Policy
from trainables.settings.parameters import Parameters
from trainables.training.checkpoint import TrialFolder
from trainables.training.trial import NonFiniteLoss, run_trial
from trainables.trial_context import TrialContext

PICKS = ("knee", "most robust")
TRUTH_SEEDS = 8
FRESH = POOL["test"] - VALIDATION - TEST


def spec(seed: int) -> Spec:
    """A search over transforms: 16 trials of 5 points each are the many that the best is picked of."""
    return Spec.model_validate(
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


class Nobody:
    """Implements ``trials.TrialListener``."""

    def started(self, trial: TrialRecord) -> None: ...

    def reported(self, trial: TrialRecord, report: Report) -> None: ...

    def ended(self, trial: TrialRecord) -> None: ...

    def tick(self) -> None: ...


class Files:
    """Implements ``trials.Files``: trials are trained in this process, from start to end."""

    def task(self, trial: TrialRecord, rungs: Sequence[float]) -> Task:
        payload = {"parameters": trial.parameters, "seed": trial.seed}
        return Task(kind="train", key=trial.number, attempt=1, payload=payload)

    def reports(self, number: int) -> list[Report]:
        return []

    def stopped(self, number: int) -> None: ...


class Sweep:
    """One small sweep, and what its picks are worth."""

    def __init__(self, bench: Draw, seed: int, folder: Path) -> None:
        self._bench, self._spec, self._folder = bench, spec(seed), folder
        self._group = WorkerGroup(device=bench.device)
        scores = goal_scores(bench, untouched_policy(bench), bench.search_sets, self._group)
        self._untouched = means(scores)
        self._study = Study.in_memory(self._spec.parameters, seed=seed, startup_trials=self._spec.search.startup())

    def run(self) -> dict[str, Any]:
        self._search()
        front, records = self._front(), self._study.trials()
        again = retrained(front, records)
        hits: dict[PointName, Hits] = {
            (one.number, weights, strength): self._hits(one.number, one.parameters, weights, strength)
            for (_, weights, strength), trainings in again.items()
            for one in trainings
        }
        found = confirmations(front, records, hits, goals=self._spec.goals, untouched=self._untouched)
        members = [point for point in confirmed(front, found).points if point.confirmation is not None]
        truths = self._truths(members)
        lines = [self._line(point, truth) for point, truth in zip(members, truths, strict=True)]
        return {"seed": self._spec.search.seed, "members": len([p for p in front.points if p.member]), "lines": lines}

    def _search(self) -> None:
        confirm = self._spec.confirm
        assert confirm is not None
        most, seed = confirm.most_trainings(self._spec.search.trials), self._spec.search.seed
        trials = TrialScheduler(
            self._spec,
            self._study,
            Files(),
            self._untouched,
            Nobody(),
            retrainings=lambda records: plan(self._front(), records, confirm, seed=seed, most=most).missing,
        )
        while (task := trials.next_task()) is not None:
            trials.on_end(task.key, self._trained(task))

    def _trained(self, task: Task) -> Outcome:
        try:
            result = self._train(task.key, task.payload["parameters"], task.payload["seed"])
        except NonFiniteLoss as error:
            return Outcome(kind="failed", reason=str(error), slot=0, attempt=1)
        return Outcome(kind="complete", result=result, slot=0, attempt=1)

    def _train(self, key: int, parameters: dict[str, Any], seed: int) -> dict[str, Any]:
        folder = TrialFolder(self._folder / str(key))
        return run_trial(self._bench, Parameters.model_validate(parameters), seed=seed, folder=folder)

    def _front(self) -> Front:
        untouched = {"validation": self._untouched, "chance": 1 / len(self._bench.parts["test"].class_names)}
        trials = self._study.trials()
        return build_front(
            "calibration", trials, goals=self._spec.goals, untouched=untouched, tests={}, planned=len(trials)
        )

    def _hits(self, key: int, parameters: dict[str, Any], weights: str, strength: float) -> dict[str, list[np.ndarray]]:
        with self._policy(key, parameters, weights, strength) as policy:
            scores = goal_scores(self._bench, policy, self._bench.test_sets, self._group)
        return {goal: scores[goal] for goal in GOALS}

    def _fresh(self, key: int, parameters: dict[str, Any], weights: str, strength: float) -> dict[str, float]:
        """Goals on all images of the pool that the sweep has not seen."""
        one = self._bench.parts["fresh"]
        assert one.clean is not None
        text = self._bench.text(one.class_names, one.templates)
        found = {}
        with self._policy(key, parameters, weights, strength) as policy, torch.no_grad():
            prompts = policy.text_embeddings(text)
            for goal, view in zip(GOALS, (one.clean, one.attacked), strict=True):
                logits = policy.logits(policy.image_embeddings(self._bench.embeddings(view)), prompts)
                found[goal] = float((logits.argmax(-1) == view.labels).double().mean())
        return found

    @contextlib.contextmanager
    def _policy(self, key: int, parameters: dict[str, Any], weights: str, strength: float) -> Iterator[Policy]:
        policy = self._bench.policy(Parameters.model_validate(parameters))
        try:
            policy.set_weights(TrialFolder(self._folder / str(key)).weights(weights), strength)
            yield policy
        finally:
            policy.restore()

    def _truths(self, members: Sequence[FrontPoint]) -> list[dict[str, list[float]]]:
        """Per member and goal: on fresh images, of each of ``TRUTH_SEEDS`` seeds that nothing else has seen."""
        found: list[dict[str, list[float]]] = [{goal: [] for goal in GOALS} for _ in members]
        for trial in {point.trial: point for point in members}.values():
            assert trial.trial is not None
            for number in range(1000, 1000 + TRUTH_SEEDS):
                key = number * 1000 + trial.trial
                self._train(key, trial.parameters, confirm_seed(self._spec.search.seed, trial.trial, number))
                for i, point in enumerate(members):
                    if point.trial == trial.trial:
                        for goal, value in self._fresh(key, point.parameters, point.weights, point.strength).items():
                            found[i][goal].append(value)
        return found

    def _line(self, point: FrontPoint, truth: Mapping[str, list[float]]) -> dict[str, Any]:
        assert point.confirmation is not None and point.trial is not None
        weights = (point.trial, point.parameters, point.weights, point.strength)
        hits, fresh = self._hits(*weights), self._fresh(*weights)
        validation = validation_intervals({goal: point.validation[goal] for goal in GOALS}, [VALIDATION])
        again, goals = point.confirmation, {}
        for goal in GOALS:
            assert again.validation and again.values and again.intervals and again.simultaneous
            goals[goal] = {
                "validation": [point.validation[goal], *validation[goal]],
                "test": [float(hits[goal][0].mean()), *bootstrap_interval(hits[goal])],
                "confirm": [again.values[goal], *again.intervals[goal]],
                "simultaneous": [again.values[goal], *again.simultaneous[goal]],
                "confirm_validation": again.validation[goal],
                "fresh": fresh[goal],
                "seeds": truth[goal],
            }
        return {"name": point.name, "stays": again.stays, "goals": goals}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sweeps", type=int, default=100, help="in all; default 100")
    parser.add_argument("--keep", type=Path, help="one JSON line per sweep; those that are there count")
    parser.add_argument("--cache", type=Path, help="keeps prepared images and embeddings for a next time")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/calibration.md"))
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # as the workers of a sweep do
    started_s, kept = time.process_time(), _kept(options.keep)
    with tempfile.TemporaryDirectory() as scratch:
        sweeps = _sweeps(options.sweeps, options.keep, options.cache or Path(scratch) / "cache")
    table = report(sweeps)
    print(table)
    made = sum(sweep["seed"] not in kept for sweep in sweeps)
    taken = (
        f"{len(sweeps)} sweeps, {made} of them in this run ({time.process_time() - started_s:.0f} s of one processor)"
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(f"{heading(taken)}\n\n{table}\n")
    return 0


def _kept(keep: Path | None) -> dict[int, dict[str, Any]]:
    if keep is None or not keep.exists():
        return {}
    return {line["seed"]: line for line in map(json.loads, keep.read_text().splitlines())}


def _sweeps(count: int, keep: Path | None, cache: Path) -> list[dict[str, Any]]:
    """Those that are kept, and more until there are so many."""
    known, seed, pool = _kept(keep), 0, None
    while len(known) < count:
        if seed not in known:
            if pool is None:
                task = spec(0).task_settings()
                pool = TrialContext(task, data_seed=0, cache=cache, device=torch.device("cpu"))
            with tempfile.TemporaryDirectory() as folder:
                known[seed] = Sweep(Draw(pool, cache, seed), seed, Path(folder)).run()
            if keep is not None:
                with keep.open("a") as file:
                    file.write(json.dumps(known[seed]) + "\n")
            print(f"{len(known)} of {count} sweeps", file=sys.stderr)
        seed += 1
    return [known[seed] for seed in sorted(known)]


@dataclass(frozen=True)
class Check:
    """An interval held against the truth."""

    value: float
    low: float
    high: float
    truth: float
    truth_error: float
    """Standard error of ``truth``, which is measured too."""

    @property
    def covers(self) -> bool:
        """An interval of exact reach r covers a truth that is known to e with a reach of sqrt(r^2 + (1.96 e)^2)."""
        below, above = (
            math.hypot(reach, 1.96 * self.truth_error) for reach in (self.value - self.low, self.high - self.value)
        )
        return self.value - below <= self.truth <= self.value + above


def checks(sweeps: Sequence[Mapping[str, Any]], pick: str, goal: str, kind: str) -> list[Check]:
    """One per sweep: ``kind`` of interval of what ``pick`` picks."""
    found = []
    for sweep in sweeps:
        if not sweep["lines"]:
            continue
        one = _picked(sweep["lines"], pick)["goals"][goal]
        of_weights = kind in ("validation", "test")
        truth = one["fresh"] if of_weights else fmean(one["seeds"])
        variance = truth * (1 - truth) / FRESH + (0.0 if of_weights else stdev(one["seeds"]) ** 2 / len(one["seeds"]))
        value, low, high = one[kind]
        found.append(Check(value, low, high, truth, variance**0.5))
    return found


def _picked(lines: Sequence[Mapping[str, Any]], pick: str) -> Mapping[str, Any]:
    if pick == "highest on test":
        return max(lines, key=lambda line: line["goals"][GOALS[1]]["confirm"][0])
    named = {line["name"]: line for line in lines}
    return named.get(pick) or named["knee"]  # where the knee is an end of the front it has the knee's name


WHAT = {
    "validation": "validation, of the weights",
    "test": "test, of the weights",
    "confirm": "test and new seeds, of the recipe",
    "simultaneous": "the same, for all confirmed members",
}


def report(sweeps: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "pick",
        "goal",
        "95 % interval from",
        "covers",
        "95 % interval of that share",
        "mean width",
        "value - truth",
    ]
    rows = []
    for pick, kinds in (
        *((pick, ("validation", "test", "confirm")) for pick in PICKS),
        ("highest on test", ("confirm", "simultaneous")),
    ):
        for goal in GOALS if pick in PICKS else GOALS[1:]:
            for kind in kinds:
                found = checks(sweeps, pick, goal, kind)
                hits = sum(one.covers for one in found)
                share = binomtest(hits, len(found)).proportion_ci(method="wilson")
                error = fmean(one.value - one.truth for one in found)
                rows.append(
                    [pick, goal.removesuffix("_accuracy"), WHAT[kind], f"{hits} of {len(found)}"]
                    + [f"[{share.low:.3f}, {share.high:.3f}]", f"{fmean(one.high - one.low for one in found):.3f}"]
                    + [f"{error:+.4f}"]
                )
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([*lines, "", pooled(sweeps), "", spread(sweeps)])


def pooled(sweeps: Sequence[Mapping[str, Any]]) -> str:
    texts = []
    for kind in ("validation", "test", "confirm"):
        covers = [one.covers for pick in PICKS for goal in GOALS for one in checks(sweeps, pick, goal, kind)]
        texts.append(f"{WHAT[kind]}: {fmean(covers):.1%}")
    return f"Covered, over both picks and both goals (not independent of each other): {'; '.join(texts)}."


def spread(sweeps: Sequence[Mapping[str, Any]]) -> str:
    """How much seeds matter here beside images."""
    lines = [line for sweep in sweeps for line in sweep["lines"]]
    texts = []
    for goal in GOALS:
        seeds = fmean(stdev(line["goals"][goal]["seeds"]) for line in lines)
        share = fmean(fmean(line["goals"][goal]["seeds"]) for line in lines)
        images = (share * (1 - share) / TEST) ** 0.5
        texts.append(f"{goal.removesuffix('_accuracy')}: {seeds:.4f} between seeds, {images:.4f} by {TEST} test images")
    stay = fmean(line["stays"] for line in lines)
    members = fmean(sweep["members"] for sweep in sweeps)
    return (
        f"Standard deviations of a value, mean over confirmed members: {'; '.join(texts)}. Members of a front: "
        f"{members:.1f} on average; {stay:.0%} of {len(lines)} confirmed members stay."
    )


def heading(taken: str) -> str:
    about = spec(0)
    assert about.confirm is not None
    versions = f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    threads = f"{torch.get_num_threads()} thread(s)"
    points = len(about.evaluate.front.strengths) + 1
    return f"""# Calibration of the printed intervals

Made by `python benchmarks/calibration.py`: {taken}; {platform.machine()}, {threads}; {versions}.

Each sweep: {about.search.trials} trials of transforms over the embedded world, {points} points each, on {PAIRS}
preference pairs and {VALIDATION} validation images; picks on validation; {TEST} test images; {about.confirm.seeds} new
seeds for the trials of the picks. All images are the sweep's own draw. Truth for an interval of the weights: their
accuracy on the {FRESH} images of the pool that the sweep has not seen. Truth for an interval of the recipe: the
same, mean over {TRUTH_SEEDS} further seeds. A truth is measured too, and its standard error is allowed for. The
validation interval is what a sweep without test images could print: that of a point that nobody picked.
"highest on test" is what a reader picks who goes by the confirmed members' robust accuracy on test."""


if __name__ == "__main__":
    sys.exit(main())

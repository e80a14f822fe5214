"""Seconds between the end of a trial and the first step of the next trial.

    python -m benchmarks.scheduling.turnaround --output FILE

One trial at a time, which sleeps, so that only the hand-over is measured. Warm slots are compared with what Ray offers:
a Train run per trial inside a Tune function (Tune and Train, both V2), and plain Tune functions with and without
``reuse_actors``, which cannot train on several workers. All of them take turns on the same Ray, ``--rounds`` times. The
first trial of each turn is not counted, so start-up is excluded. A further row hands over real trials on warm slots,
where the policy and the optimiser of the next trial are built in between.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common.machine import environment, publish
from benchmarks.scheduling.timed import TimedChannel
from sweeper.execution import cluster
from sweeper.execution.capacity import SlotPlan
from sweeper.execution.job_queue import JobLimits
from sweeper.execution.runner import make_runner
from sweeper.execution.worker import Channel, WorkerContext
from sweeper.jobs import Job, Outcome, TrainJob
from sweeper.spec.spec import load_spec
from trainables.records import Report
from trainables.settings.task import TaskSettings

if TYPE_CHECKING:
    from sweeper.execution.slots import SlotPool

SPEC = Path(__file__).resolve().parents[2] / "search_spaces" / "quickstart.yaml"
WORK_S = 0.3
TARGET_S = 0.5
HEALTH_S = cluster.QUIET["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]
PARAMETERS = {
    "objective": "dpo", "beta": 1.0, "lambda_reg": 1.0, "tune": "transform", "rank": 32, "learning_rate": 0.02,
}  # fmt: skip

Span = tuple[float, float]
"""(start of a trial's first step, end of its last work), in seconds since 1970."""


def sleep() -> Span:
    first_s = time.time()
    time.sleep(WORK_S)
    return first_s, time.time()


def make_both(context: WorkerContext, *, task: TaskSettings, cache: Path) -> Callable[[Job, Channel], Span]:
    """Return a runner that trains, or sleeps for a job without parameters. A job ends with its span."""
    real = make_runner(context, task=task, data_seed=0, cache=cache)

    def run(job: Job, channel: Channel) -> Span:
        assert isinstance(job, TrainJob)
        if not job.parameters:
            channel.interrupted()
            return sleep()
        timed = TimedChannel(channel)
        real(job, timed)  # type: ignore[arg-type]
        return timed.first_s, time.time()

    return run


class FixedTrials:
    """A ``TrialSource`` of given jobs."""

    def __init__(self, jobs: list[TrainJob]) -> None:
        self._waiting = list(jobs)
        self.spans: list[Span] = []

    def next_job(self) -> TrainJob | None:
        return self._waiting.pop(0) if self._waiting else None

    def exhausted(self) -> bool:
        return not self._waiting

    def on_report(self, key: int, report: Report) -> bool:
        return False

    def on_end(self, key: int, outcome: Outcome) -> None:
        if outcome.kind != "complete":
            raise RuntimeError(f"a trial {outcome.kind}: {outcome.reason}\n{outcome.traceback}")
        self.spans.append(outcome.result)  # type: ignore[arg-type]

    def on_tick(self) -> None:
        pass


@dataclass
class FixedSearch:
    """What ``run_trials`` asks for its trials."""

    scheduler: FixedTrials


def on_warm_slots(slots: SlotPool, home: Path, jobs: list[TrainJob]) -> list[Span]:
    from sweeper.execution.tune import run_trials

    search = FixedSearch(FixedTrials(jobs))
    return run_trials(slots, lambda: search, home / "tune").scheduler.spans


def new_jobs(home: Path, count: int, parameters: dict[str, Any]) -> list[TrainJob]:
    """Return jobs with keys and folders that no other call returns."""
    first_key = time.time_ns()
    jobs = [
        TrainJob(key=key, folder=home / "trials" / str(key), parameters=parameters, seed=0, rungs=())
        for key in range(first_key, first_key + count)
    ]
    for job in jobs:
        job.folder.mkdir(parents=True)
    return jobs


def tune_report(span: Span) -> dict[str, float]:
    return {"first_s": span[0], "last_s": span[1]}


def tune_function(config: dict[str, Any]) -> None:
    from ray import tune

    tune.report(tune_report(sleep()))


def train_in_tune(config: dict[str, Any]) -> None:
    """Train on workers under Tune as Ray documents it since Train V2."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def loop(_: dict[str, Any]) -> None:
        train.report(tune_report(sleep()))

    TorchTrainer(
        loop,
        train_loop_config={},
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def with_tune(
    function: Callable[[dict[str, Any]], None], home: Path, count: int, *, cpus: float, reuse: bool
) -> list[Span]:
    from ray import tune

    resources = {"CPU": cpus} if cpus else {"node:__internal_head__": 0.001}
    results = tune.Tuner(
        tune.with_resources(function, resources),
        param_space={"storage": str(home / "train")},
        tune_config=tune.TuneConfig(num_samples=count, max_concurrent_trials=1, reuse_actors=reuse),
        run_config=tune.RunConfig(name=f"tune-{time.time_ns()}", storage_path=str(home / "tune"), verbose=0),
    ).fit()
    if results.errors:
        raise RuntimeError(str(results.errors[0]))
    return [(result.metrics["first_s"], result.metrics["last_s"]) for result in results]


def gaps(spans: list[Span]) -> list[float]:
    """Return the seconds between the trials of one turn, without the first: Tune starts its actors beside that one."""
    ordered = sorted(spans)[1:]
    return [after[0] - before[1] for before, after in zip(ordered, ordered[1:], strict=False)]


def table(gaps_s: dict[str, list[float]]) -> list[str]:
    """Return the Markdown table; the first row is the one that the others are compared with."""
    names = list(gaps_s)
    warm_s = statistics.median(gaps_s[names[0]])
    lines = ["| | gaps | median s | worst s | times warm slots |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in names:
        median, worst = statistics.median(gaps_s[name]), max(gaps_s[name])
        times = f"{median / warm_s:.1f}" if median < 10 * warm_s else f"{median / warm_s:.0f}"
        lines.append(f"| {name} | {len(gaps_s[name])} | {median:.2f} | {worst:.2f} | {times} |")
    word = "met" if warm_s <= TARGET_S else "missed"
    return [*lines, "", f"Target for warm slots: {TARGET_S} s, {word} by the median."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    options = parser.parse_args()
    from sweeper.execution.slots import SlotPool

    task = load_spec(SPEC).task_settings()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        cluster.connect(num_cpus=4)
        plan = SlotPlan(slots=1, workers_per_trial=1, cpus_per_worker=1, gpus_per_worker=0, text="")
        with SlotPool(plan, partial(make_both, task=task, cache=home / "cache"), home / "ray", JobLimits()) as slots:
            ways: dict[str, Callable[[], list[Span]]] = {
                "warm slots": lambda: on_warm_slots(slots, home, new_jobs(home, 10, {})),
                "warm slots, real trials": lambda: on_warm_slots(slots, home, new_jobs(home, 10, PARAMETERS)),
                "Tune function, reuse_actors=True": lambda: with_tune(tune_function, home, 10, cpus=1, reuse=True),
                "Tune function, reuse_actors=False": lambda: with_tune(tune_function, home, 5, cpus=1, reuse=False),
                "Train run in a Tune function": lambda: with_tune(train_in_tune, home, 4, cpus=0, reuse=True),
            }
            gaps_s: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(options.rounds):
                for name, way in ways.items():
                    gaps_s[name] += gaps(way())
                    load.append(os.getloadavg()[0])
                    sys.stderr.write(f"round {turn + 1}: {name}: {', '.join(f'{gap:.2f}' for gap in gaps_s[name])}\n")
        cluster.disconnect()
    text = "\n".join([
        "# From a trial's end to the next one's first step", "",
        f"{environment('ray', 'torch')}; load average {min(load):.1f} to {max(load):.1f}; trials that sleep "
        f"{WORK_S} s, one at a time, {options.rounds} rounds in which all take turns. All with the settings that "
        f"`sweeper.execution.cluster` gives Ray (Train looks after its workers every {HEALTH_S} s, not every 2 s).", "",
        *table(gaps_s), "",
    ])  # fmt: skip
    publish(text, options.output)


if __name__ == "__main__":
    main()

"""Seconds between a trial's end and the next one's first step: ``python benchmarks/turnaround.py --output FILE``.

One trial at a time, trials that sleep, so that nothing but the hand-over is left. Warm slots against what a user of Ray
has: a Train run per trial inside a Tune function (Tune and Train, both V2), and plain Tune functions with and without
``reuse_actors``, which cannot train on several workers. All take turns on one Ray, ``--rounds`` times; in each turn a
way's first trial and its hand-over are not counted, so that nobody's start-up is. A further row hands over real trials
on warm slots: there the next trial's policy and optimiser are built in between.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common.machine import environment, publish
from benchmarks.scheduling.timed import Timed
from sweeper.execution import cluster
from sweeper.execution.capacity import SlotPlan
from sweeper.execution.job_queue import JobLimits
from sweeper.execution.runner import make_runner
from sweeper.execution.worker import Channel, Runner, WorkerContext
from sweeper.records import Outcome, Report, Task
from sweeper.spec.spec import load_spec

SPEC = Path(__file__).resolve().parents[2] / "search_spaces" / "quickstart.yaml"
WORK_S = 0.3
TARGET_S = 0.5
HEALTH_S = cluster.QUIET["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]
PARAMETERS = {
    "objective": "dpo", "beta": 1.0, "lambda_reg": 1.0, "tune": "transform", "rank": 32, "learning_rate": 0.02,
}  # fmt: skip

Span = tuple[float, float]
"""When a trial's first step began and its last work ended, in seconds since 1970."""


def work() -> dict[str, float]:
    first_s = time.time()
    time.sleep(WORK_S)
    return {"first_s": first_s, "last_s": time.time()}


def make_both(context: WorkerContext, *, task: dict[str, Any], cache: Path) -> Runner:
    """A runner that sleeps, or trains where the payload has parameters."""
    real = make_runner(context, task=task, data_seed=0, cache=cache)

    def run(given: Task, channel: Channel) -> dict[str, float]:
        if "parameters" not in given.payload:
            channel.interrupted()
            return work()
        timed = Timed(channel)
        real(given, timed)  # type: ignore[arg-type]
        return {"first_s": timed.first_s, "last_s": time.time()}

    return run


class TrialScheduler:
    """So many trials of one kind, for ``run_trials``."""

    def __init__(self, payloads: list[dict[str, Any]], first_key: int) -> None:
        self._waiting = [
            Task(kind="train", key=first_key + i, attempt=1, payload=payload) for i, payload in enumerate(payloads)
        ]
        self.spans: list[Span] = []

    def next_task(self) -> Task | None:
        return self._waiting.pop(0) if self._waiting else None

    def exhausted(self) -> bool:
        return not self._waiting

    def on_report(self, key: int, report: Report) -> bool:
        return False

    def on_end(self, key: int, outcome: Outcome) -> None:
        if outcome.kind != "complete":
            raise RuntimeError(f"a trial {outcome.kind}: {outcome.reason}\n{outcome.traceback}")
        self.spans.append((outcome.result["first_s"], outcome.result["last_s"]))

    def on_tick(self) -> None:
        pass


def on_warm_slots(slots: Any, home: Path, payloads: list[dict[str, Any]]) -> list[Span]:
    from sweeper.execution.tune import run_trials

    trials = TrialScheduler(payloads, first_key=time.time_ns())
    run_trials(slots, lambda: trials, home / "tune")
    return trials.spans


def real_payloads(home: Path, count: int) -> list[dict[str, Any]]:
    folders = [home / "trials" / str(time.time_ns() + i) for i in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
    return [{"folder": str(folder), "parameters": PARAMETERS, "seed": 0, "rungs": []} for folder in folders]


def tune_function(config: dict[str, Any]) -> None:
    from ray import tune

    tune.report(work())


def train_in_tune(config: dict[str, Any]) -> None:
    """Ray's documented way to train on workers under Tune since Train V2."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def loop(_: dict[str, Any]) -> None:
        train.report(work())

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
    """Between the trials of one turn but for the first, beside which Tune's own actors are still being started."""
    ordered = sorted(spans)[1:]
    return [after[0] - before[1] for before, after in zip(ordered, ordered[1:], strict=False)]


def table(found: dict[str, list[float]]) -> list[str]:
    names = list(found)
    ours = statistics.median(found[names[0]])
    lines = ["| | gaps | median s | worst s | times warm slots |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in names:
        median, worst = statistics.median(found[name]), max(found[name])
        times = f"{median / ours:.1f}" if median < 10 * ours else f"{median / ours:.0f}"
        lines.append(f"| {name} | {len(found[name])} | {median:.2f} | {worst:.2f} | {times} |")
    word = "met" if ours <= TARGET_S else "missed"
    return [*lines, "", f"Target for warm slots: {TARGET_S} s, {word} by the median."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    options = parser.parse_args()
    from sweeper.execution.slots import SlotPool

    task = load_spec(SPEC).task_settings().model_dump(mode="json", by_alias=True)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        cluster.connect(num_cpus=4)
        plan = SlotPlan(slots=1, workers_per_trial=1, cpus_per_worker=1, gpus_per_worker=0, text="")
        with SlotPool(plan, partial(make_both, task=task, cache=home / "cache"), home / "ray", JobLimits()) as slots:
            ways: dict[str, Callable[[], list[Span]]] = {
                "warm slots": lambda: on_warm_slots(slots, home, [{} for _ in range(10)]),
                "warm slots, real trials": lambda: on_warm_slots(slots, home, real_payloads(home, 10)),
                "Tune function, reuse_actors=True": lambda: with_tune(tune_function, home, 10, cpus=1, reuse=True),
                "Tune function, reuse_actors=False": lambda: with_tune(tune_function, home, 5, cpus=1, reuse=False),
                "Train run in a Tune function": lambda: with_tune(train_in_tune, home, 4, cpus=0, reuse=True),
            }
            found: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(options.rounds):
                for name, way in ways.items():
                    found[name] += gaps(way())
                    load.append(os.getloadavg()[0])
                    sys.stderr.write(f"round {turn + 1}: {name}: {', '.join(f'{gap:.2f}' for gap in found[name])}\n")
        cluster.disconnect()
    text = "\n".join([
        "# From a trial's end to the next one's first step", "",
        f"{environment('ray', 'torch')}; load average {min(load):.1f} to {max(load):.1f}; trials that sleep "
        f"{WORK_S} s, one at a time, {options.rounds} rounds in which all take turns. All with the settings that "
        f"`sweeper.cluster` gives Ray (Train looks after its workers every {HEALTH_S} s, not every 2 s).", "",
        *table(found), "",
    ])  # fmt: skip
    publish(text, options.output)


if __name__ == "__main__":
    main()

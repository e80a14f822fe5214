"""``sweeper check --probe``: trials begun on one slot, timed, and the whole sweep forecast from them."""

from __future__ import annotations

import math
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.jobs import Job, Outcome, ProbeJob
from sweeper.run.resources import plan_slots, runner_for
from sweeper.run.usage import most_retrainings, new_session
from sweeper.spec.domains import Choices, Range, Value
from sweeper.spec.quantities import duration, hours, parse_budget
from sweeper.spec.spec import Spec
from trainables.records import TrialTiming

if TYPE_CHECKING:
    from sweeper.execution.capacity import SlotPlan
    from sweeper.execution.slots import SlotPool

CLOSE_S = 10.0
CONTEXT_BYTES = 700 * 2**20
"""Of a GPU's memory, for a process's CUDA context and kernels."""
MEMORY_SLACK = 1.1
_LARGEST = ("blocks", "rank", "copies", "images")
"""Parameters that cost memory or steps; the others are probed at their lowest."""
_OBJECTIVES = ("kto", "dpo", "ipo", "cross_entropy")
"""Those that need more memory first."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Trials that tune the same part of the model."""

    tune: str
    share: float
    """Estimated share of the sweep's trials."""
    parameters: dict[str, Value]
    """Those of the probed trial: the corner that costs most."""
    pairs_share: float = 1.0
    """Training pairs of an average trial of the sweep, as a share of the probed trial's."""


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """Seconds of a slot."""

    train_s: float
    evaluation_s: float
    """At epochs and rungs, and of the points at the end."""

    @property
    def whole_s(self) -> float:
        return self.train_s + self.evaluation_s


def scopes(spec: Spec) -> list[Scope]:
    """Return what a sweep trains, each scope at its costliest corner."""
    by_tune = []
    values = [value for branch in spec.parameters.branches["tune"] for value in branch.domain.examples()]
    points = [*spec.chosen(), *(baseline.parameters for baseline in spec.baseline_trials())]
    counts = {tune: sum(point["tune"] == tune for point in points) for tune in {point["tune"] for point in points}}
    left = max(0, spec.search.trials - len(points))  # suggested: each scope about as often
    for tune in dict.fromkeys(map(str, [*values, *counts])):
        number = counts.get(tune, 0) + (left / len(values) if tune in values else 0)
        corner = _corner(spec, tune) if tune in values else None
        if corner is None:
            corner = next(point for point in points if point["tune"] == tune)
        pairs_share = _average_pairs_share(spec, corner) if tune in values else 1.0
        share = number / max(1, left + len(points))
        by_tune.append(Scope(tune=tune, share=share, parameters=corner, pairs_share=pairs_share))
    return by_tune


def trial_cost(spec: Spec, scope: Scope, timing: TrialTiming) -> TrialCost:
    """Return the cost of an average trial that is not stopped, from the timing of the probed one."""
    return TrialCost(
        train_s=timing.steps * scope.pairs_share * timing.step_s,
        evaluation_s=(_evaluations(spec) + _end_points(spec)) * timing.evaluation_s,
    )


def expected_share(rungs: Sequence[float], reduction_factor: float) -> float:
    """Return the share of its steps that a trial is expected to run under asynchronous halving.

    Once many trials have come to each rung, a trial goes on to the next rung with probability 1 / reduction_factor.
    """
    starts = [0.0, *rungs]
    return sum(
        (end - start) * reduction_factor**-i for i, (start, end) in enumerate(zip(starts, [*rungs, 1.0], strict=True))
    )


def stopped_cost_s(spec: Spec, cost: TrialCost) -> float:
    """Return the expected cost of a trial under the spec's stopping rule."""
    if not spec.stops:
        return cost.whole_s
    rungs, factor = spec.stopping.shares(), spec.stopping.reduction_factor
    share, to_the_end = expected_share(rungs, factor), factor ** -len(rungs)
    evaluation_s = cost.evaluation_s / (_evaluations(spec) + _end_points(spec))
    return share * (cost.train_s + _evaluations(spec) * evaluation_s) + to_the_end * _end_points(spec) * evaluation_s


def probe_sweep(
    spec: Spec,
    storage: Path,
    *,
    gpus: float | None,
    address: str | None,
    seconds: float,
    echo: Callable[[str], None],
) -> None:
    """Echo what trials cost, a few lines per scope, and what the sweep will. The scopes share ``seconds``.

    Raise UserError or UnavailableError as ``run_sweep``. Only the cache of images stays in ``storage``.
    """
    from sweeper.execution import cluster
    from sweeper.execution.job_queue import JobLimits
    from sweeper.execution.slots import SlotPool

    probed = scopes(spec)
    with ExitStack() as stack:
        cluster.connect(address)
        stack.callback(cluster.disconnect)
        plan = plan_slots(spec, gpus)
        scratch = _scratch(storage, stack)
        cluster.check_shared(scratch)
        runner = runner_for(spec, storage / "cache")
        slots = SlotPool(replace(plan, slots=1), runner, scratch / "ray", JobLimits())
        stack.callback(lambda: slots.close(CLOSE_S))
        started_s = time.monotonic()
        slots.start()
        echo("probe: warming one slot up")
        while slots.ready_count() == 0:
            time.sleep(0.1)
        warm_s = time.monotonic() - started_s
        echo(f"probe: warm after {duration(warm_s)} (a cache that is there already makes it shorter)")
        costs: list[tuple[Scope, TrialCost]] = []
        for number, scope in enumerate(probed):
            folder, share_s = scratch / scope.tune, seconds / len(probed)
            outcome = _wait(slots, ProbeJob(key=number, folder=folder, parameters=scope.parameters, seconds=share_s))
            timing = outcome.result
            if not isinstance(timing, TrialTiming):
                echo(f"probe: {scope.tune} cannot be trained: {_why(outcome)}")
                continue
            for line in _scope_lines(spec, scope, timing, plan):
                echo(line)
            costs.append((scope, trial_cost(spec, scope, timing)))
        if len(costs) == len(probed):
            for line in _forecast_lines(spec, costs, plan, warm_s):
                echo(line)
        else:
            echo("forecast: none, because not every scope can be trained")


def _scratch(storage: Path, stack: ExitStack) -> Path:
    """Return a new folder that is removed when the probe ends; so is a storage created for it that is empty then."""
    created = next((path for path in [*reversed(storage.parents), storage] if not path.exists()), None)
    scratch = storage / f".probe-{uuid.uuid4().hex[:8]}"
    scratch.mkdir(parents=True)

    def remove() -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        if created is not None and not any(storage.iterdir()):
            shutil.rmtree(created, ignore_errors=True)

    stack.callback(remove)
    return scratch


def _wait(slots: SlotPool, job: Job) -> Outcome:
    future = slots.submit(job)
    while wait([future], timeout=1.0).not_done:
        slots.check()
    return future.result()


def _why(outcome: Outcome) -> str:
    reason = outcome.reason or "no reason given"
    if reason.startswith("worker lost"):
        return f"{reason}. If its node ran out of memory: fewer slots (resources.cpus_per_worker), or smaller batches"
    return reason


def _evaluations(spec: Spec) -> int:
    """Return how often a trial is evaluated until its last step."""
    return spec.training.epochs + (len(spec.stopping.shares()) if spec.stops else 0)


def _end_points(spec: Spec) -> int:
    """Return how often a trial is evaluated after its last step: at other strengths, and averaged."""
    front = spec.evaluate.front
    return sum(strength != 1.0 for strength in front.strengths) + front.averaged


def _corner(spec: Spec, tune: str) -> dict[str, Value] | None:
    """Return the parameters of a scope that cost most; None where no objective goes with it."""

    def draw(objective: str) -> dict[str, Value]:
        def suggest(name: str, domain: Choices | Range) -> Value:
            parameter = name.partition("[")[0]
            wanted = {"tune": tune, "objective": objective}.get(parameter)
            if wanted is not None and domain.match(wanted) is not None:
                return wanted
            values = domain.examples()
            if isinstance(values[0], str):
                return values[0]
            return max(values, key=float) if parameter in _LARGEST else min(values, key=float)

        return spec.parameters.draw(suggest)

    drawn = (draw(objective) for objective in _OBJECTIVES)
    return next((parameters for parameters in drawn if parameters["tune"] == tune), None)


def _average_pairs_share(spec: Spec, corner: Mapping[str, Value]) -> float:
    """Return the pairs of a trial with average copies and images, as a share of the corner's pairs."""
    share = 1.0
    for name in ("copies", "images"):
        values = [
            float(value)
            for branch in spec.parameters.branches.get(name, ())
            if branch.applies(corner)
            for value in branch.domain.examples()
        ]
        if values:
            share *= sum(values) / len(values) / max(values)
    return share


def _scope_lines(spec: Spec, scope: Scope, timing: TrialTiming, plan: SlotPlan) -> list[str]:
    cost = trial_cost(spec, scope, timing)
    costly = ", ".join(f"{name} {scope.parameters[name]}" for name in _LARGEST if name in scope.parameters)
    steps = math.ceil(timing.steps * scope.pairs_share)
    lines = [
        f"{scope.tune} ({scope.parameters['objective']}{', ' + costly if costly else ''}): "
        f"{_small(timing.step_s)} a step, {timing.images_per_step / timing.step_s:.4g} images/s, "
        f"{steps} steps a trial; {_small(timing.evaluation_s)} an evaluation, "
        f"{_evaluations(spec) + _end_points(spec)} a trial: {100 * cost.evaluation_s / cost.whole_s:.0f} % of its "
        f"{duration(cost.whole_s)}"
    ]
    if timing.micro_batch_size is not None:
        lines.append(f"  memory holds micro-batches of {timing.micro_batch_size} pairs, not more")
    peak, total = timing.peak_bytes, timing.total_bytes
    if plan.gpus_per_worker == 0:
        workers = plan.slots * plan.workers_per_trial
        text = f"  memory: {_gib(peak)} per worker at most, {_gib(total)} on its node"
        if workers * peak > total:
            text += f"; {workers} workers at once would not fit on one such node: raise resources.cpus_per_worker"
        return [*lines, text]
    text = f"  memory: {_gib(peak)} of the GPU's {_gib(total)} at most"
    fitting = math.floor(total / (MEMORY_SLACK * peak + CONTEXT_BYTES))
    now = max(1, math.floor(1 / plan.gpus_per_worker + 1e-6))
    if fitting < now:
        text += f"; {now} of them do not fit on one: raise resources.gpus_per_worker"
    elif fitting > now and plan.workers_per_trial == 1:
        share = math.floor(100 / fitting) / 100
        text += f"; {fitting} trials fit on one GPU (resources.gpus_per_worker: {share:g}), if it is not busy with one"
    return [*lines, text]


def _forecast_lines(spec: Spec, costs: Sequence[tuple[Scope, TrialCost]], plan: SlotPlan, warm_s: float) -> list[str]:
    total = sum(scope.share for scope, _ in costs)
    whole_s = sum(scope.share * cost.whole_s for scope, cost in costs) / total
    trial_s = sum(scope.share * stopped_cost_s(spec, cost) for scope, cost in costs) / total
    trials, slots, retrainings = spec.search.trials, plan.slots, most_retrainings(spec)
    wall_s = warm_s + math.ceil(trials / slots) * trial_s + math.ceil(retrainings / slots) * whole_s
    session = replace(new_session(plan), wall_s=wall_s)
    device_h = session.device_s / 3600
    stopping = ""
    if spec.stops:
        stopping = (
            f", of which stopping leaves {100 * trial_s / whole_s:.0f} % on average (what the rule tends to with many "
            "trials; the first ones go further)"
        )
    lines = [
        f"forecast, an estimate: {trials} trials of {duration(whole_s)} each{stopping}"
        + (f", and {retrainings} whole ones that confirm the front" if retrainings else "")
        + f", {slots} at once: about {duration(wall_s)} and {hours(device_h)} {session.device}-h, warm-up included, "
        "test of the front not"
    ]
    if spec.limits.budget is not None:
        budget = parse_budget(spec.limits.budget)
        enough = "enough" if device_h <= budget.hours else "not enough"
        lines.append(f"  budget {budget}: {enough} for all of them")
    return lines


def _small(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _gib(number: float) -> str:
    return f"{number / 2**30:.3g} GiB"

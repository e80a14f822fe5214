"""``sweeper check --probe``: trials are begun and timed on one slot, and the whole sweep is forecast from them."""

from __future__ import annotations

import math
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.jobs import Job, Outcome, ProbeJob
from sweeper.run.expected_cost import expected_share
from sweeper.run.resources import plan_slots, runner_for
from sweeper.run.usage import most_retrainings, new_session
from sweeper.run.usage_text import money
from sweeper.spec.code_checks import read_code
from sweeper.spec.quantities import Price, duration, hours, parse_budget
from sweeper.spec.scopes import LARGEST, Scope, epochs_of, scopes
from sweeper.spec.spec import Spec
from trainables.records import TrialTiming

if TYPE_CHECKING:
    from sweeper.execution.capacity import SlotPlan
    from sweeper.execution.slots import SlotPool

CLOSE_S = 10.0
MEMORY_SLACK = 1.1


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """Cost of a trial in slot seconds."""

    train_s: float
    evaluation_s: float
    """Seconds of evaluations at epochs and rungs, and of the points at the end."""
    end_s: float
    """The part of ``evaluation_s`` after the last step."""

    @property
    def whole_s(self) -> float:
        return self.train_s + self.evaluation_s


def trial_cost(spec: Spec, scope: Scope, timing: TrialTiming, epochs: float | None = None) -> TrialCost:
    """Return the cost of a trial that is not stopped and average otherwise, from the timing of the probed trial.

    Args:
        epochs: number of epochs; None: the mean of the scope.
    """
    drawn = epochs_of(spec, scope)
    epochs = drawn.mean if epochs is None else epochs
    return TrialCost(
        train_s=timing.steps * scope.pairs_share * epochs / drawn.most * timing.step_s,
        evaluation_s=(_evaluations(spec, epochs) + _end_points(spec)) * timing.evaluation_s,
        end_s=_end_points(spec) * timing.evaluation_s,
    )


def stopped_cost_s(spec: Spec, cost: TrialCost) -> float:
    """Return the expected cost of a trial under the spec's stopping rule, in slot seconds."""
    if not spec.stops:
        return cost.whole_s
    rungs, factor = spec.stopping.shares(), spec.stopping.reduction_factor
    share, to_the_end = expected_share(rungs, factor), factor ** -len(rungs)
    return share * (cost.whole_s - cost.end_s) + to_the_end * cost.end_s


def most_look_s(spec: Spec, timed: Sequence[tuple[Scope, TrialTiming]], slots: int) -> float:
    """Return the wall-clock seconds of a second look at every point of every trial, and at the untouched model.

    This is an upper bound: only points near the front get a second look, and stopped trials have none.
    """
    total = sum(scope.share for scope, _ in timed)
    point_s = sum(scope.share * timing.unseen_share * timing.evaluation_s for scope, timing in timed) / total
    return math.ceil((1 + spec.search.trials * (1 + _end_points(spec))) / slots) * point_s


def probe_sweep(
    spec: Spec,
    storage: Path,
    *,
    gpus: float | None,
    address: str | None,
    seconds: float,
    echo: Callable[[str], None],
    price: Price | None = None,
) -> None:
    """Echo the cost of trials, a few lines for each scope, and the forecast of the sweep.

    Only the cache of images stays in ``storage``.

    Args:
        seconds: shared by the scopes.

    Raises:
        UserError: the spec or an option cannot be used.
        UnavailableError: no trial fits on the cluster, or the cluster or the storage fails.
    """
    from sweeper.execution import cluster
    from sweeper.execution.job_queue import JobLimits
    from sweeper.execution.slots import SlotPool

    probed, code = scopes(spec), read_code(spec.code, spec.name)
    with ExitStack() as stack:
        cluster.connect(address)
        stack.callback(cluster.disconnect)
        plan = plan_slots(spec, gpus)
        scratch = _scratch(storage, stack)
        cluster.check_shared(scratch)
        runner = runner_for(spec, storage / "cache", code)
        slots = SlotPool(replace(plan, slots=1), runner, scratch / "ray", JobLimits())
        stack.callback(lambda: slots.close(CLOSE_S))
        started_s = time.monotonic()
        slots.start()
        echo("probe: warming one slot up")
        while slots.ready_count() == 0:
            time.sleep(0.1)
        warm_s = time.monotonic() - started_s
        echo(f"probe: warm after {duration(warm_s)} (less with an existing cache)")
        timed: list[tuple[Scope, TrialTiming]] = []
        for number, scope in enumerate(probed):
            folder, share_s = scratch / scope.tune, seconds / len(probed)
            outcome = _wait(slots, ProbeJob(key=number, folder=folder, parameters=scope.parameters, seconds=share_s))
            timing = outcome.result
            if not isinstance(timing, TrialTiming):
                echo(f"probe: {scope.tune} cannot be trained: {_why(outcome)}")
                continue
            for line in _scope_lines(spec, scope, timing, plan):
                echo(line)
            timed.append((scope, timing))
        if len(timed) == len(probed):
            for line in _forecast_lines(spec, timed, plan, warm_s, price):
                echo(line)
        else:
            echo("forecast: none, because not every scope can be trained")


def _scratch(storage: Path, stack: ExitStack) -> Path:
    """Return a new folder that is removed at the end of the probe, as is an empty storage that was created for it."""
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


def _evaluations(spec: Spec, epochs: float) -> float:
    """Return how often a trial of ``epochs`` epochs is evaluated until its last step."""
    return epochs + (len(spec.stopping.shares()) if spec.stops else 0)


def _end_points(spec: Spec) -> int:
    """Return how often a trial is evaluated after its last step: at other strengths, and averaged."""
    front = spec.evaluate.front
    return sum(strength != 1.0 for strength in front.strengths) + front.averaged


def _scope_lines(spec: Spec, scope: Scope, timing: TrialTiming, plan: SlotPlan) -> list[str]:
    cost, epochs = trial_cost(spec, scope, timing), epochs_of(spec, scope)
    costly = ", ".join(f"{name} {scope.parameters[name]}" for name in LARGEST if name in scope.parameters)
    steps = math.ceil(timing.steps * scope.pairs_share * epochs.mean / epochs.most)
    lines = [
        f"{scope.tune} ({scope.parameters['objective']}{', ' + costly if costly else ''}): "
        f"{_small(timing.step_s)} a step, {timing.images_per_step / timing.step_s:.4g} images/s, "
        f"{steps} steps a trial; {_small(timing.evaluation_s)} an evaluation, "
        f"{round(_evaluations(spec, epochs.mean) + _end_points(spec), 1):g} a trial: "
        f"{100 * cost.evaluation_s / cost.whole_s:.0f} % of its {duration(cost.whole_s)}"
        + _epochs_text(spec, [(scope, timing)])
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
    fitting = math.floor(total / (MEMORY_SLACK * peak))
    now = max(1, math.floor(1 / plan.gpus_per_worker + 1e-6))
    if fitting < now:
        text += f"; {now} of them do not fit on one: raise resources.gpus_per_worker"
    elif fitting > now and plan.workers_per_trial == 1:
        share = math.floor(100 / fitting) / 100
        text += f"; {fitting} trials fit on one GPU (resources.gpus_per_worker: {share:g}), unless one fills it"
    return [*lines, text]


def _epochs_text(spec: Spec, timed: Sequence[tuple[Scope, TrialTiming]]) -> str:
    """Return the times of the shortest and the longest whole trial; empty if all have the same number of epochs."""
    ends = [
        (epochs, trial_cost(spec, scope, timing, epochs).whole_s)
        for scope, timing in timed
        for epochs in (epochs_of(spec, scope).least, epochs_of(spec, scope).most)
    ]
    fewest, most = min(epochs for epochs, _ in ends), max(epochs for epochs, _ in ends)
    if fewest == most:
        return ""
    times_s = [whole_s for _, whole_s in ends]
    return f" on average ({fewest} to {most} epochs: {duration(min(times_s))} to {duration(max(times_s))})"


def _forecast_lines(
    spec: Spec, timed: Sequence[tuple[Scope, TrialTiming]], plan: SlotPlan, warm_s: float, price: Price | None
) -> list[str]:
    costs = [(scope, trial_cost(spec, scope, timing)) for scope, timing in timed]
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
            f", of which stopping leaves {100 * trial_s / whole_s:.0f} % on average (the limit for many "
            "trials; the first trials run longer)"
        )
    lines = [
        f"forecast, an estimate: {trials} trials of {duration(whole_s)}{_epochs_text(spec, timed) or ' each'}{stopping}"
        + (f", and {retrainings} whole trials that confirm the front" if retrainings else "")
        + f", {slots} at once: about {duration(wall_s)} and {hours(device_h)} {session.device}-h, warm-up included, "
        + ("second look and test" if _looks_again(timed) else "test")
        + " of the front not"
    ]
    if _looks_again(timed):
        look_s = most_look_s(spec, timed, slots)
        look_h = replace(session, wall_s=look_s).device_s / 3600
        lines.append(
            f"  second look: at most {duration(look_s)} and {hours(look_h)} {session.device}-h, if all "
            f"{trials * (1 + _end_points(spec))} points were near the front; most are not"
        )
    unstopped_s = math.ceil(trials / slots) * (whole_s - trial_s)
    saved_h = replace(session, wall_s=unstopped_s).device_s / 3600
    lines += cost_lines(spec, device_h, saved_h, f"{session.device}-h", price)
    if spec.limits.budget is not None:
        budget = parse_budget(spec.limits.budget)
        enough = "enough" if device_h <= budget.hours else "not enough"
        lines.append(f"  budget {budget}: {enough} for all of them")
    return lines


def _looks_again(timed: Sequence[tuple[Scope, TrialTiming]]) -> bool:
    return any(timing.unseen_share > 0 for _, timing in timed)


def cost_lines(spec: Spec, device_h: float, saved_h: float, unit: str, price: Price | None) -> list[str]:
    """Return lines of at most 80 characters on the cost of the forecast, and on savings that are known or possible."""
    lines = []
    if price is not None:
        lines.append(f"  cost: about {price.of(device_h)}, at {price.of(1.0)} per {unit}")
    if saved_h > 0:
        lines.append(f"  saved by stopping: about {hours(saved_h)} {unit}{money(price, saved_h)}")
    if spec.search.until == "noise_floor":
        lines.append("  less if the search ends at its noise floor before the last trial")
    return lines


def _small(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _gib(number: float) -> str:
    return f"{number / 2**30:.3g} GiB"

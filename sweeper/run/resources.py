"""Resources of a spec: slots, their limits and the runner of their workers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from sweeper.execution import capacity, cluster
from sweeper.execution.bucket_runner import make_bucket_runner
from sweeper.execution.capacity import SlotPlan
from sweeper.execution.job_queue import JobLimits
from sweeper.execution.runner import make_runner
from sweeper.execution.worker import MakeRunner
from sweeper.remote.sweep_copy import SweepCopy
from sweeper.spec.spec import Spec
from trainables.own_code import OwnModule


def plan_slots(spec: Spec, gpus: float | None) -> SlotPlan:
    """Return the plan of slots for the free devices of the connected cluster, at most as many slots as trials.

    Raises:
        UserError: the spec asks for more than the cluster has.
        UnavailableError: no trial fits on the cluster.
    """
    resources = spec.resources
    plan = capacity.plan(
        cluster.nodes(),
        gpus,
        resources.workers_per_trial,
        1.0 if resources.gpus_per_worker is None else resources.gpus_per_worker,
        resources.cpus_per_worker,
    )
    trials = spec.search.trials
    return replace(plan, slots=min(plan.slots, trials), most=trials if plan.most is None else min(plan.most, trials))


def runner_for(
    spec: Spec, cache: Path, code: tuple[OwnModule, ...] = (), remote: SweepCopy | None = None
) -> MakeRunner:
    """Return the function that makes a worker's runner.

    Args:
        cache: folder of prepared images and reference embeddings.
        code: the modules of the user's own that the spec names.
        remote: the sweep in a bucket; None: its folder is the same on every node.
    """
    make = partial(make_runner, task=spec.task_settings(), data_seed=spec.search.seed, cache=cache, code=code)
    if remote is None:
        return make
    return partial(make_bucket_runner, make=make, uri=remote.bucket.uri, name=remote.name, folder=remote.folder)


def job_limits(spec: Spec) -> JobLimits:
    limits = spec.limits
    return JobLimits(
        trial_s=None if limits.trial_hours is None else limits.trial_hours * 3600,
        stall_s=limits.stall_minutes * 60,
    )

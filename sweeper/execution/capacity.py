"""The number of trials that run at once on the free CPUs and GPUs of each node. Pure; imports no Ray."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sweeper.errors import UnavailableError, UserError

SHARE_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """Free resources of a node."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True)
class SlotPlan:
    """The number of slots, and the resources of each worker of a slot. A slot's workers share a node."""

    slots: int
    workers_per_trial: int
    cpus_per_worker: float
    gpus_per_worker: float
    """0 if the sweep runs on CPUs."""
    text: str
    """One line for the user."""
    most: int | None = None
    """Largest number of slots while nodes join: as many as the budget of GPUs and the number of trials allow; None:
    ``slots``.
    """

    def fitting(self, nodes: Iterable[NodeResources]) -> int:
        """Return how many slots fit into the free resources of some nodes."""
        return sum(
            slots_on(
                cpus=node.cpus,
                gpus=node.gpus,
                workers=self.workers_per_trial,
                share=self.gpus_per_worker,
                cpus_per_worker=self.cpus_per_worker,
            )
            for node in nodes
        )


def plan(
    nodes: list[NodeResources],
    gpus: float | None,
    workers_per_trial: int,
    gpus_per_worker: float,
    cpus_per_worker: float,
) -> SlotPlan:
    """Return the number of slots and their resources.

    A share of a GPU is a share of one device: two devices at 0.4 are four slots, not five.

    Args:
        gpus: budget of the sweep; None: all GPUs, or CPUs if there are none; 0: CPUs.
        gpus_per_worker: share of a GPU up to 1, or a whole number of GPUs.

    Raises:
        UnavailableError: not even one trial fits.
        UserError: the request is impossible on any cluster.
    """
    if workers_per_trial < 1:
        raise UserError(f"workers_per_trial is {workers_per_trial}; a trial needs at least 1 worker")
    if cpus_per_worker <= 0:
        raise UserError(f"cpus_per_worker is {cpus_per_worker:g}; a worker needs some CPU, for instance 1")
    if gpus is not None and gpus < 0:
        raise UserError(f"the budget is {gpus:g} GPUs; give a positive number, or 0 to run on CPUs")
    gpus_free = sum(node.gpus for node in nodes)
    on_gpus = gpus != 0 and (gpus_free > 0 or gpus is not None)
    share = gpus_per_worker if on_gpus else 0.0
    if on_gpus:
        _check_share(share, workers_per_trial)
        if gpus_free == 0:
            raise UnavailableError(
                f"{gpus:g} GPUs are asked for, but the cluster ({_describe(nodes)}) has no free GPU; leave --gpus out "
                "to run on CPUs, or give the --address of a cluster that has GPUs"
            )
    per_trial = f"{workers_per_trial} x ({cpus_per_worker:g} CPU" + (f" and {share:g} GPU)" if on_gpus else ")")
    fitting = sum(
        slots_on(
            cpus=node.cpus, gpus=node.gpus, workers=workers_per_trial, share=share, cpus_per_worker=cpus_per_worker
        )
        for node in nodes
    )
    if fitting == 0:
        raise UnavailableError(
            f"no trial fits: a trial needs {per_trial} on a single node; free are {_describe(nodes)}. "
            "Ask for less under `resources`, or wait for the cluster to become free"
        )
    slots, most = fitting, None
    text = f"{slots} trials at once, each {per_trial}; free: {_describe(nodes)}"
    if on_gpus and gpus is not None:
        affordable = _workers_on(gpus, share) // workers_per_trial
        if affordable == 0:
            raise UnavailableError(
                f"a budget of {gpus:g} GPUs is not enough for a trial: a trial needs {per_trial}; raise --gpus to "
                f"at least {workers_per_trial * share:g}"
            )
        slots, most = min(fitting, affordable), affordable
        text = f"{slots} trials at once, each {per_trial}, within {gpus:g} GPUs; free: {_describe(nodes)}"
        if gpus > gpus_free:
            text += f" (the budget is larger than the cluster: {gpus_free:g} of {gpus:g} GPUs exist)"
    return SlotPlan(
        slots=slots,
        workers_per_trial=workers_per_trial,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=share,
        text=text.replace("1 trials", "1 trial", 1) if slots == 1 else text,
        most=most,
    )


def _check_share(share: float, workers: int) -> None:
    if share <= 0:
        raise UserError(f"gpus_per_worker is {share:g}; give a share of a GPU up to 1, or a whole number of them")
    if share > 1 and not float(share).is_integer():
        raise UserError(f"gpus_per_worker is {share:g}; above 1 it has to be a whole number")
    if share < 1 and workers > 1:
        raise UserError(
            f"gpus_per_worker is {share:g} with {workers} workers per trial; NCCL refuses two workers of one trial on "
            "one GPU: give each a whole GPU, or use one worker per trial"
        )


def _workers_on(gpus: float, share: float) -> int:
    """Return how many workers of ``share`` GPUs fit on ``gpus`` devices; the last device may be a part of one."""
    if share > 1:
        return math.floor(gpus / share + SHARE_EPSILON)
    whole = math.floor(gpus + SHARE_EPSILON)
    rest = max(0.0, gpus - whole)
    return whole * math.floor(1 / share + SHARE_EPSILON) + math.floor(rest / share + SHARE_EPSILON)


def slots_on(*, cpus: float, gpus: float, workers: int, share: float, cpus_per_worker: float) -> int:
    """Return how many slots fit on a node.

    Args:
        cpus: free CPUs of the node; may be infinite.
        workers: of a slot.
        share: GPUs of a worker; 0: none.
    """
    fitting = float("inf") if cpus == float("inf") else math.floor(cpus / cpus_per_worker + SHARE_EPSILON)
    if share > 0:
        fitting = min(fitting, _workers_on(gpus, share))
    return int(fitting // workers)


def _describe(nodes: list[NodeResources]) -> str:
    if not nodes:
        return "no node at all"
    each = [f"{node.name} {node.cpus:g} CPU, {node.gpus:g} GPU" for node in nodes[:8]]
    more = [f"{len(nodes) - 8} more nodes"] if len(nodes) > 8 else []
    return "; ".join(each + more)

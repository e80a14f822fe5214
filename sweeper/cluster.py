"""The Ray cluster: connecting to it, what it has, and how many slots fit into it."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.records import UnavailableError, UserError

CONNECT_S = 2.0
SETTLE_S = 5.0
START_ATTEMPTS = 3
UNITS = ("CPU", "GPU")
SHARE_EPSILON = 1e-6

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a header even with verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # 2 s by default: how long a dead worker goes unnoticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start all trial actors at once, not one after the other
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""Environment of Ray, Train and Tune in the driver, unless the user has set it otherwise."""
_GCS_WAIT = "RAY_gcs_server_port_wait_time_s"
"""For how many seconds Ray asks for the head again; 20 by default."""
_variables_before: dict[str, str | None] = {}
"""Environment variables that ``connect`` has set, as they were before; None: not set."""


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """What is free on a node."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True)
class SlotPlan:
    """How many slots, and what each worker of a slot gets. A slot's workers share a node."""

    slots: int
    workers_per_trial: int
    cpus_per_worker: float
    gpus_per_worker: float
    """0: the sweep runs on CPUs."""
    text: str
    """One line for the user."""


def plan(
    nodes: list[NodeResources],
    gpus: float | None,
    workers_per_trial: int,
    gpus_per_worker: float,
    cpus_per_worker: float,
) -> SlotPlan:
    """Returns how many trials run at once.

    ``gpus`` is the budget of the sweep; None takes all there are, or CPUs where there are none; 0 takes CPUs. A share
    of a GPU is a share of one device: two devices at 0.4 are four slots, not five.

    Raises UnavailableError if not even one trial fits, UserError if the request makes no sense anywhere.
    """
    if workers_per_trial < 1:
        raise UserError(f"workers_per_trial is {workers_per_trial}; a trial needs at least 1 worker")
    if cpus_per_worker <= 0:
        raise UserError(f"cpus_per_worker is {cpus_per_worker:g}; a worker needs some CPU, for instance 1")
    if gpus is not None and gpus < 0:
        raise UserError(f"the budget is {gpus:g} GPUs; give a positive number, or 0 to run on CPUs")
    there = sum(node.gpus for node in nodes)
    on_gpus = gpus != 0 and (there > 0 or gpus is not None)
    share = gpus_per_worker if on_gpus else 0.0
    if on_gpus:
        _check_share(share, workers_per_trial)
        if there == 0:
            raise UnavailableError(
                f"{gpus:g} GPUs are asked for, but the cluster ({_describe(nodes)}) has none free; leave --gpus out to "
                "run on CPUs, or give the --address of a cluster that has GPUs"
            )
    per_trial = f"{workers_per_trial} x ({cpus_per_worker:g} CPU" + (f" and {share:g} GPU)" if on_gpus else ")")
    fitting = sum(_slots_on(node, workers_per_trial, share, cpus_per_worker) for node in nodes)
    if fitting == 0:
        raise UnavailableError(
            f"no trial fits: one needs {per_trial} on a single node; free are {_describe(nodes)}. "
            "Ask for less under `resources`, or wait for the cluster to become free"
        )
    slots = fitting
    text = f"{slots} trials at once, each {per_trial}; free: {_describe(nodes)}"
    if on_gpus and gpus is not None:
        affordable = _workers_on(gpus, share) // workers_per_trial
        if affordable == 0:
            raise UnavailableError(
                f"a budget of {gpus:g} GPUs does not hold one trial: one needs {per_trial}; raise --gpus to at least "
                f"{workers_per_trial * share:g}"
            )
        slots = min(fitting, affordable)
        text = f"{slots} trials at once, each {per_trial}, within {gpus:g} GPUs; free: {_describe(nodes)}"
        if gpus > there:
            text += f" (the budget is larger than the cluster: {there:g} of {gpus:g} GPUs are there)"
    return SlotPlan(
        slots=slots,
        workers_per_trial=workers_per_trial,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=share,
        text=text.replace("1 trials", "1 trial", 1) if slots == 1 else text,
    )


def connect(address: str | None = None, num_cpus: int | None = None) -> None:
    """Starts a Ray of our own on this machine, or joins the cluster at ``address`` (``host:port``).

    Without an address the environment variable ``RAY_ADDRESS`` counts.

    On a cluster the packages ``sweeper`` and ``trainables`` are shipped along, so that every node runs this code; what
    they import has to be installed there.

    Raises UserError for an address of another form, UnavailableError, within seconds, if nothing answers there or the
    cluster's token is another one.
    """
    for name, value in QUIET.items():
        _set_variable(name, os.environ.get(name) or value)
    address = address or os.environ.get("RAY_ADDRESS") or None  # a Ray job finds its cluster there
    try:
        if address is None:
            _start(num_cpus)
        else:
            _join(address)
    except BaseException:
        _restore_variables()
        raise
    import ray
    from ray._private import worker

    # Its raylet's remarks about the number of processes would go to stdout, whatever log_to_driver says (Ray 2.60).
    worker._worker_logs_enabled = False
    # Several Rays on a machine: whatever looks for "the" cluster finds ours.
    _set_variable("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def disconnect() -> None:
    """Leaves the cluster; ends it if it was our own. The process has the environment again that it had before."""
    import ray

    ray.shutdown()
    _restore_variables()


def _set_variable(name: str, value: str) -> None:
    _variables_before.setdefault(name, os.environ.get(name))
    os.environ[name] = value


def _restore_variables() -> None:
    for name, value in _variables_before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _variables_before.clear()


def nodes() -> list[NodeResources]:
    """What is free on the nodes of the connected cluster.

    Waits a few seconds for what is in use: a sweep that was just killed holds its share for a moment.
    """
    import ray
    from ray._private.state import available_resources_per_node

    until = time.monotonic() + SETTLE_S
    while True:
        free = available_resources_per_node()
        alive = [node for node in ray.nodes() if node["Alive"]]
        busy = any(free.get(n["NodeID"], {}).get(r, 0.0) < n["Resources"].get(r, 0.0) for n in alive for r in UNITS)
        if not busy or time.monotonic() > until:
            break
        time.sleep(0.2)
    return [
        NodeResources(
            name=node["NodeManagerHostname"],
            cpus=free.get(node["NodeID"], {}).get("CPU", 0.0),
            gpus=free.get(node["NodeID"], {}).get("GPU", 0.0),
        )
        for node in alive
    ]


def check_shared(folder: Path) -> None:
    """Writes a file here and has every other node read it; the sweep's records and weights lie in ``folder``.

    Raises UnavailableError naming the nodes that do not see it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    others.pop(here, None)
    if not others:
        return
    probe = folder / f".probe-{os.getpid()}"
    probe.write_text(here)
    reads = {
        name: ray.remote(_reads)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(str(probe), here)
        for node, name in others.items()
    }
    try:
        blind = [name for name, seen in reads.items() if not ray.get(seen)]
    finally:
        probe.unlink(missing_ok=True)
    if blind:
        raise UnavailableError(
            f"{folder} is not the same folder on {', '.join(blind)}: storage must be shared by all nodes (NFS, for "
            "instance); name such a folder with --storage"
        )


def _reads(path: str, text: str) -> bool:
    try:
        return Path(path).read_text() == text
    except OSError:
        return False


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
    """How many workers of ``share`` GPUs fit on ``gpus`` devices, the last of which may be a part of one."""
    if share > 1:
        return math.floor(gpus / share + SHARE_EPSILON)
    whole = math.floor(gpus + SHARE_EPSILON)
    rest = max(0.0, gpus - whole)
    return whole * math.floor(1 / share + SHARE_EPSILON) + math.floor(rest / share + SHARE_EPSILON)


def _slots_on(node: NodeResources, workers: int, share: float, cpus_per_worker: float) -> int:
    fitting = math.floor(node.cpus / cpus_per_worker + SHARE_EPSILON)
    if share > 0:
        fitting = min(fitting, _workers_on(node.gpus, share))
    return fitting // workers


def _describe(nodes: list[NodeResources]) -> str:
    if not nodes:
        return "no node at all"
    each = [f"{node.name} {node.cpus:g} CPU, {node.gpus:g} GPU" for node in nodes[:8]]
    more = [f"{len(nodes) - 8} more nodes"] if len(nodes) > 8 else []
    return "; ".join(each + more)


def _start(num_cpus: int | None) -> None:
    import psutil
    import ray

    before = set(psutil.Process().children(recursive=True))
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(num_cpus=num_cpus, **_silent())
            return
        except Exception as error:  # Ray raises nothing more special here
            ray.shutdown()
            for process in set(psutil.Process().children(recursive=True)) - before:
                with suppress(psutil.Error):
                    process.kill()
            # Its raylet has a fixed 30 s to come up (Ray 2.60), which a busy machine may exceed.
            if attempt == START_ATTEMPTS - 1 or "timed out" not in str(error):
                raise UnavailableError(
                    f"Ray does not start on this machine: {_last_line(error)} Is the machine very busy, or its memory "
                    "or /tmp full? Ray's logs are in the newest folder under /tmp/ray"
                ) from error


def _join(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "://" in address:
        raise UserError(
            f"--address {address!r} is not of the form host:port; give the address of the head's GCS, for instance "
            "10.0.0.1:6379 (`ray start --head` prints it)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UnavailableError(
            f"no Ray cluster answers at {address} ({error}); is it up (`ray start --head`), and is this the GCS "
            "address and port it printed?"
        ) from error
    import ray
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    # Ray looks for a token only if it finds the cluster itself, never for an explicit address (Ray 2.60).
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    import sweeper
    import trainables

    modules = [str(Path(str(module.__file__)).parent) for module in (sweeper, trainables)]
    environment = {"py_modules": modules, "excludes": ["__pycache__"]}
    _set_variable(_GCS_WAIT, os.environ.get(_GCS_WAIT) or "3")
    try:
        ray.init(address=address, runtime_env=environment, **_silent())
    except Exception as error:
        said = f"{error} {error.__cause__} {error.__context__}"
        if "token" in said.lower() or "auth" in said.lower():
            raise UnavailableError(
                f"the Ray cluster at {address} refuses our token (RAY_AUTH_MODE is "
                f"{os.environ.get('RAY_AUTH_MODE', 'unset')}): put the cluster's own token into ~/.ray/auth_token, or "
                "name its file in RAY_AUTH_TOKEN_PATH"
            ) from error
        raise UnavailableError(f"cannot join the Ray cluster at {address}: {_last_line(error)}") from error


def _silent() -> dict[str, Any]:
    return {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,  # what matters is raised
    }


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]

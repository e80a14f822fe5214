"""The Ray cluster: connecting to it, its resources, the free resources of its nodes."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sweeper.errors import UnavailableError
from sweeper.execution.address import CONNECT_S, ClusterAddress, named_address
from sweeper.execution.capacity import NodeResources
from sweeper.execution.placement import Node
from sweeper.execution.private_files import is_own, make_ray_folder, protect_token, ray_folder
from sweeper.remote.bucket import reaches

SETTLE_S = 5.0
SHARED_S = 60.0
"""Longest time for all nodes to read and write a file of the storage."""
START_ATTEMPTS = 3
WATCH_S = 1.0
"""Seconds between checks of the processes of Ray that the driver needs."""
LOST_AFTER = {True: 2, False: 15}
"""Whether a process is on this machine -> failed checks in a row after which it counts as gone.

On this machine its port closes at once; another machine may be slow to answer.
"""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a header even with verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # 2 s by default: the time until a dead worker is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start all trial actors at once, not one after the other
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""Environment of Ray, Train and Tune in the driver, for variables that the user has not set."""
_WHILE_JOINING = {
    "RAY_gcs_server_port_wait_time_s": "3",  # for which Ray tries to reach the head; 20 by default
}
"""Environment of the driver while it joins a cluster, for variables that the user has not set."""
_CONNECTION_VARIABLES = (*QUIET, "RAY_ADDRESS", "RAY_AUTH_MODE")
"""Environment variables that ``connect`` sets and ``disconnect`` restores."""
_LONGEST_SOCKET = 107
"""Largest number of bytes in the path of a Unix socket."""
_SOCKET_IN_SESSION = len("/ray/session_2026-01-01_00-00-00_000000_/sockets/plasma_store")
"""Bytes of the path below Ray's temporary folder, without the number of the process (Ray 2.60)."""
Answer = TypeVar("Answer")
_variables_before: dict[str, str | None] = {}
"""Values of these variables before ``connect``; None: not set. Empty if no cluster is connected."""


def connect(address: str | None = None, num_cpus: int | None = None) -> None:
    """Start a Ray of sweeper's own on this machine, or join the cluster at ``address`` (``host:port``).

    Without an address the environment variable ``RAY_ADDRESS`` counts. The packages ``sweeper`` and ``trainables`` are
    sent to a joined cluster, so that every node runs this code; the packages they import must be installed there.

    Raises:
        UserError: the address has another form.
        UnavailableError: nobody answers there, or the cluster's token is another one; raised within seconds.
    """
    before = {name: os.environ.get(name) for name in _CONNECTION_VARIABLES}
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        check_before_start(address)
        joined = named_address(address)
        if joined is None:
            _start(num_cpus)
        else:
            _join(joined)
    except BaseException:
        _set_variables(before)
        raise
    import ray

    from sweeper.execution import ray_private

    ray_private.silence_raylet()
    # Several Rays on a machine: code that looks for "the" cluster finds this one.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    if not _variables_before:
        _variables_before.update(before)


def check_before_start(address: str | None, wait_s: float = 0.0) -> None:
    """Refuse settings with which Ray would fail after seconds, or without a helpful message. Nothing is started.

    Args:
        wait_s: seconds to wait for a cluster that is to be joined.

    Raises:
        UserError: the address has another form.
        UnavailableError: nobody answers at the address, or not with the token of this machine, or a Ray of sweeper's
            own cannot store its files.
    """
    joined = named_address(address)
    if joined is not None:
        joined.reach(wait_s)
        joined.check_token()
        return
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    temporary, folder = os.environ.get(variable, "/tmp"), ray_folder()
    bytes_needed = len(os.fsencode(folder)) + _SOCKET_IN_SESSION + len(str(os.getpid()))
    advice = "name a short folder of your own for Ray's files: export RAY_TMPDIR=/tmp/SHORT"
    if bytes_needed > _LONGEST_SOCKET:
        raise UnavailableError(
            f"{variable} is {temporary}, which is too long for Ray: paths of its sockets would have {bytes_needed} "
            f"bytes there, and {_LONGEST_SOCKET} are allowed; {advice}"
        )
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UnavailableError(f"Ray keeps its files in {folder}, and this user may not write to {existing}; {advice}")
    if existing == folder and not is_own(folder):
        raise UnavailableError(f"Ray keeps its files in {folder}, which is another user's or a link; {advice}")


def joins_a_cluster(address: str | None) -> bool:
    """Return whether ``connect`` joins a cluster; otherwise it starts a Ray of sweeper's own."""
    return named_address(address) is not None


def disconnect() -> None:
    """Leave the cluster, end it if it is sweeper's own, and restore the environment of the process."""
    import ray

    ray.shutdown()
    _set_variables(_variables_before)
    _variables_before.clear()


def as_unavailable(error: Exception) -> Exception:
    """Return an UnavailableError for an error of Ray's own, which says what died; any other error unchanged."""
    from ray.exceptions import RayError

    if isinstance(error, RayError):
        return UnavailableError(f"Ray failed: {type(error).__name__}: {_last_line(error)}")
    return error


def session_folder() -> Path | None:
    """Return the folder of the logs of sweeper's own Ray; None for a joined cluster."""
    from sweeper.execution import ray_private

    return ray_private.session_folder()


@contextmanager
def watched(on_lost: Callable[[str], None]) -> Iterator[None]:
    """Call ``on_lost`` with a description, on a thread, when the head's GCS or this node's raylet has ended.

    Ray itself waits a minute for a GCS, then ends the process without a message, and does not notice every death of a
    raylet (Ray 2.60).
    """
    import ray

    here = ray.get_runtime_context()
    host, _, port = here.gcs_address.rpartition(":")
    places = {"the head of the Ray cluster (its GCS)": (host, int(port))}
    for node in ray.nodes():
        if node["NodeID"] == here.get_node_id():
            places["the raylet of this machine"] = (node["NodeManagerAddress"], node["NodeManagerPort"])
    with watched_ports(places, on_lost):
        yield


@contextmanager
def watched_ports(places: Mapping[str, tuple[str, int]], on_lost: Callable[[str], None]) -> Iterator[None]:
    """Call ``on_lost`` once, on a thread, with the name of a place (host, port) at which nothing listens any more."""
    ended = threading.Event()

    def watch() -> None:
        missed = dict.fromkeys(places, 0)
        while not ended.wait(WATCH_S):
            for what, (host, port) in places.items():
                missed[what] = 0 if _answers(host, port) else missed[what] + 1
                if missed[what] >= LOST_AFTER[_is_here(host)] and not ended.is_set():
                    on_lost(f"{what} has ended")
                    return

    thread = threading.Thread(target=watch, daemon=True, name="watch over Ray")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def _is_here(host: str) -> bool:
    """Return whether a host is this machine: a socket can listen on its address."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _set_variables(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def look() -> list[Node]:
    """Return the nodes of the connected cluster that are up, with their free resources now."""
    import ray

    from sweeper.execution.ray_private import available_resources_per_node

    free = available_resources_per_node()
    return [
        Node(
            id=node["NodeID"],
            whole=_resources(node["NodeManagerHostname"], node["Resources"]),
            free=_resources(node["NodeManagerHostname"], free.get(node["NodeID"], {})),
        )
        for node in sorted(ray.nodes(), key=lambda node: str(node["NodeID"]))
        if node["Alive"]
    ]


def _resources(name: str, amounts: Mapping[str, float]) -> NodeResources:
    return NodeResources(name=name, cpus=amounts.get("CPU", 0.0), gpus=amounts.get("GPU", 0.0))


def nodes() -> list[NodeResources]:
    """Return the free resources of the nodes of the connected cluster.

    Waits a few seconds for resources in use: a sweep that was just killed holds its share for a moment.
    """
    until, there = time.monotonic() + SETTLE_S, look()
    while any(node.busy for node in there) and time.monotonic() < until:
        time.sleep(0.2)
        there = look()
    return [node.free for node in there]


@dataclass(frozen=True)
class Wait:
    """Patience with a cluster."""

    limit_s: float
    given_up: Callable[[], bool]
    """Returns whether to wait no longer."""
    tell: Callable[[str], None]
    """Takes what is waited for, at the start and after each change."""


def wait_for_gpus(gpus: float, wait: Wait) -> None:
    """Check that the connected cluster has ``gpus`` GPUs; with a time to wait, that they are free too.

    While it waits it asks the autoscaler of the cluster for what is missing. Where all are there at the end of the time
    but not free, the sweep begins with those that are.

    Raises:
        UnavailableError: the cluster does not have them in time.
    """
    from ray.autoscaler.sdk import request_resources

    until_s, told = time.monotonic() + wait.limit_s, (-1.0, -1.0)
    while True:
        there = look()
        whole, free = sum(node.whole.gpus for node in there), sum(node.free.gpus for node in there)
        over = time.monotonic() >= until_s
        if free >= gpus or (over and whole >= gpus) or wait.given_up():
            break
        if over:
            nodes = ", ".join(f"{node.whole.name} {node.whole.gpus:g}" for node in there)
            waited = f" after {wait.limit_s:g} s" if wait.limit_s else ""
            raise UnavailableError(
                f"--gpus {gpus:g}: the cluster has {whole:g} GPUs{waited} ({nodes}); ask for at most {whole:g}, or "
                "let the sweep wait for more nodes (an autoscaler is asked for them) with --wait 30m"
            )
        if (whole, free) != told:
            told = whole, free
            in_use = f", {whole - free:g} in use" if whole > free else ""
            wait.tell(f"waiting for GPUs of the cluster: {free:g} of {gpus:g} free{in_use}")
        # A request is for the size of the cluster, with what others use, and replaces that of any other driver.
        request_resources(bundles=[{"GPU": 1}] * math.ceil(whole - free + gpus))
        time.sleep(SETTLE_S / 5)
    if told != (-1.0, -1.0):
        request_resources(num_cpus=0)  # withdraws the request: the slots ask for what they need


class NodeLeft(UnavailableError):
    """A node has left the cluster before it answered, as idle nodes of an autoscaler do."""


def on_each_node(
    function: Callable[..., Answer], arguments: Callable[[int], tuple[Any, ...]], *, gpus: float = 0.0, limit_s: float
) -> dict[str, Answer | Exception]:
    """Call a function on every node at once and return its answers, or errors, by the name of the node.

    Args:
        arguments: returns the arguments for the node of a number, from 0.
        gpus: GPUs for each call.
        limit_s: seconds after which a node without an answer gets an UnavailableError. A node that has left the cluster
            meanwhile gets a NodeLeft.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    answers: dict[str, Any] = {}
    ids: dict[str, str] = {}
    for number, node in enumerate(look()):
        place = NodeAffinitySchedulingStrategy(node.id, soft=False)
        call = ray.remote(function).options(num_cpus=0, num_gpus=gpus, scheduling_strategy=place, max_retries=0)
        name = node.whole.name if node.whole.name not in answers else f"{node.whole.name} ({node.id[:6]})"
        answers[name], ids[name] = call.remote(*arguments(number)), node.id
    ray.wait(list(answers.values()), num_returns=len(answers), timeout=limit_s)
    for name, answer in answers.items():
        try:
            answers[name] = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(answer, force=True)
            answers[name] = UnavailableError(f"no answer within {limit_s:g} s")
        except RayError as error:
            cause = getattr(error, "cause", None)
            answers[name] = cause if isinstance(cause, Exception) else UnavailableError(_last_line(error))
    there = {node.id for node in look()}
    for name, answer in answers.items():
        if isinstance(answer, Exception) and ids[name] not in there:
            answers[name] = NodeLeft("the node has left the cluster")
    return answers


def free_address_of_first_node() -> str:
    """Return ``host:port`` of a free port on the node that ``on_each_node`` gives the number 0."""
    answers = on_each_node(_free_port, lambda number: (), limit_s=SHARED_S)
    import ray

    host = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == look()[0].id)
    return f"{host}:{next(iter(answers.values()))}"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
        return port


def check_shared(folder: Path) -> None:
    """Check that ``folder``, for the sweep's records and weights, is shared: every node reads and writes in it.

    Raises:
        UnavailableError: some nodes do not; the message names them.
    """
    if len(look()) < 2:
        return
    probe = folder / f".probe-{uuid.uuid4().hex}"
    text = probe.name
    try:
        probe.write_text(text)
        answers = on_each_node(_reads_and_writes, lambda number: (str(probe), text, number), limit_s=SHARED_S)
        silent = {name: answer for name, answer in answers.items() if isinstance(answer, Exception)}
        wrong = [
            name
            for number, (name, answer) in enumerate(answers.items())
            if name not in silent and (answer != "reads and writes" or _text_of(Path(f"{probe}.{number}")) != text)
        ]
    finally:
        for file in folder.glob(f"{probe.name}*"):
            file.unlink(missing_ok=True)
    if wrong:
        raise UnavailableError(
            f"{folder} is not the same folder on {', '.join(wrong)}, or cannot be written there: storage must be "
            "shared by all nodes (NFS, for instance); name such a folder with --storage"
        )
    reasons = [f"node {name}: {answer}" for name, answer in silent.items() if not isinstance(answer, NodeLeft)]
    if reasons:
        raise UnavailableError("\n".join(f"{reason} when asked to read and write {folder}" for reason in reasons))


def check_reach(uri: str) -> None:
    """Check that every node reaches a bucket.

    Raises:
        UnavailableError: some nodes do not; the message has their reasons.
    """
    answers = on_each_node(reaches, lambda number: (uri,), limit_s=SHARED_S)
    wrong = [
        f"node {name}: {answer}"
        for name, answer in answers.items()
        if answer is not True and not isinstance(answer, NodeLeft)
    ]
    if wrong:
        raise UnavailableError("\n".join(wrong))


def _reads_and_writes(probe: str, text: str, number: int) -> str:
    """Run by a node: read the driver's file and write one beside it."""
    if _text_of(Path(probe)) != text:
        return "does not read"
    try:
        Path(f"{probe}.{number}").write_text(text)
    except OSError:
        return "does not write"
    return "reads and writes"


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _start(num_cpus: int | None) -> None:
    import psutil
    import ray

    from sweeper.execution.ray_private import on_loopback

    try:
        temporary = make_ray_folder()
    except OSError as error:
        raise UnavailableError(f"Ray cannot keep its files: {error}") from error
    protect_token()
    before = set(psutil.Process().children(recursive=True))
    for attempt in range(START_ATTEMPTS):
        try:
            # Without "local" Ray joins a cluster that already runs on this machine, for any purpose (Ray 2.60).
            with _own_sigterm(), on_loopback():
                ray.init(address="local", num_cpus=num_cpus, _temp_dir=str(temporary / "ray"), **_silent())
            return
        except Exception as error:  # Ray raises no more specific error here
            ray.shutdown()
            for process in set(psutil.Process().children(recursive=True)) - before:
                with suppress(psutil.Error):
                    process.kill()
            # Its raylet has fixed 30 s to start (Ray 2.60), which a busy machine may exceed.
            if attempt == START_ATTEMPTS - 1 or "timed out" not in str(error):
                raise UnavailableError(
                    f"Ray does not start on this machine: {_last_line(error)} Is the machine very busy, or its memory "
                    f"or {temporary} full? Ray's logs are in the newest folder under {temporary}/ray"
                ) from error


def _join(cluster: ClusterAddress) -> None:
    cluster.reach()
    asks_for_token = cluster.check_token()
    import ray

    import sweeper
    import trainables
    from sweeper.execution import ray_private

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    ray_private.set_token_authentication(asks_for_token)

    modules = [str(Path(str(module.__file__)).parent) for module in (sweeper, trainables)]
    environment = {} if _job_sends_packages() else {"py_modules": modules, "excludes": ["__pycache__"]}
    before = {name: os.environ.get(name) for name in _WHILE_JOINING}
    for name, value in _WHILE_JOINING.items():
        os.environ.setdefault(name, value)
    try:
        # Ray replaces a loopback address by the machine's own, where a Ray of sweeper's own does not listen.
        with _own_sigterm(), ray_private.on_loopback() if _only_on_loopback(cluster) else nullcontext():
            ray.init(address=cluster.text, runtime_env=environment, **_silent())
    except Exception as error:
        # A mismatch of versions is told in several lines, the numbers in the last ones.
        told = " ".join(str(error).split()) if "ismatch" in str(error) else _last_line(error)
        raise UnavailableError(f"cannot join the Ray cluster at {cluster.text}: {told}") from error
    finally:
        _set_variables(before)


def _job_sends_packages() -> bool:
    """Return whether this process is a Ray job whose environment has the packages already (``sweeper submit``).

    Ray refuses a driver's environment that differs from its job's (Ray 2.60).
    """
    job = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    return job is not None and bool(json.loads(job).get("runtime_env", {}).get("py_modules"))


def _only_on_loopback(cluster: ClusterAddress) -> bool:
    """Return whether an address is a loopback address of a Ray that this machine's own address does not lead to."""
    import ray

    host, port = cluster.place
    return host in ("127.0.0.1", "localhost") and not _answers(ray.util.get_node_ip_address(), port)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Restore the caller's SIGTERM handler: Ray 2.60 installs one that aborts with a C++ trace."""
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)


def _silent() -> dict[str, Any]:
    return {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,  # important errors are raised
    }


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]

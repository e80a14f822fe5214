"""The Ray cluster: connecting to it, its resources, the free resources of its nodes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sweeper.errors import UnavailableError, UserError
from sweeper.execution.capacity import NodeResources
from sweeper.execution.private_files import is_own, make_ray_folder, protect_token, ray_folder

CONNECT_S = 2.0
SETTLE_S = 5.0
START_ATTEMPTS = 3
WATCH_S = 1.0
"""Seconds between checks of the processes of Ray that the driver needs."""
LOST_AFTER = {True: 2, False: 15}
"""Whether a process is on this machine -> failed checks in a row after which it counts as gone.

On this machine its port closes at once; another machine may be slow to answer.
"""
UNITS = ("CPU", "GPU")
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
_GCS_WAIT = "RAY_gcs_server_port_wait_time_s"
"""Seconds for which Ray tries to reach the head; 20 by default."""
_CONNECTION_VARIABLES = (*QUIET, "RAY_ADDRESS")
"""Environment variables that ``connect`` sets and ``disconnect`` restores."""
_LONGEST_SOCKET = 107
"""Largest number of bytes in the path of a Unix socket."""
_SOCKET_IN_SESSION = len("/ray/session_2026-01-01_00-00-00_000000_/sockets/plasma_store")
"""Bytes of the path below Ray's temporary folder, without the number of the process (Ray 2.60)."""
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
        joined = _named(address)
        if joined is None:
            _start(num_cpus)
        else:
            _join(*joined)
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


def check_before_start(address: str | None) -> None:
    """Refuse settings with which Ray would fail after seconds, or without a helpful message. Nothing is started.

    Raises:
        UserError: the address has another form.
        UnavailableError: nobody answers at the address, or a Ray of sweeper's own cannot store its files.
    """
    joined = _named(address)
    if joined is not None:
        _reach(*joined)
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
    return _named(address) is not None


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


def nodes() -> list[NodeResources]:
    """Return the free resources of the nodes of the connected cluster.

    Waits a few seconds for resources in use: a sweep that was just killed holds its share for a moment.
    """
    import ray

    from sweeper.execution.ray_private import available_resources_per_node

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
    """Check that ``folder``, for the sweep's records and weights, is shared: write a file that every other node reads.

    Raises:
        UnavailableError: some nodes do not see the file; the message names them.
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


def _named(address: str | None) -> tuple[str, str] | None:
    """Return the address of the cluster to join, and the source of the address; None for a Ray of sweeper's own."""
    if address is not None:
        return address, "--address"
    variable = os.environ.get("RAY_ADDRESS", "")  # a Ray job finds its cluster there
    return None if variable in ("", "local") else (variable, "the environment variable RAY_ADDRESS")


def _parsed(address: str, named_by: str) -> tuple[str, int]:
    """Return host and port.

    Raises:
        UserError: the address has another form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "://" in address:
        own = "" if named_by.startswith("--") else ", or unset it for a Ray of sweeper's own"
        raise UserError(
            f"{named_by} {address!r} is not of the form host:port; give the address of the head's GCS, for instance "
            f"10.0.0.1:6379 (`ray start --head` prints it){own}"
        )
    return host, int(port)


def _reach(address: str, named_by: str) -> None:
    """Check that a cluster answers at an address.

    Raises:
        UserError: the address has another form.
        UnavailableError: nobody answers there.
    """
    try:
        socket.create_connection(_parsed(address, named_by), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        own = "" if named_by.startswith("--") else f" {named_by} names it: unset it for a Ray of sweeper's own"
        raise UnavailableError(
            f"no Ray cluster answers at {address} ({error}); is it up (`ray start --head`), and is this the GCS "
            f"address and port it printed?{own}"
        ) from error


def _join(address: str, named_by: str) -> None:
    _reach(address, named_by)
    import ray

    import sweeper
    import trainables
    from sweeper.execution.ray_private import on_loopback, token_authentication

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    token_authentication()(warn_if_disabled=False)

    modules = [str(Path(str(module.__file__)).parent) for module in (sweeper, trainables)]
    environment = {"py_modules": modules, "excludes": ["__pycache__"]}
    wait_before = os.environ.get(_GCS_WAIT)
    os.environ.setdefault(_GCS_WAIT, "3")
    try:
        # Ray replaces a loopback address by the machine's own, where a Ray of sweeper's own does not listen.
        with _own_sigterm(), on_loopback() if _only_on_loopback(address, named_by) else nullcontext():
            ray.init(address=address, runtime_env=environment, **_silent())
    except Exception as error:
        said = f"{error} {error.__cause__} {error.__context__}"
        if "token" in said.lower() or "auth" in said.lower():
            raise UnavailableError(
                f"the Ray cluster at {address} refuses the token of this machine (RAY_AUTH_MODE is "
                f"{os.environ.get('RAY_AUTH_MODE', 'unset')}): put the cluster's own token into ~/.ray/auth_token, or "
                "name its file in RAY_AUTH_TOKEN_PATH"
            ) from error
        raise UnavailableError(f"cannot join the Ray cluster at {address}: {_last_line(error)}") from error
    finally:
        _set_variables({_GCS_WAIT: wait_before})


def _only_on_loopback(address: str, named_by: str) -> bool:
    """Return whether an address is a loopback address of a Ray that this machine's own address does not lead to."""
    import ray

    host, port = _parsed(address, named_by)
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

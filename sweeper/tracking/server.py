"""The MLflow server of ``sweeper ui``, and links to the pages of sweeps and their fronts."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from sweeper.commands import command
from sweeper.errors import UnavailableError, UserError
from sweeper.secrets import without_secrets
from sweeper.tracking import server_process
from sweeper.tracking.moved import bring_home
from sweeper.tracking.runs import Runs, Store, find_runs, find_store

_START_S = 180.0
_PORTS = 100


def ui(
    storage: Path, name: str | None, tracking_uri: str | None, host: str, port: int, echo: Callable[[str], None]
) -> None:
    """Start ``mlflow server`` on the store of the sweeps and echo links to them; return after Ctrl-C.

    If the store is a server already, only the links are echoed.

    Args:
        name: a sweep; None: all sweeps in ``storage``.

    Raises:
        UserError: the name or store has no runs.
        UnavailableError: the server does not start.
    """
    store = find_store(storage, tracking_uri)
    sweeps = _sweeps(storage, name, store)
    if (moved := bring_home(store)) is not None:
        echo(moved)
    if store.is_server:
        _echo_links(sweeps, store.shown_uri, echo)
        return
    free = free_port(host, port)
    if free != port:
        echo(f"port {port} is taken, using {free}")
    echo(f"starting mlflow server on {store.shown_uri} (about 20 s)")
    with _signals_as_ctrl_c(), serving(store, storage, host, free) as server:
        local = "localhost" if host in ("0.0.0.0", "::") else host
        _echo_links(sweeps, f"http://{local}:{free}", echo)
        echo("from another machine, first:")
        echo(f"  ssh -N -L {free}:{'127.0.0.1' if local == 'localhost' else local}:{free} {_account()}")
        echo("Ctrl-C ends the server")
        with contextlib.suppress(KeyboardInterrupt):
            code = server.wait()
            raise UnavailableError(f"mlflow server ended by itself with exit code {code}; see {_log(storage)}")


def _sweeps(storage: Path, name: str | None, store: Store) -> dict[str, Runs]:
    if name is not None and ("/" in name or not (storage / name).is_dir()):
        raise UserError(
            f"no sweep {name!r} in {storage}; `{command('list', storage=storage)}` shows the existing sweeps"
        )
    folders = [storage / name] if name is not None else sorted(path for path in storage.glob("*/") if path.is_dir())
    known = {folder.name: runs for folder in folders if (runs := find_runs(folder)) is not None}
    in_store = {sweep: runs for sweep, runs in known.items() if runs.uri == store.shown_uri}
    if in_store:
        return in_store
    elsewhere = sorted({runs.uri for runs in known.values()})
    if elsewhere:
        raise UserError(f"tracked elsewhere: try --tracking-uri {' or --tracking-uri '.join(elsewhere)}")
    what = f"sweep {name!r} has" if name is not None else f"the sweeps in {storage} have"
    raise UserError(
        f"{what} no MLflow runs yet; start one with `{command('run', 'SPEC', storage=storage)}`, or wait a "
        "few seconds after its start"
    )


def _echo_links(sweeps: dict[str, Runs], base: str, echo: Callable[[str], None]) -> None:
    first = next(iter(sweeps.values()))
    echo("all sweeps:")
    echo(f"  {first.experiment_link(base)}")
    for name, runs in sweeps.items():
        echo(f"{name}:")
        for what, address in runs.links(base).items():
            echo(f"  {what + ':':20} {address}")


def free_port(host: str, port: int) -> int:
    """Return the first free port from ``port`` on.

    Raises:
        UnavailableError: none of the next hundred ports is free.
        UserError: the port needs root's rights, or the host is not this machine.
    """
    for candidate in range(port, min(port + _PORTS, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except PermissionError as error:
                raise UserError(f"port {candidate} needs root's rights; choose one above 1023") from error
            except socket.gaierror as error:
                raise UserError(f"host {host!r} is not an address of this machine: {error.strerror}") from error
            except OSError:
                continue
            return candidate
    raise UnavailableError(f"no free port from {port} to {port + _PORTS - 1} on {host}; choose another with --port")


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Turn SIGTERM and, unless it is ignored (nohup), SIGHUP (closed terminal) into KeyboardInterrupt in the block."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, *hangup)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def serving(store: Store, storage: Path, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run an ``mlflow server`` inside the context; it logs to ``<storage>/mlflow-server.log``.

    Raises:
        UnavailableError: it does not answer within three minutes.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    if store.artifacts is not None:
        command += ["--artifacts-destination", str(store.artifacts)]
    # MLflow's jobs (judges) would cost a second process, and no command needs them.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Not on the command line, which every user of the machine sees: it may hold a password.
    address = {"MLFLOW_BACKEND_STORE_URI": store.uri}
    with _log(storage).open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-I", server_process.__file__, *command],
            cwd=storage,
            env={**os.environ, **quiet, **address},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is for this process
        )
    try:
        _wait(server, f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/health", _log(storage), store)
        yield server
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(timeout=3 * server_process.END_S)


def _wait(server: subprocess.Popen[bytes], address: str, log: Path, store: Store) -> None:
    deadline = time.monotonic() + _START_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with opener.open(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    tail = without_secrets("\n".join(log.read_text(errors="replace").splitlines()[-5:]), store.uri)
    raise UnavailableError(f"mlflow server does not answer at {address}; the end of {log}:\n{tail}")


def _log(storage: Path) -> Path:
    return storage / "mlflow-server.log"


def _account() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return socket.gethostname()
